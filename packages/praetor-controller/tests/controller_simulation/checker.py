# SPDX-License-Identifier: Apache-2.0
"""Check what the controller writes against what the API stores, and not by the controller's own counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from attrs import evolve

from controller_simulation.given import command_for
from controller_simulation.invariants import (
    INVARIANTS,
    REMOVAL_INVARIANTS,
    Facts,
    InvariantViolation,
    Removal,
    SteadyState,
    Write,
    a_passed_gate_stays_passed,
    in_storm,
    left_out,
    share,
)
from controller_simulation.progress import ROUNDED_S, Progress
from controller_simulation.stored import Stored
from controller_testing import JudgingGateway
from kube_testing import FakeClock
from praetor_api.annotations import REVISION_ANNOTATION
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    EVENTS,
    Resource,
)
from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import StrategyType
from praetor_controller.model.revisions import project_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.state import SETTLE_S
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.removals import removal_token
from praetor_controller.rollout.snapshot import GatewayState
from praetor_controller.rollout.status import was_rolled_out

STATUS_PERIOD_S = 1.0
_OF_OTHERS = (ReasonCode.REMOVING, ReasonCode.REMOVAL_HELD)
"""Reasons of devices that no longer match."""


class Checker:
    """Is called with every write; raises the first violation when the simulation has settled."""

    def __init__(self, stored: Stored, clock: FakeClock, gateway: JudgingGateway) -> None:
        self._stored = stored
        self._gateway = gateway
        self._clock = clock
        self._progress = Progress(stored, clock)
        self._down: dict[str, set[str]] = {}
        self._steady = SteadyState()
        self._violations: list[InvariantViolation] = []
        self._status_at: dict[str, float] = {}
        self._left: dict[str, dict[str, float]] = {}  # by deployment, devices and until when they count
        self._failed: dict[str, dict[str, tuple[str, int]]] = {}  # by deployment, uids and the rollout that failed them
        self._backup: tuple[Any, ...] = ()
        self.writes = 0
        """How many writes of objects the controller made, whatever they are, but for events."""
        self.status_writes: Counter[str] = Counter()

    @property
    def deployments(self) -> tuple[str, ...]:
        return tuple(self._down)

    def add(self, name: str) -> None:
        """Check the deployment *name* from now on."""
        self._down[name] = set()
        self._failed[name] = {}

    def back_up(self) -> None:
        """Keep what is known of the objects, for restore()."""
        known = self._progress.rollouts, self._down, self._left, self._failed, self._stored.offered_at
        self._backup = deepcopy(known)

    def restore(self) -> None:
        """Know again what was known when the objects were backed up."""
        known = deepcopy(self._backup)
        self._progress.rollouts, self._down, self._left, self._failed, self._stored.offered_at = known
        self._steady, self._status_at = SteadyState(), {}

    def controller_restarted(self) -> None:
        self._status_at = {}  # it cannot know when the one before wrote

    def exclude(self, device: str) -> None:
        """Count *device* against no deployment any more: a user took it over."""
        for down in self._down.values():
            down.discard(device)

    def check_write(
        self, resource: Resource, old: dict[str, Any] | None, new: dict[str, Any], subresource: str | None
    ) -> None:
        """Check what the controller just wrote."""
        self.writes += resource != EVENTS
        if resource == DEVICE_PROCESS_DEPLOYMENTS and subresource == "status":
            self._status_written(new["metadata"]["name"])
        if resource == CONTROLLER_REVISIONS and old is not None:
            lost = a_passed_gate_stays_passed(project_revision(old).waves, project_revision(new).waves)
            self._violations += [InvariantViolation(a_passed_gate_stays_passed.__name__, lost)] if lost else []
        if resource == DEVICE_PROCESSES and (old is None or old["spec"] != new["spec"]):
            self._stored.offered_at[new["metadata"]["uid"]] = format_time(self._clock.now())
            self._spec_written(old, new)

    def check_removal(self, obj: dict[str, Any]) -> None:
        """Check that the controller may delete a process now, if it does so because its device no longer matches."""
        self.writes += 1
        process, devices = self._stored.process(obj), self._stored.devices()
        owners = [each for name in self._down if (each := self._stored.deployment(name)).uid == process.owner]
        device = devices.get(process.device)
        if not owners or (device is not None and owners[0].matches(device.labels)):
            return
        (row,) = owners
        self.update()
        now, matching = self._clock.monotonic(), self._stored.matching(row.name)
        left = self._left.setdefault(row.name, {})
        leaving = [
            each for each in self._stored.processes(row.name) if each.device not in matching and not each.terminating
        ]
        unmatched = {each.uid for each in leaving if each.removal != removal_token(row, devices.get(each.device))}
        removal = Removal(
            deployment=row,
            process=process,
            device=device,
            unmatched=unmatched,
            approved={each.uid for each in leaving} - unmatched,
            kept=sum(
                each.device in matching
                for each in (*self._stored.processes(row.name), *self._stored.ownerless(row.name))
            ),
            matching=list(matching.values()),
            down=self._down[row.name],
            left={name for name, until in left.items() if now + ROUNDED_S < until},
        )
        broken = ((invariant.__name__, invariant(removal)) for invariant in REMOVAL_INVARIANTS)
        self._violations += [InvariantViolation(name, what) for name, what in broken if what]
        if process.ready_since is not None:
            left[process.device] = now + SETTLE_S

    def check_steady_state(
        self, shown: Mapping[str, Mapping[ReasonCode, int]], faults: Sequence[InvariantViolation], *, blind: bool
    ) -> None:
        """Record the settled state and check what the metrics have *shown*; raise the first violation."""
        self._violations += faults
        self.update()
        deployments = [self._stored.deployment(name) for name in self._down]
        devices = self._stored.devices()
        self._steady = SteadyState(
            blind=blind,
            down=frozenset[str]().union(*self._down.values()),
            paused=frozenset(row.name for row in deployments if row.policy.paused),
            on_delete=frozenset(row.name for row in deployments if row.strategy is StrategyType.ON_DELETE),
            stopped=self._stopped(),
            maintained=frozenset(row.name for row in devices.values() if row.in_maintenance),
            held=frozenset(row.name for name in self._down for row in self._stored.processes(name) if row.held),
            left_out=frozenset(
                (row.name, each.name) for row in deployments for each in devices.values() if left_out(row, each)
            ),
            offline=frozenset(row.name for row in devices.values() if row.connected is False),
            unjudged=not self._judged,
            labels={name: row.labels for name, row in devices.items()},
            stormy=frozenset(
                (row.name, row.template.revision)
                for row in deployments
                if any(in_storm(each, row.template.revision) for each in self._stored.processes(row.name))
            ),
        )
        if self._judged and not blind:
            self._remember_failures()
        for name, counted in shown.items() if not blind else ():  # the metrics use the words of the status
            matching = sum(map(self._stored.deployment(name).matches, (row.labels for row in devices.values())))
            if sum(count for code, count in counted.items() if code not in _OF_OTHERS) != matching:
                self._violations.append(
                    InvariantViolation("every_device_has_one_reason", f"{name}: {counted} of {matching}")
                )
        if self._violations:
            first = self._violations[0]
            first.names = tuple(dict.fromkeys(each.invariant for each in self._violations))
            raise first

    @property
    def _judged(self) -> bool:
        return self._gateway.state is GatewayState.JUDGING

    def _status_written(self, name: str) -> None:
        now = self._clock.monotonic()
        if now - self._status_at.get(name, -1.0) < STATUS_PERIOD_S:
            self._violations.append(InvariantViolation("status_is_written_once_a_second", name))
        self._status_at[name] = now
        self.status_writes[name] += 1

    def _spec_written(self, old: dict[str, Any] | None, new: dict[str, Any]) -> None:
        owner, device = new["metadata"]["ownerReferences"][0]["name"], new["spec"]["deviceRef"]["name"]
        devices = self._stored.devices()
        if device not in devices:
            return
        before = self._stored.process(old) if old is not None else None
        self.update()
        up = {name for name, down in self._down.items() if device not in down}
        ready = before is not None and before.ready_since is not None
        if before is None:
            self._down[owner].discard(device)  # it was down by its deletion already
        elif ready:
            self._down[owner].add(device)
        files = new["spec"]["execution"].get("files") or ()
        write = Write(
            deployment=self._stored.deployment(owner), device=devices[device],
            old=before, new=self._stored.process(new),
            takes_down=ready and owner in up, takes_down_first=ready and up == self._down.keys(),
            command=new["spec"]["execution"]["command"][0], given=self._given(owner, new, devices[device]),
            approved=[each.get("approved") for each in files],
        )  # fmt: skip
        facts = self._facts()
        broken = ((invariant.__name__, invariant(write, facts)) for invariant in INVARIANTS)
        self._violations += [InvariantViolation(name, what) for name, what in broken if what]

    def _given(self, owner: str, new: dict[str, Any], device: DeviceRow) -> frozenset[str]:
        """Return what the revision of a written process gives *device*, by its labels now or when all had settled."""
        revision = new["metadata"]["annotations"][REVISION_ANNOTATION]
        row = self._stored.deployment(owner)
        found = row.template if row.template.revision == revision else self._stored.template(owner, revision)
        seen = (device.labels, self._steady.labels.get(device.name, device.labels))
        return frozenset(command_for(found, labels) for labels in seen) if found is not None else frozenset()

    def _facts(self) -> Facts:
        return Facts(
            now=self._clock.now().timestamp() + ROUNDED_S,
            devices=self._stored.devices(),
            processes={name: self._stored.processes(name) for name in self._down},
            down={name: frozenset(down) for name, down in self._down.items()},
            deployments=[self._stored.deployment(name) for name in self._down],
            began={name: self._progress.began(name) for name in self._down},
            stood={name: self._progress.stood(name) for name in self._down},
            failed={name: self._progress.failed(name) for name in self._down},
            firsts=[name for name in self._down if self._stored.is_first(self._stored.deployment(name))],
            steady=evolve(self._steady, stopped=self._steady.stopped & self._stopped()),  # fixed, never recorded
            judged=self._judged,
        )

    def update(self) -> None:
        """Record which waves stand, and forget the devices that we took down and that count against us no more.

        These were available for long enough since, are gone, are past their deadline, or had died before they fetched
        what they were offered. Call it before anything changes: the controller may act on how it was.
        """
        now = self._clock.now().timestamp() + ROUNDED_S
        for name, down in self._down.items():
            self._progress.update(name)
            down.intersection_update(self._stored.matching(name))  # a device that left counts no more
            policy = self._stored.deployment(name).policy
            rows = {row.device: row for row in self._stored.processes(name) if row.device in down}
            blamed = {
                each for each, row in rows.items() if now < (row.offered_at or 0.0) + policy.progress_deadline_seconds
            }
            down &= {each for each in blamed if not _is_spared(rows[each], policy.min_ready_seconds, now)}

    def _stopped(self) -> frozenset[tuple[str, int]]:
        rows = [self._stored.deployment(name) for name in self._down]
        return frozenset((row.name, row.generation) for row in rows if self._must_stop(row))

    def _must_stop(self, row: DeploymentRow) -> bool:
        if row.policy.failure_policy is None or row.strategy is StrategyType.ON_DELETE:
            return False
        if row.status.failed_revision == row.template.revision:
            holds = {each.type: each.observed_generation for each in row.status.conditions}
            return ConditionType.ROLLED_BACK in holds or holds.get(ConditionType.PAUSED) == row.generation
        rows, rollout = {each.uid for each in self._stored.processes(row.name)}, self._rollout(row)
        gone = {uid for uid, of in self._failed[row.name].items() if of == rollout and uid not in rows}
        most = share(row.policy.failure_policy.max_failures, len(self._stored.matching(row.name)))
        return len(self._bad(row) | gone) > most and not was_rolled_out(row)

    def _bad(self, row: DeploymentRow) -> set[str]:
        """Return the processes, by their uids, that fail at the revision of *row*."""
        matching, rows = self._stored.matching(row.name), self._stored.processes(row.name)
        counted = {name for name, device in matching.items() if not device.in_maintenance}
        counted -= self._stored.unchanged(row, self._progress.began(row.name))
        bad = {each.uid for each in rows if each.device in counted and _failed(each, row)}
        return bad | {each.uid for each in rows if each.device not in matching and each.failure and _failed(each, row)}

    def _rollout(self, row: DeploymentRow) -> tuple[str, int]:
        return row.template.revision, self._stored.number(row.name)

    def _remember_failures(self) -> None:
        """Record which processes failed: they count for as long as the rollout goes on, unless they are ready again."""
        for name, known in self._failed.items():
            row = self._stored.deployment(name)
            for each in self._stored.processes(name):
                if each.ready_since is not None:
                    known.pop(each.uid, None)
            if not (row.policy.paused or was_rolled_out(row)):
                known |= dict.fromkeys(self._bad(row), self._rollout(row))


def _failed(process: ProcessRow, row: DeploymentRow) -> bool:
    silent = process.connected is False and process.reported and process.fetched is True  # since the offer
    bad = (process.failure or silent) and process.ready_since is None and not process.in_storm
    return bool(bad) and process.revision == row.template.revision


def _is_spared(row: ProcessRow, wait_s: int, now: float) -> bool:
    """Return whether it was available, or keeps what it had: its device holds updates, or died before or in a storm."""
    if row.in_storm or (row.held and row.settled_since is None and not row.failure) or row.fetched is False:
        return True
    until = now if row.connected else min(now, row.connected_since or 0.0)
    return row.settled_since is not None and row.settled_since + wait_s <= until
