# SPDX-License-Identifier: Apache-2.0
"""Times of the controller's own: when it saw what a process shows, whatever times stand there."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_controller.model.projection import project_process
from praetor_controller.model.rows import ProcessRow
from praetor_controller.reconcile.cache import first_seen

THEN, LATER, WRONG = "2026-01-01T12:00:00Z", "2026-01-01T12:00:09Z", "1970-01-01T00:00:00Z"
CONDITIONS = ("AgentConnected", "SpecObserved", "ProcessStarted", "Healthy")


def seen(at: float, *known: ProcessRow, generation: int = 1, uid: str = "u", **changes: Any) -> ProcessRow:
    """Return the row of a ready process as it is seen *at* that time; *changes* are conditions, or of the status."""
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": THEN} | changes.pop(kind, {}) for kind in CONDITIONS
    ]
    status = {"phase": "Running", "observedGeneration": generation, "startTime": THEN, "conditions": conditions}
    metadata = {"name": "a", "namespace": "lab", "uid": uid, "generation": generation}
    spec = {"deviceRef": {"name": "a"}}
    obj = {"metadata": metadata, "spec": spec, "status": status | changes}
    return project_process(obj, lambda uid, stamps: first_seen(uid, stamps, known, at))


def silent(since: str = LATER) -> dict[str, Any]:
    return {"AgentConnected": {"status": "False", "lastTransitionTime": since, "observedGeneration": 1}}


def exited(restarts: int, start: str, since: str = LATER) -> dict[str, Any]:
    started = {"status": "False", "reason": "Exited", "message": "exit code 1", "lastTransitionTime": since}
    stopped = {"status": "False", "lastTransitionTime": since}
    ended = {"ProcessStarted": started, "Healthy": stopped, "phase": "Pending"}
    return ended | {"startTime": start, "restartCount": restarts}


def test_what_is_unchanged_is_as_old_as_it_was() -> None:
    first = seen(10)
    assert (first.offered_at, first.ready_since, first.settled_since) == (10, 10, 10)
    again = seen(20, first, restartCount=1)
    assert (again.offered_at, again.ready_since, again.settled_since) == (10, 10, 10)
    assert seen(30, seen(25, again, uid="other"), again).ready_since == 10
    assert seen(30, again, uid="other").ready_since == 30


@pytest.mark.parametrize("kind", ["AgentConnected", "SpecObserved", "Healthy"])
@pytest.mark.parametrize("since", [LATER, WRONG])
def test_a_transition_that_was_not_watched_counts_from_when_its_trace_is_seen(kind: str, since: str) -> None:
    changed: dict[str, Any] = {kind: {"lastTransitionTime": since}}
    assert seen(20, seen(10), **changed).ready_since == 20


def test_a_new_spec_begins_anew() -> None:
    row = seen(20, seen(10), generation=2)
    assert (row.offered_at, row.ready_since, row.settled_since) == (20, 20, 20)


def test_a_device_that_went_silent_did_so_when_it_was_seen() -> None:
    gone = seen(50, seen(10), **silent(WRONG))
    assert (gone.ready_since, gone.settled_since, gone.silent_since) == (None, 10, 50)
    assert seen(60, gone, **silent(WRONG)).silent_since == 50
    assert seen(60, gone).silent_since is None


def test_one_that_is_silent_when_it_is_seen_first_may_have_been_so_for_long() -> None:
    first = seen(10, **silent())
    assert (first.settled_since, first.silent_since) == (10, None)
    assert seen(20, first, **silent()).silent_since is None
    assert seen(30, seen(20, first), **silent(WRONG)).silent_since == 30


@pytest.mark.parametrize(("ran_s", "failure"), [(1.0, "ended 3 times: exit code 1"), (STABILITY_WINDOW_SECONDS, "")])
@pytest.mark.parametrize("start", [THEN, WRONG])
def test_how_long_a_run_lasted_is_measured_here(ran_s: float, failure: str, start: str) -> None:
    run = seen(10, seen(5), startTime=start, restartCount=2)
    ended = seen(10 + ran_s, run, **exited(2, start))
    assert ended.failure == failure
    assert seen(9000, ended, **exited(2, start)).failure == failure


def test_a_run_that_was_not_seen_was_short_and_one_from_before_may_have_been_long() -> None:
    known = seen(10, seen(5), restartCount=1)
    assert seen(11, known, **exited(2, LATER)).failure == "ended 3 times: exit code 1"
    first = seen(10, **exited(2, THEN))
    assert first.failure == ""
    again = seen(12, first, **exited(2, THEN) | {"pid": 0})
    assert again.failure == ""
    assert seen(15, again, **exited(3, LATER, "2026-01-01T12:00:15Z")).failure == "ended 4 times: exit code 1"


def test_another_failure_does_not_depend_on_how_long_it_ran() -> None:
    row = seen(10, **exited(5, THEN) | {"phase": "Failed", "lastTerminationReason": "Error"})
    assert row.failure == "phase Failed: Error"
    assert evolve(row, failure="") != row
