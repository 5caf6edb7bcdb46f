"""The rollout planner: a function of a snapshot and of now. No I/O, no clock, no logs.

Budget. Devices that are unavailable count as spent, except devices in maintenance, devices that were offline before
the offer, that hold updates, or that never reported the process (see availability). An available device is given a new
template only while spent is below maxUnavailable, so never more than maxUnavailable devices are down by our doing. A
device that is connected and unavailable already is given the new template at once: it cannot get worse, it may be
mended by it, and it stays counted; if its process is ready and only waits for minReadySeconds, it waits until no
more than maxUnavailable are spent. A device without a process gets one at once.

Paused means that no process is written at all. A device in maintenance is not touched. Recreate has no budget, but
defers offline devices, too: what is held against them would be forgotten with a new offer, and the budget is there
again when the strategy changes. OnDelete leaves existing processes alone. maxUnavailable 0 moves only devices
that are unavailable already.

A device whose wave is not open keeps what it has, and gets the current revision when it has nothing. If it is down
since its last offer it is spent, for progressDeadlineSeconds: for longer, and it would hold up the waves before it.
Each failure domain must have room, too, by the budgets of all deployments that match the device. When the failure
policy stops a revision no wave is open; when it takes the revision back, the plan is one for the current revision
instead, under the same budgets and without waves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import StrategyType
from praetor_api.names import hashed_process_name, process_name
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Template
from praetor_controller.rollout.amounts import max_unavailable
from praetor_controller.rollout.assignment import Pairing, pair
from praetor_controller.rollout.availability import Standing, blamed_until, offline_since
from praetor_controller.rollout.budgets import Domains
from praetor_controller.rollout.counting import counted
from praetor_controller.rollout.failure_policy import Stop, stopped
from praetor_controller.rollout.metadata import Metadata
from praetor_controller.rollout.reasons import Reason, ReasonCode, Reasons
from praetor_controller.rollout.snapshot import Plan, Snapshot, Tally, kept
from praetor_controller.rollout.status import Facts, fault_status, rollout_status, was_rolled_out
from praetor_controller.rollout.waves import Stage, stage

_LOOK_AGAIN_S = 10.0
_UP_TO_DATE = Reason(ReasonCode.UP_TO_DATE)
_CREATING = Reason(ReasonCode.CREATING)
_UPDATING = Reason(ReasonCode.UPDATING)
_NOT_READY = Reason(ReasonCode.NOT_READY)
_NEVER_CONNECTED = Reason(ReasonCode.NEVER_CONNECTED)
_PAUSED = Reason(ReasonCode.PAUSED)
_TERMINATING = Reason(ReasonCode.TERMINATING)
_WAITING_FOR_DELETION = Reason(ReasonCode.WAITING_FOR_DELETION)


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Return what brings the deployment one safe step closer to its spec."""
    deployment = snapshot.deployment
    if deployment.terminating:
        return Plan()  # owner references do the rest
    try:
        if deployment.fault:
            raise InvalidDeployment(deployment.fault)
        return _Pass(snapshot, now).run()
    except InvalidDeployment as e:
        return Plan(status=fault_status(deployment, str(e), now))


class _Pass:
    """One pass over a deployment's devices; lives as long as one call of plan()."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        deployment, rolling = snapshot.deployment, snapshot.deployment.policy.update_strategy.rolling_update
        self.snapshot = snapshot
        self.deployment: DeploymentRow = deployment
        self.now = now
        self.at = now.timestamp()
        self.limit = max_unavailable(deployment.max_unavailable, len(snapshot.devices))
        self.min_ready_s = float(deployment.policy.min_ready_seconds)
        self.deadline_s = float(deployment.policy.progress_deadline_seconds)
        self.frozen = deployment.policy.paused
        self.on_delete = deployment.strategy is StrategyType.ON_DELETE
        self.rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
        budgets, shared = (rolling.budgets, snapshot.shared_budgets) if self.rolling else ((), ())
        self.domains = Domains(budgets, snapshot.devices, snapshot.down_elsewhere, shared)
        self.update_hashes = snapshot.stored_as | {deployment.template.spec_hash}
        self.pairing = pair(snapshot.devices, snapshot.processes, self.min_ready_s, self.at)
        self.stop, self.stop_at = self._stop()
        self.template, self.hashes = self._target()
        self.stage = self._stage()
        self.metadata = Metadata(self.template)
        self.reasons: list[Reason] = []  # in the order of the devices, by whose place there they are known below
        self.creates: list[Create] = []
        self.updates: list[Update] = []
        self.candidates: list[int] = []  # available: each costs one
        self.soaking: list[int] = []  # ready, not available yet: counted already
        self.exhausted: dict[str, Reason] = {}
        self.spent = 0
        self.next_look = self.stage.look_at if self.stage else math.inf
        self.last_progress = self.stage.progress_at if self.stage else 0.0
        self._look(snapshot.elsewhere_changes_at)
        self._look(self.stop_at)

    def _stop(self) -> tuple[Stop | None, float]:
        deployment, current = self.deployment, self.snapshot.current
        can_roll_back = current is not None and current.revision != deployment.template.revision
        return stopped(deployment, self.pairing, self.update_hashes, self.at, can_roll_back=can_roll_back)

    def _target(self) -> tuple[Template, frozenset[str]]:
        """Return what devices of open waves shall run, and the hashes that it is known by."""
        current = self.snapshot.current
        if self.stop is not None and self.stop.rollback and current is not None:
            return current, self.snapshot.current_stored_as | {current.spec_hash}
        return self.deployment.template, self.update_hashes

    def _stage(self) -> Stage | None:
        """Return which waves are open; None when all devices may have the target."""
        deployment, snapshot = self.deployment, self.snapshot
        if self.stop is not None:
            halted = Reason(ReasonCode.PAUSED, "the failure policy stopped the revision")
            return None if self.stop.rollback else Stage(place=(), open=0, blocker=halted, waves=())
        if not self.rolling or not deployment.policy.update_strategy.rolling_update.waves or was_rolled_out(deployment):
            return None
        since = (snapshot.revision_since or snapshot.rollout_since).timestamp()
        return stage(deployment, self.pairing, self.hashes, self.at, since)

    def run(self) -> Plan:
        reasons, judge = self.reasons, self._judge
        for number, (device, process, stands) in enumerate(self.pairing):
            reasons.append(judge(number, device, process, stands))
        self._admit()
        actions = () if self.frozen or self._is_news() else self._actions(self.pairing)
        facts = self._facts()
        tally = self._tally(facts)
        status, deadline = rollout_status(self.deployment, facts, self.now)
        if deadline is not None:
            self._look(deadline)
        return Plan(
            actions=actions,
            status=status,
            next_look=self._next_look(),
            reasons=Reasons(self.pairing.names, reasons),
            waves=self.stage.waves if self.stage else (),
            tally=tally,
        )

    def _tally(self, facts: Facts) -> Tally | None:
        """Return what the devices amount to; None when something is to be done, or one is weighed against others."""
        weighed = self.stage or self.stop or self.updates or self.creates or self.candidates or self.soaking
        watched = self.deployment.policy.failure_policy is not None and not was_rolled_out(self.deployment)
        if weighed or watched or self.snapshot.in_flight or self.snapshot.refusals:
            return None
        if not facts.counts.current == facts.counts.desired == len(self.snapshot.processes):  # one each, and no other
            return None
        return Tally(
            counts=facts.counts, reasons=facts.reasons, progress_at=self.last_progress, next_look=self.next_look
        )

    def _is_news(self) -> bool:
        """Tell whether a rollback is to be remembered before it begins: the failures that call for it go with it."""
        return self.stop is not None and self.stop.rollback and not self.stop.remembered

    def _closed(self, number: int) -> Reason | None:
        """Return why the wave of a device is not open; None when it is."""
        stage = self.stage
        if stage is None:
            return None
        if stage.place and stage.place[number] < stage.open:
            return stage.passed.get(stage.place[number])
        return stage.blocker

    def _wave(self, number: int) -> str:
        """Return the name of the wave that a device gets the target in, to be noted; empty when there are no waves."""
        if self.stage is None or not self.stage.waves:
            return ""
        return self.stage.waves[self.stage.place[number]].name

    def _spend(self, device: DeviceRow) -> None:
        self.spent += 1
        self.domains.take(device)

    def _judge(self, number: int, device: DeviceRow, process: ProcessRow | None, stands: Standing | None) -> Reason:
        """Count *device*, note what is to be done about it, and return its reason."""
        if device.in_maintenance and device.maintained(self.at):
            return self._in_maintenance(device)
        if process is None or stands is None:
            return self._without_process(number, device)
        if process.terminating or device.name in self.snapshot.in_flight:
            self._spend(device)
            return _TERMINATING if process.terminating else _UPDATING
        if process.spec_hash in self.hashes:
            return self._updated(device, process, stands)
        return self._outdated(number, device, process, stands)

    def _in_maintenance(self, device: DeviceRow) -> Reason:
        if device.maintenance_until is None:
            return Reason(ReasonCode.IN_MAINTENANCE)
        self._look(device.maintenance_until)
        return Reason(ReasonCode.IN_MAINTENANCE, f"until {_time(device.maintenance_until)}")

    def _without_process(self, number: int, device: DeviceRow) -> Reason:
        snapshot, name = self.snapshot, device.name
        if name in snapshot.in_flight:
            return _CREATING
        if name in snapshot.refusals:
            return Reason(ReasonCode.CANNOT_CONVERGE, snapshot.refusals[name])
        if self.frozen:
            return _PAUSED
        closed, current = self._closed(number), snapshot.current
        if closed is not None and current is None:
            return closed
        wanted = process_name(self.deployment.name, name)
        taken = wanted in snapshot.taken_names  # seldom, and the leftovers are among these
        if taken and wanted in snapshot.leftovers:
            self._look(self.at + _LOOK_AGAIN_S)
            return Reason(ReasonCode.TERMINATING, f"{wanted} of a deleted deployment is not collected yet")
        if taken:
            wanted = hashed_process_name(self.deployment.name, name)
        if not taken or wanted not in snapshot.taken_names:
            template, wave = (self.template, self._wave(number)) if closed is None or current is None else (current, "")
            self.creates.append(Create(name, wanted, template, wave))
            return _CREATING
        self._look(self.at + _LOOK_AGAIN_S)
        return Reason(ReasonCode.NAME_TAKEN, f"{wanted} belongs to somebody else")

    def _updated(self, device: DeviceRow, process: ProcessRow, stands: Standing) -> Reason:
        if process.offered_at is not None and process.offered_at > self.last_progress:
            self.last_progress = process.offered_at
        may_write = not (self.frozen or self.on_delete or device.name in self.snapshot.refusals)
        if may_write and self.metadata.differs(process):
            self.updates.append(Update(process, self.template, spec=False))
        if stands is Standing.AVAILABLE:
            available_at = (process.ready_since or 0.0) + self.min_ready_s
            if available_at > self.last_progress:
                self.last_progress = available_at
            return _UP_TO_DATE
        if stands is Standing.NEVER_REPORTED or stands is Standing.OFFLINE_BEFORE_OFFER:
            return self._offline(ReasonCode.OFFLINE_SINCE, device, process)
        if stands is Standing.HELD:
            return Reason(ReasonCode.UPDATE_HELD, process.held)
        self._spend(device)
        if stands is Standing.SILENT_AFTER_OFFER:
            return self._offline(ReasonCode.SILENT_SINCE_OFFER, device, process)
        return self._unavailable(process)

    def _unavailable(self, process: ProcessRow) -> Reason:
        if process.failure:
            return Reason(ReasonCode.FAILING, process.failure)
        if process.ready_since is not None:
            available_at = process.ready_since + self.min_ready_s
            self._look(available_at)
            return Reason(ReasonCode.BECOMING_AVAILABLE, f"at {_time(available_at)}")
        return _NOT_READY if process.observed else _UPDATING

    def _outdated(self, number: int, device: DeviceRow, process: ProcessRow, stands: Standing) -> Reason:
        if device.name in self.snapshot.refusals:
            if stands is not Standing.AVAILABLE:
                self._spend(device)
            return Reason(ReasonCode.CANNOT_CONVERGE, self.snapshot.refusals[device.name])
        if self.frozen:
            return _PAUSED
        if self.on_delete:
            return _WAITING_FOR_DELETION
        closed = Reason(ReasonCode.UPDATE_HELD, process.held) if process.held else self._closed(number)
        if closed is not None:
            self._hold(device, process, stands)
            return closed
        match stands:
            case Standing.AVAILABLE | Standing.UNAVAILABLE if not self.rolling:
                return self._update(number, process)
            case Standing.AVAILABLE:
                self.candidates.append(number)
                return _UPDATING  # unless the budget says otherwise
            case Standing.UNAVAILABLE:
                self._spend(device)
                if process.ready_since is None:
                    return self._update(number, process)
                self._look(process.ready_since + self.min_ready_s)
                self.soaking.append(number)
                return _UPDATING  # unless the budget says otherwise
            case Standing.NEVER_REPORTED:
                return self._update(number, process)
            case Standing.OFFLINE_BEFORE_OFFER:
                return self._offline(ReasonCode.OFFLINE_SINCE, device, process)
            case _:
                return self._deferred(device, process)

    def _deferred(self, device: DeviceRow, process: ProcessRow) -> Reason:
        blamed = blamed_until(process, device, self.min_ready_s, self.deadline_s)
        if self.at < blamed:
            self._spend(device)
            self._look(blamed)
            return self._offline(ReasonCode.SILENT_SINCE_OFFER, device, process)
        return self._offline(ReasonCode.OFFLINE_SINCE, device, process)

    def _hold(self, device: DeviceRow, process: ProcessRow, stands: Standing) -> None:
        """Count a device whose wave is not open: it costs while it is down since its last offer, but not for ever."""
        if stands is Standing.SILENT_AFTER_OFFER:
            self._deferred(device, process)
        elif stands is Standing.UNAVAILABLE:
            ready_at = process.ready_since + self.min_ready_s if process.ready_since is not None else 0.0
            until = max(ready_at, (process.offered_at or process.created_at) + self.deadline_s)
            if self.at < until:
                self._spend(device)
                self._look(until)

    def _update(self, number: int, process: ProcessRow) -> Reason:
        self.updates.append(Update(process, self.template, wave=self._wave(number)))
        return _UPDATING

    def _offline(self, code: ReasonCode, device: DeviceRow, process: ProcessRow) -> Reason:
        since = offline_since(process, device)
        if since is None and not process.reported:
            return _NEVER_CONNECTED
        return Reason(code, "" if since is None else _time(since))

    def _admit(self) -> None:
        """Choose the running processes that may go down now; the others wait for the budget."""
        devices, room = self.pairing.devices, self.limit - self.spent
        for number in self.soaking:
            self._admit_one(number, self.domains.crowded(devices[number]) if room >= 0 else self._exhausted())
        waiting = self._in_order(self.candidates)
        for at, number in enumerate(waiting):
            if room <= 0:
                self._refuse(waiting[at:], self._exhausted())
                break
            if self._admit_one(number, self.domains.full(devices[number]) if self.domains else ""):
                room -= 1
                self.domains.take(devices[number])

    def _in_order(self, numbers: list[int]) -> list[int]:
        """Return devices as they are admitted: by wave, then by name."""
        ordered = sorted(numbers, key=self.pairing.names.__getitem__)
        if self.stage is not None and self.stage.place:
            ordered.sort(key=self.stage.place.__getitem__)
        return ordered

    def _admit_one(self, number: int, exhausted: str) -> bool:
        process = self.pairing.processes[number]
        if exhausted:
            self._refuse((number,), exhausted)
        elif process is not None:
            self._update(number, process)
        return not exhausted

    def _refuse(self, numbers: Iterable[int], exhausted: str) -> None:
        reason = self.exhausted.get(exhausted)
        if reason is None:
            reason = self.exhausted[exhausted] = Reason(ReasonCode.BUDGET_EXHAUSTED, exhausted)
        for number in numbers:
            self.reasons[number] = reason

    def _exhausted(self) -> str:
        return f"maxUnavailable={self.limit}"

    def _actions(self, pairing: Pairing) -> tuple[Action, ...]:
        strays = [Delete(process, "its device is gone or no longer matches") for process in pairing.strays]
        surplus = [Delete(process, "the device has an older process of the deployment") for process in pairing.surplus]
        deletes = [each for each in (*strays, *surplus) if kept(each.process) not in self.snapshot.refusals]
        return (*deletes, *self.updates, *self.creates)

    def _facts(self) -> Facts:
        counts, ready_since = counted(self.pairing, self.update_hashes)
        self._look(ready_since + self.min_ready_s)  # whatever else keeps them, their time comes
        return Facts(
            counts=counts,
            reasons=Counter(map(attrgetter("code"), self.reasons)),
            limit=self.limit,
            progress_at=self._progress_at(),
            wave=self._wave_now(),
            stopped=self.stop.message if self.stop else "",
            rolled_back=self.stop.rollback if self.stop else False,
        )

    def _progress_at(self) -> float:
        offering = not self.frozen and bool(self.updates or self.creates)
        return self.at if offering else max(self.last_progress, self.snapshot.rollout_since.timestamp())

    def _wave_now(self) -> str | None:
        stage = self.stage
        return stage.waves[max(0, stage.open - 1)].name if stage and stage.waves else None

    def _look(self, at: float) -> None:
        if self.at < at < self.next_look:
            self.next_look = at

    def _next_look(self) -> datetime | None:
        return None if self.next_look == math.inf else datetime.fromtimestamp(self.next_look, UTC)


def _time(epoch: float) -> str:
    return format_time(datetime.fromtimestamp(epoch, UTC))
