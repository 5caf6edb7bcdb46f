# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from praetor_agent.core.health import STARTUP_PERIOD_SECONDS, Health, fault, probed, started
from praetor_api.spec import ExecProbe, HealthCheck, HttpGetProbe, TcpSocketProbe


def check(*, success: int = 1, failure: int = 3, period: int = 10) -> HealthCheck:
    probe = ExecProbe(command=("/bin/true",))
    return HealthCheck(exec=probe, period_seconds=period, success_threshold=success, failure_threshold=failure)


def after(results: str, given_check: HealthCheck) -> Health:
    """Return the health after one probe a period: `+` for a success, `-` for a failure."""
    health, now = started("h", 0), 0.0
    for result in results:
        health = probed(health, given_check, None if result == "+" else "exit status 1", now)
        now += given_check.period_seconds
    return health


EXEC, HTTP, TCP = ExecProbe(command=("true",)), HttpGetProbe(port=80), TcpSocketProbe(port=80)


@pytest.mark.parametrize(
    ("given_check", "holds"),
    [
        (None, True),
        (HealthCheck(exec=EXEC), True),
        (HealthCheck(http_get=HTTP), True),
        (HealthCheck(tcp_socket=TCP), True),
        (HealthCheck(), False),
        (HealthCheck(exec=EXEC, tcp_socket=TCP), False),
        (HealthCheck(http_get=HTTP, tcp_socket=TCP), False),
    ],
)
def test_a_health_check_is_exactly_one(given_check: HealthCheck | None, holds: bool) -> None:
    sentence = "healthCheck: write exactly one of exec, httpGet and tcpSocket"
    assert fault(given_check) == (None if holds else sentence)


def test_nothing_is_known_before_the_first_result() -> None:
    assert started("h", 5) == Health(handle="h", next_at=5, healthy=None, since=5)


def test_probes_are_quick_until_something_is_known_but_failures_count_once_a_period() -> None:
    health, given_check = started("h", 0), check(failure=2)
    for now in (0.0, 2.0, 4.0, 6.0, 8.0):
        health = probed(health, given_check, "no", now)
        assert health.next_at == now + STARTUP_PERIOD_SECONDS
        assert health.healthy is None
    assert probed(health, given_check, "no", 10.0).healthy is False


def test_a_known_process_is_probed_once_a_period() -> None:
    assert probed(started("h", 0), check(period=30), None, 7).next_at == 37


def test_failures_do_not_count_within_the_startup_grace_which_the_first_success_ends() -> None:
    patient = replace(check(failure=1), startup_grace_seconds=60)
    health = probed(started("h", 100, since=90), patient, "no", 149)
    assert (health.healthy, health.failures) == (None, 0)
    assert probed(health, patient, "no", 150).healthy is False
    ready = probed(health, patient, None, 120)
    assert probed(ready, patient, "no", 130).healthy is False


def test_what_was_healthy_before_the_agent_restarted_stays_so_until_its_probes_fail() -> None:
    known = started("h", 100, since=50, healthy=True)
    assert probed(known, check(failure=2), "no", 100).healthy is True


def test_the_message_is_of_the_last_failure_only() -> None:
    health = probed(started("h", 0), check(), "exit status 1", 0)
    assert health.message == "exit status 1"
    assert probed(health, check(), None, 1).message is None


def test_what_a_probe_says_follows_how_it_ended_at_once() -> None:
    health = probed(started("h", 0), check(), "exit status 1: at 10:00:01", 0)
    assert health.message == "exit status 1: at 10:00:01"
    assert probed(health, check(), "exit status 2: at 10:00:02", 1).message == "exit status 2: at 10:00:02"
    assert probed(health, check(), "exit status 1", 1).message == health.message


def test_other_words_of_a_probe_are_said_once_a_minute_and_other_numbers_never() -> None:
    health, said = started("h", 0), []
    for now in range(0, 200, 10):
        problem = f"exit status 1: at {now}: {'refused' if now < 15 else f'no answer {chr(97 + now // 10)}'}"
        health = probed(health, check(), problem, float(now))
        said.append(health.message)
    changes = [index * 10 for index in range(1, len(said)) if said[index] != said[index - 1]]
    assert (said[0], changes) == ("exit status 1: at 0: refused", [60, 120, 180])
    assert said[-1] == "exit status 1: at 180: no answer s"
    for now in range(190, 400, 10):
        health = probed(health, check(), f"exit status 1: at {now}: no answer s", float(now))
    assert health.message == said[-1]


@given(st.text("+-", max_size=60), st.integers(1, 4), st.integers(1, 4))
@example("+", 1, 3)
@example("+--", 1, 3)
@example("+---", 1, 3)
@example("+--+--", 1, 3)
@example("---+-+", 2, 3)
@example("---++", 2, 3)
@example("--", 1, 3)
@example("---", 1, 3)
def test_health_is_what_the_last_long_enough_run_says(results: str, success: int, failure: int) -> None:
    expected: bool | None = None
    for index in range(len(results)):
        seen = results[: index + 1]
        if seen.endswith("+" * success):
            expected = True
        elif seen.endswith("-" * failure):
            expected = False
    assert after(results, check(success=success, failure=failure)).healthy is expected
