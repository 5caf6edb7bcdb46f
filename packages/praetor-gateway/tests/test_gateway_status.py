# SPDX-License-Identifier: Apache-2.0
"""Parts of statuses: the events of a step, debouncing, the status of a switch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from attrs import evolve

from gateway_testing import process_row, switch_row
from praetor_api.kube.objects import NetworkSwitchStatus, Phase, ProcessCounts
from praetor_api.protocol import Observation
from praetor_api.spec import RestartPolicy
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.status import events
from praetor_gateway.status.composer import patch_of_switch
from praetor_gateway.status.merge import merge
from praetor_gateway.status.pending import PROGRESS_DEBOUNCE_S, RESULT_DEBOUNCE_S, debounce_s
from praetor_gateway.status.switch import SwitchFacts, counts, merge_switch

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def seen(**fields: Any) -> Observation:
    return Observation(**{"name": "agent-leaf-1", "observed_spec_hash": process_row().spec_hash, **fields})


def up(**changes: Any) -> Observation:
    return seen(**{"process_started": True, "healthy": True, "pid": 1, **changes})


UP = up()


def after(row: CachedProcess, observation: Observation | None, connected: bool | None = True) -> CachedProcess:
    return evolve(row, status=merge(row, observation, connected=connected, now=NOW))


def step(name: str, row: CachedProcess, then: Observation, *expected: str) -> ParameterSet:
    return pytest.param(row, then, set(expected), id=name)


RUNNING = after(process_row(), UP)
NEVER = process_row(restart_policy=RestartPolicy.NEVER)
NEXT = process_row(parts=(b'{"b":', b"}"), generation=3)
UPDATED = evolve(NEXT, status=RUNNING.status)
STARTED = after(UPDATED, up(observed_spec_hash=NEXT.spec_hash, healthy=None))


@pytest.mark.parametrize(
    ("row", "then", "expected"),
    [
        step("first", process_row(), UP, "SpecObserved", "ProcessStarted", "Healthy", "AgentConnected"),
        step("nothing-new", RUNNING, UP),
        step("unhealthy", RUNNING, up(healthy=False), "Unhealthy"),
        step("failed", RUNNING, seen(process_started=False, error_message="boom"), "ProcessFailed", "Unhealthy"),
        step("restarted", RUNNING, up(pid=2, restart_count=1), "ProcessRestarted"),
        step("completed", after(NEVER, UP), seen(exit_code=0), "ProcessSucceeded"),
        step("never-failed", after(NEVER, UP), seen(exit_code=4, process_started=True), "ProcessFailed"),
        step("still-unhealthy", after(process_row(), up(healthy=False)), up(healthy=False, error_message="worse")),
        step("not-checked-yet", RUNNING, up(healthy=None)),
        step(
            "new-version-not-checked-yet", UPDATED, up(observed_spec_hash=NEXT.spec_hash, healthy=None), "SpecObserved"
        ),
        step("replaced", UPDATED, seen(observed_spec_hash=RUNNING.spec_hash, process_started=False)),
        step("new-version-unhealthy", STARTED, up(observed_spec_hash=NEXT.spec_hash, healthy=False), "Unhealthy"),
        step("warned", RUNNING, up(warning_message="w"), "SpecWarning"),
        step("updates-held", RUNNING, up(update_held_message="frozen"), "UpdateHeld"),
        step("updates-released", after(process_row(), up(update_held_message="frozen")), UP, "UpdateReleased"),
        step("next-spec", UPDATED, up(observed_spec_hash=NEXT.spec_hash), "SpecObserved"),
    ],
)
def test_events_report_transitions_only(row: CachedProcess, then: Observation, expected: set[str]) -> None:
    new = merge(row, then, connected=True, now=NOW)
    assert {each.reason for each in events.of_process(row.status, new, has_switch=False)} == expected


def test_a_lost_connection_is_reported_on_the_switch_if_there_is_one() -> None:
    row = after(process_row(), UP)
    lost = merge(row, None, connected=False, now=NOW)
    assert [each.reason for each in events.of_process(row.status, lost, has_switch=False)] == ["AgentDisconnected"]
    assert events.of_process(row.status, lost, has_switch=True) == ()


def test_failures_are_not_debounced_and_progress_waits_longer_than_results() -> None:
    up = after(process_row(), UP)
    down = after(up, seen(process_started=False, error_message="x"))
    sick = after(up, seen(process_started=True, healthy=False, pid=1))
    waiting = after(process_row(), seen(artifact_downloaded=True))
    assert debounce_s(up.status, down.status) == 0.0
    assert debounce_s(up.status, sick.status) == 0.0
    assert debounce_s(waiting.status, up.status) == RESULT_DEBOUNCE_S
    assert debounce_s(waiting.status, after(waiting, seen(artifact_verified=True)).status) == PROGRESS_DEBOUNCE_S


NONE, ONE = ProcessCounts(desired=0, running=0, healthy=0), ProcessCounts(desired=1, running=0, healthy=0)


def test_a_switch_without_new_facts_keeps_its_status() -> None:
    row = switch_row(status=NetworkSwitchStatus(agent_version="1", observed_generation=1), generation=9)
    assert merge_switch(row, SwitchFacts(), NOW) is row.status
    assert patch_of_switch(row, row.status, None) is None
    assert merge_switch(row, SwitchFacts(processes=NONE), NOW) is row.status


def test_what_an_agent_reports_of_itself_is_written_to_its_switch() -> None:
    row = switch_row(generation=9)
    status = merge_switch(
        row,
        SwitchFacts(agent_version="2", boot_id="b", facts={"os": "x"}, processes=ONE, connected=True),
        NOW,
    )
    assert (status.agent_version, status.boot_id, status.facts) == ("2", "b", {"os": "x"})
    assert (status.processes, status.observed_generation) == (ONE, 9)
    emptied = merge_switch(evolve(row, status=status), SwitchFacts(processes=NONE), NOW)
    assert emptied.processes == NONE
    patch = patch_of_switch(evolve(row, status=status), emptied, None)
    assert patch is not None
    assert patch.body["status"] == {"processes": {"desired": 0}}


def test_counts_of_zero_are_written() -> None:
    status = merge_switch(switch_row(), SwitchFacts(processes=ONE), NOW)
    patch = patch_of_switch(switch_row(), status, None)
    assert patch is not None
    assert patch.body["status"]["processes"] == {"desired": 1, "running": 0, "healthy": 0}


def test_counts_say_how_many_run_and_are_healthy() -> None:
    rows = (after(process_row(), UP), process_row(), after(process_row(), seen(process_started=True, healthy=False)))
    assert rows[2].status.phase is Phase.RUNNING
    assert counts(rows) == ProcessCounts(desired=3, running=2, healthy=1)
