# SPDX-License-Identifier: Apache-2.0
"""The progress of a rollout: verdicts for scripts, bars and lines for users."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_controller.ctl.errors import ExitCode
from praetor_controller.ctl.progress import Progress, Verdict, as_data, bar, final_line, line, progress

ROLLED_OUT = ("Progressing", "True", "NewRevisionRolledOut")


def deployment(*conditions: tuple[str, str, str], observed: int = 2, **status: Any) -> dict[str, Any]:
    stated = [{"type": kind, "status": value, "reason": reason, "message": "m"} for kind, value, reason in conditions]
    return {
        "metadata": {"name": "tel", "generation": 2},
        "status": {"observedGeneration": observed, "conditions": stated, **status},
    }


@pytest.mark.parametrize(
    ("obj", "code", "reason"),
    [
        pytest.param(deployment(ROLLED_OUT), ExitCode.DONE, "NewRevisionRolledOut", id="done"),
        pytest.param(deployment(ROLLED_OUT, observed=1), ExitCode.IN_PROGRESS, "NotObserved", id="older-spec-done"),
        pytest.param(deployment(("Progressing", "False", "X")), ExitCode.FAILED, "X", id="deadline"),
        pytest.param(
            deployment(("Progressing", "False", "X"), ("Paused", "True", "TooManyFailures")),
            ExitCode.FAILED,
            "X",
            id="stopped-by-its-failure-policy",
        ),
        pytest.param(
            deployment(("RolledBack", "True", "Y"), ROLLED_OUT), ExitCode.FAILED, "RolledBack", id="rolled-back"
        ),
        pytest.param(
            deployment(("Progressing", "Unknown", "X"), ("Paused", "True", "X")), ExitCode.PAUSED, "X", id="paused"
        ),
        pytest.param(
            deployment(("Paused", "False", "X"), ("Progressing", "True", "Y")),
            ExitCode.IN_PROGRESS,
            "Y",
            id="under-way",
        ),
        pytest.param(deployment(), ExitCode.IN_PROGRESS, "", id="no-conditions-yet"),
        pytest.param({"metadata": {"name": "tel", "generation": 1}}, ExitCode.IN_PROGRESS, "NotObserved", id="new"),
    ],
)
def test_verdicts(obj: dict[str, Any], code: ExitCode, reason: str) -> None:
    state = progress(obj)
    assert (state.verdict, state.exit_code, state.reason) == (Verdict[code.name], code, reason)


def test_counts_and_reasons_are_on_the_line() -> None:
    state = progress(
        deployment(
            ("Progressing", "True", "RolloutInProgress"),
            desiredNumberScheduled=10,
            updatedNumberScheduled=5,
            reasons={"UpToDate": 3, "Updating": 2, "BudgetExhausted": 3, "OfflineSince": 2},
        )
    )
    counts = "3/10 up to date, 3 BudgetExhausted, 2 OfflineSince, 2 Updating"
    assert line(state) == f"tel [#########oooooo.........------] {counts}"
    assert final_line(state) == "tel: under way: m"
    assert as_data(state)["upToDate"] == 3


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ({"Failing": 2, "BudgetExhausted": 8}, "cannot move, 0/10 up to date, 8 BudgetExhausted, 2 Failing"),
        ({"Failing": 1, "WaitingForWave": 8, "OfflineSince": 1}, "cannot move, "),
        ({"SilentSinceOffer": 2, "BudgetExhausted": 8}, "cannot move, "),
        ({"Failing": 10}, "cannot move, "),
        ({"Failing": 2, "Updating": 1, "BudgetExhausted": 7}, "0/10 up to date, "),
        ({"Failing": 2, "BecomingAvailable": 1, "WaitingForWave": 7}, "0/10 up to date, "),
        ({"BudgetExhausted": 10}, "0/10 up to date, "),
    ],
)
def test_a_rollout_that_failing_devices_hold_up_says_that_it_cannot_move(reasons: dict[str, int], words: str) -> None:
    obj = deployment(("Progressing", "True", "RolloutInProgress"), desiredNumberScheduled=10, reasons=reasons)
    assert line(progress(obj)).startswith(f"tel {bar(progress(obj))} {words}")


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (None, "waves canary > rack > (rest)"),
        ("canary", "waves [canary] > rack > (rest)"),
        ("last", "waves canary > rack > [(rest)]"),
    ],
)
def test_waves_are_shown_in_order(wave: str | None, words: str) -> None:
    obj = deployment(("Progressing", "True", "RolloutInProgress"), wave=wave)
    obj["spec"] = {"updateStrategy": {"rollingUpdate": {"waves": [{"name": "canary"}, {"name": "rack"}]}}}
    assert line(progress(obj)).endswith("; " + words)


def test_an_unusual_reason_is_on_the_line() -> None:
    assert line(progress(deployment(("Progressing", "True", "WaitingForDeletion")))).endswith("; WaitingForDeletion")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.DONE, "tel: rolled out"),
        (Verdict.FAILED, "tel: failed (R)"),
        (Verdict.PAUSED, "tel: paused (R)"),
        (Verdict.IN_PROGRESS, "tel: under way"),
    ],
)
def test_the_last_line_states_the_outcome(verdict: Verdict, words: str) -> None:
    assert final_line(Progress(name="tel", verdict=verdict, reason="R", message="")) == words
    assert final_line(Progress(name="tel", verdict=verdict, reason="R", message="why")) == words + ": why"


COUNT = st.integers(0, 50)


@given(desired=COUNT, up=COUNT, updated=COUNT, deferred=COUNT, width=st.integers(1, 60))
def test_a_bar_always_has_its_width(desired: int, up: int, updated: int, deferred: int, width: int) -> None:
    state = Progress(
        name="tel", verdict=Verdict.IN_PROGRESS, reason="", message="",
        desired=desired, up_to_date=up, updated=updated, deferred=deferred,
    )  # fmt: skip
    assert len(bar(state, width)) == width + 2


@given(desired=st.integers(1, 50), up=COUNT)
def test_a_full_bar_means_that_all_are_up_to_date(desired: int, up: int) -> None:
    up = min(up, desired)
    state = Progress(name="tel", verdict=Verdict.DONE, reason="", message="", desired=desired, up_to_date=up)
    assert (bar(state) == f"[{'#' * 30}]") is (up == desired)
