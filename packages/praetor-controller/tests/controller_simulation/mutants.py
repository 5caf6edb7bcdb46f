# SPDX-License-Identifier: Apache-2.0
"""Mutants: small faults of the real controller, each with an invariant that it breaks, and a short trace that shows it.

Where two parts of the controller keep an invariant each by itself, a mutant breaks both.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, TypeAlias

from attrs import frozen

from controller_simulation.trace import Step, Trace
from praetor_controller.model import specs
from praetor_controller.reconcile.file_digests import FileDigests
from praetor_controller.reconcile.reconciler import DeploymentReconciler
from praetor_controller.reconcile.revision_history import RevisionHistory
from praetor_controller.reconcile.snapshot_builder import build_snapshot
from praetor_controller.rollout import (
    admission,
    assignment,
    availability,
    budgets,
    failure_policy,
    incremental,
    planner,
    removals,
    status,
    verdicts,
    waves,
)

Change: TypeAlias = tuple[Callable[..., Any], str, str]
"""A function, a part of its source that occurs once, and what stands there in the mutant."""


@frozen(kw_only=True)
class Mutant:
    """*changes* of the controller after which *trace* violates *invariant*; *fault* says in words what is wrong.

    *ends*: it is violated when the fleet is to converge after the trace.
    """

    invariant: str
    fault: str
    changes: tuple[Change, ...]
    trace: Trace
    ends: bool = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Change the controller, for all who have imported it, until the context is left."""
        codes = [(function, function.__code__, _changed(function, old, new)) for function, old, new in self.changes]
        for function, _, changed in codes:
            function.__code__ = changed
        try:
            yield
        finally:
            for function, original, _ in codes:
                function.__code__ = original


def _changed(function: Callable[..., Any], old: str, new: str) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise ValueError(f"{function.__qualname__} has {source.count(old)} times: {old}")
    made = compile("from __future__ import annotations\n" + source.replace(old, new), "<mutant>", "exec")
    return next(each for each in made.co_consts if isinstance(each, CodeType) and each.co_name == function.__name__)


def _of(made: type, name: str) -> Callable[..., Any]:
    """Return the function of a property or of a class method."""
    found = inspect.getattr_static(made, name)
    function: Callable[..., Any] = getattr(found, "fget" if isinstance(found, property) else "__func__")
    return function


def begin(size: int = 4, **given: Any) -> Step:
    """Return the first step: devices, rings and racks are those of the search; all have v1."""
    fields = {
        "limit": 4, "min_ready": 0, "action": "Pause", "failures": 8, "soak": 0, "first": None, "threshold": 100,
        "rack": 8, "shared": True,
    }  # fmt: skip
    return "begin", {"size": size} | fields | given


def edit(version: str, name: str = "tel") -> Step:
    return "edit_or_undo", {"name": name, "version": version}


def override(arm: str | None, name: str = "tel") -> Step:
    return "override", {"name": name, "arm": arm, "rounds": 0}


def refer(name: str = "tel") -> Step:
    return "refer", {"name": name, "refers": True, "rounds": 0}


def relabel_cpu(cpu: str, *numbers: int) -> Step:
    return "relabel_the_cpu", {"names": [f"leaf-{number}" for number in numbers], "cpu": cpu}


def device(step: str, number: int, **given: Any) -> Step:
    return step, {"name": f"leaf-{number}"} | given


def go_on(rounds: int = 1) -> Step:
    return "go_on", {"rounds": rounds}


def storm(*numbers: int) -> Step:
    return "fall_silent", {"names": [f"leaf-{number}" for number in numbers]}


REPORT: Step = "report", {"name": None}
DETECT: Step = "detect_failures", {}
WAIT: Step = "wait", {"seconds": 10}
APPROVE: Step = "approve", {}

_NEEDED, _CONTEXT = _of(waves._Members, "needed"), _of(verdicts.Context, "of")

MUTANTS = (
    Mutant(
        invariant="max_unavailable_holds",
        fault="one device more than maxUnavailable is let down",
        changes=((admission.admit, "room = limit - spent", "room = limit - spent + 1"),),
        trace=[begin(limit=1), edit("v2")],
    ),
    Mutant(
        invariant="every_budget_holds",
        fault="a failure domain has one place more than its budget",
        changes=((budgets._Budget.full, "if with_it > self._limit(domain)", "if with_it > self._limit(domain) + 1"),),
        trace=[begin(rack=1), edit("v2", "ctl")],
    ),
    Mutant(
        invariant="one_process_for_each_device",
        fault="a process that did not report yet is not seen",
        changes=(
            (build_snapshot, "if row.owner == uid and", "if row.owner == uid and row.reported and"),
            (verdicts._gate_of_creation, 'if f"{name}/{wanted}" in snapshot.occupied', "if False"),
        ),
        trace=[begin(size=2), ("delete_by_hand", {"name": "ctl", "device": "leaf-0"})],
    ),
    Mutant(
        invariant="paused_means_no_writes",
        fault="spec.paused is not asked for",
        changes=(
            (_CONTEXT, "paused=policy.paused", "paused=False"),
            (planner._planned, "withheld = deployment.policy.paused or", "withheld ="),
        ),
        trace=[begin(), ("pause", {"name": "tel", "paused": True}), edit("v2")],
    ),
    Mutant(
        invariant="on_delete_waits_for_the_deletion",
        fault="OnDelete is taken for Recreate",
        changes=((verdicts._gate, "if context.strategy is _ON_DELETE", "if False"),),
        trace=[begin(), ("change_the_strategy", {"name": "tel", "kind": "OnDelete"}), edit("v2")],
    ),
    Mutant(
        invariant="maintenance_is_respected",
        fault="maintenance is not asked for",
        changes=((verdicts._gate_of_update, "if device.in_maintenance and", "if False and"),),
        trace=[begin(), device("maintain", 0, on=True), edit("v2")],
    ),
    Mutant(
        invariant="held_devices_are_deferred",
        fault="that a device holds updates is not asked for",
        changes=((verdicts._gate_of_update, "if process.held and", "if False and"),),
        trace=[begin(), device("hold_updates", 0, held=True), REPORT, edit("v2")],
    ),
    Mutant(
        invariant="requirements_are_respected",
        fault="the requirements are not asked for",
        changes=((verdicts._gate_of_update, "if device.unmet and", "if False and"),),
        trace=[begin(), ("require", {"name": "tel", "version": "12"}), edit("v2")],
    ),
    Mutant(
        invariant="a_device_is_given_what_its_labels_ask_for",
        fault="overrides are not applied to what is written",
        changes=((specs.Specs.of, "if number is None else", "if True else"),),
        trace=[begin(), override("v2"), edit("v3")],
    ),
    Mutant(
        invariant="a_stopped_revision_is_offered_to_no_device",
        fault="a device that failed and has other labels since counts no more",
        changes=(
            (
                failure_policy.stopped,
                "(updated.all[number] or process.revision == deployment.template.revision)",
                "updated.all[number]",
            ),
        ),
        trace=[
            begin(size=7, limit=2, rack=1, failures=1, action="Rollback", soak=30, first="50%", min_ready=20),
            ("an_override_changes_no_canary", {"version": "v3", "arm": "killer"}),
            ("change_the_strategy", {"name": "tel", "kind": "Recreate"}),
            ("judge", {"state": "Gone"}),
            go_on(2),
            relabel_cpu("x86_64", 1, 3, 4, 6),
            ("relabel", {"name": "leaf-4", "like": "leaf-3"}),
        ],
        ends=True,
    ),
    Mutant(
        invariant="a_stopped_revision_is_offered_to_no_device",
        fault="a device that failed and was taken away counts no more",
        changes=((failure_policy._remembered_failures, "if not record.counted", "if True"),),
        trace=[
            begin(size=7, limit=1, failures=1),
            edit("bad"),
            go_on(),
            device("add_or_remove", 0),
            WAIT,
            go_on(),
            device("add_or_remove", 3),
            WAIT,
            go_on(),
        ],
    ),
    Mutant(
        invariant="contents_are_approved",
        fault="a file has the content of an object at whatever time",
        changes=((DeploymentReconciler._approved, "if not deployment.template.refers", "if True"),),
        trace=[begin(), refer()],
    ),
    Mutant(
        invariant="every_fair_run_converges",
        fault="a changed content is never known",
        changes=((FileDigests._on_change, "self._published, new", "self._published, self._published or new"),),
        trace=[begin(), refer(), ("edit_a_content", {"content": "second", "rounds": 0})],
        ends=True,
    ),
    Mutant(
        invariant="untested_revisions_wait_for_their_wave",
        fault="a wave is passed by devices that the overrides do not change",
        changes=((_of(assignment.Updated, "of"), "if any(found) else ()", "if False else ()"),),
        trace=[begin(size=5), relabel_cpu("x86_64", 0, 3), override("v2")],
    ),
    Mutant(
        invariant="offline_devices_are_deferred",
        fault="a device that was offline before the offer is taken for one that is unavailable",
        changes=((availability.availability_of, "else Availability.OFFLINE_BEF", "else Availability.UNAVAILABLE #"),),
        trace=[begin(), edit("v2"), device("die", 0), DETECT, edit("v3")],
    ),
    Mutant(
        invariant="untested_revisions_wait_for_their_wave",
        fault="half of the devices that a wave needs let the next one begin",
        changes=((_NEEDED, "counted * threshold / 100", "counted * threshold / 200"),),
        trace=[begin(), edit("v2"), APPROVE, device("report", 0)],
    ),
    Mutant(
        invariant="waves_soak",
        fault="soakSeconds is not waited for",
        changes=((waves._gates, "reached_at + group.wave.soak_seconds", "reached_at"),),
        trace=[begin(soak=30), edit("v2"), APPROVE, REPORT],
    ),
    Mutant(
        invariant="waves_keep_their_limit",
        fault="the devices that a wave takes do not use its limit up",
        changes=((waves._Devices.first, "if room >= len(candidates)", "if True"),),
        trace=[begin(first=1), edit("v2")],
    ),
    Mutant(
        invariant="approvals_are_asked_for",
        fault="no approval is asked for",
        changes=((waves._approval, "if wave.approval is Approval.AUTOMATIC or not asked", "if True"),),
        trace=[begin(), edit("v2"), go_on()],
    ),
    Mutant(
        invariant="what_matches_nothing_holds",
        fault="a wave that matches nothing is passed",
        changes=((waves._empty, "if group.devices or group.matched or is_first", "if True"),),
        trace=[begin(), ("mistype", {"what": "waves"}), edit("v2"), APPROVE],
    ),
    Mutant(
        invariant="what_matches_nothing_holds",
        fault="a budget that matches nothing is passed",
        changes=((planner._waves, "if unmatched is None or", "if True or"),),
        trace=[begin(), ("mistype", {"what": "budgets"}), edit("v2")],
    ),
    Mutant(
        invariant="a_gate_that_saw_a_failure_stays_closed",
        fault="failed devices that left are not counted",
        changes=((_NEEDED, "counted = self.counted + len(self.failed)", "counted = self.counted"),),
        trace=[begin(), ("a_canary_fails_and_leaves", {"version": "v2", "leave": "remove"})],
    ),
    Mutant(
        invariant="a_stopped_revision_is_offered_to_no_device",
        fault="a stopped revision is forgotten",
        changes=(
            (
                failure_policy.stopped,
                "remembered = _remembered(deployment, can_roll_back=can_roll_back)",
                "remembered = None",
            ),
        ),
        trace=[
            begin(limit=1, failures=0),
            device("break_or_fix", 0),
            edit("v2"),
            REPORT,
            WAIT,
            device("break_or_fix", 0),
            REPORT,
        ],
    ),
    Mutant(
        invariant="a_stopped_revision_is_offered_to_no_device",
        fault="a device that fell silent after the offer has not failed",
        changes=((failure_policy.Failures.of, "if availability is Availability.SILENT_AFTER_OFFER", "if False"),),
        trace=[
            begin(size=8, limit=2, failures=0),
            edit("killer"),
            device("report", 0),
            DETECT,
            device("hold_updates", 3, held=True),
            device("report", 3),
        ],
    ),
    Mutant(
        invariant="nothing_is_offered_while_no_gateway_judges",
        fault="whether a gateway judges is not asked for",
        changes=((planner._planned, "if snapshot.gateway is not GatewayState.JUDGING", "if False"),),
        trace=[begin(), ("judge", {"state": "Gone"}), edit("v2")],
    ),
    Mutant(
        invariant="a_storm_holds_its_revision",
        fault="devices that fell silent with many others hold nothing",
        changes=((planner._waves, "if stormy:", "if False:"),),
        trace=[begin(size=8, limit=1), edit("killer"), REPORT, storm(0, 1), REPORT, storm(3)],
    ),
    Mutant(
        invariant="bulk_removals_are_held",
        fault="removals are held for no number of devices",
        changes=((removals.removals, "(remembered or is_all or len(unapproved) > limit)", "False"),),
        trace=[begin(), ("edit_the_selector", {"role": "laef"}), WAIT],
    ),
    Mutant(
        invariant="removals_keep_the_budget",
        fault="devices that are down are not counted when others are removed",
        changes=((removals.removals, "room = limit - down - places", "room = limit"),),
        trace=[begin(limit=1), edit("v2"), ("move", {"names": ["leaf-1"], "role": "spine"}), WAIT],
    ),
    Mutant(
        invariant="a_passed_gate_stays_passed",
        fault="a wave that was passed is not remembered",
        changes=(
            (
                waves.wave_progress,
                "passed=wave.name in record.passed or wave.name in let_pass",
                "passed=wave.name in let_pass",
            ),
            (waves._opened, "record.passed | {", "{"),
        ),
        trace=[begin(), edit("v2"), go_on(), device("break_or_fix", 0), go_on()],
    ),
    Mutant(
        invariant="status_is_written_once_a_second",
        fault="a status is written at once",
        changes=((DeploymentReconciler._update_status, "if now < state.status_due_at", "if False"),),
        trace=[begin(), edit("v2")],
    ),
    Mutant(
        invariant="every_device_has_one_reason",
        fault="what a device had before it changed is counted on",
        changes=((incremental._replaced, "reasons.subtract(had.reasons)", "pass"),),
        trace=[begin(), device("die", 0), DETECT],
    ),
    Mutant(
        invariant="no_reconcile_crashes",
        fault="a case is in no row of the table of verdicts",
        changes=((verdicts._gate_of_update, "if runs is _TARGET:", "if False:"),),
        trace=[begin(), edit("v2"), ("pause", {"name": "tel", "paused": True})],
    ),
    Mutant(
        invariant="nothing_is_written_while_nothing_changes",
        fault="what is remembered of the waves is written though it is stored",
        changes=(
            (planner._planned, "record if record != snapshot.wave_record else None", "record"),
            (RevisionHistory.remember, "and row.waves != record", ""),
        ),
        trace=[begin(), edit("v2"), ("nothing_is_written_while_nothing_changes", {"name": "tel"})],
    ),
    Mutant(
        invariant="every_fair_run_converges",
        fault="two places of every budget are never used",
        changes=((admission.admit, "room = limit - spent", "room = limit - spent - 2"),),
        trace=[begin()],
        ends=True,
    ),
    Mutant(
        invariant="a_converged_fleet_is_left_alone",
        fault="each minute a status is written that is there already",
        changes=(
            (planner._earliest, "in times if", "in (*times, at + 60) if"),
            (status.status_patch, "if stored.get(name) != value", "if True"),
        ),
        trace=[begin()],
        ends=True,
    ),
)
