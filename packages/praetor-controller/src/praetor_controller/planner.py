"""The rollout planner: a function of a snapshot and of now. No I/O, no clock, no logs.

Budget. Devices that are unavailable count as spent, except devices in maintenance, devices that were offline before
the offer, and processes that their device never reported (see availability). An available device is given a new
template only while spent is below maxUnavailable, so never more than maxUnavailable devices are down by our doing. A
device that is connected and unavailable already is given the new template at once: it cannot get worse, it may be
mended by it, and it stays counted; if its process is ready and only waits for minReadySeconds, it waits until no
more than maxUnavailable are spent. A device without a process gets one at once.

Paused means that no process is written at all. A device in maintenance is not touched. Recreate has no budget;
OnDelete leaves existing processes alone. maxUnavailable 0 moves only devices that are unavailable already.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import StrategyType
from praetor_api.names import hashed_process_name, process_name
from praetor_controller.actions import Action, Create, Delete, Update
from praetor_controller.availability import Standing, blamed_until, offline_since, standing
from praetor_controller.errors import InvalidDeployment
from praetor_controller.pairing import Pairing, pair
from praetor_controller.reasons import Reason, ReasonCode
from praetor_controller.rollout_status import Facts, fault_status, rollout_status
from praetor_controller.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.snapshot import Counts, Plan, Snapshot

_LOOK_AGAIN_S = 10.0
_UP_TO_DATE = Reason(ReasonCode.UP_TO_DATE)
_CREATING = Reason(ReasonCode.CREATING)
_UPDATING = Reason(ReasonCode.UPDATING)
_NOT_READY = Reason(ReasonCode.NOT_READY)
_NEVER_SEEN = Reason(ReasonCode.NOT_READY, "its agent was never seen")
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
        limit = max_unavailable(deployment.max_unavailable, len(snapshot.devices))
    except InvalidDeployment as e:
        return Plan(status=fault_status(deployment, str(e), now))
    return _Pass(snapshot, now, limit).run()


def max_unavailable(value: int | str, devices: int) -> int:
    """Return the number of *devices* that a number or a percentage, rounded up, stands for."""
    if isinstance(value, int):
        return max(0, value)
    percent = value.removesuffix("%")
    if percent == value or not percent.isdecimal():
        raise InvalidDeployment(
            f"spec.updateStrategy.rollingUpdate.maxUnavailable: {value!r} is neither a number nor a percentage"
        )
    return math.ceil(devices * int(percent) / 100)


class _Pass:
    """One pass over a deployment's devices; lives as long as one call of plan()."""

    def __init__(self, snapshot: Snapshot, now: datetime, limit: int) -> None:
        deployment = snapshot.deployment
        self.snapshot = snapshot
        self.deployment: DeploymentRow = deployment
        self.now = now
        self.at = now.timestamp()
        self.limit = limit
        self.template = deployment.template
        self.hashes = snapshot.stored_as | {deployment.template.spec_hash}
        self.min_ready_s = float(deployment.policy.min_ready_seconds)
        self.deadline_s = float(deployment.policy.progress_deadline_seconds)
        self.frozen = deployment.policy.paused
        self.on_delete = deployment.strategy is StrategyType.ON_DELETE
        self.reasons: dict[str, Reason] = {}
        self.creates: list[Create] = []
        self.updates: list[Update] = []
        self.candidates: list[ProcessRow] = []  # available: each costs one
        self.soaking: list[ProcessRow] = []  # ready, not available yet: counted already
        self.spent = 0
        self.current = self.updated = self.ready = self.available = 0
        self.next_look = math.inf
        self.last_progress = 0.0

    def run(self) -> Plan:
        snapshot = self.snapshot
        pairing = pair(snapshot.devices, snapshot.processes)
        find = pairing.process_of.get
        reasons, judge = self.reasons, self._judge
        for device in snapshot.devices:
            reasons[device.name] = judge(device, find(device.name))
        self._admit()
        actions = () if self.frozen else self._actions(pairing)
        status, deadline = rollout_status(self.deployment, self._facts(), self.now)
        if deadline is not None:
            self._look(deadline)
        return Plan(actions=actions, status=status, next_look=self._next_look(), reasons=reasons)

    def _judge(self, device: DeviceRow, process: ProcessRow | None) -> Reason:
        """Count *device*, note what is to be done about it, and return its reason."""
        if device.in_maintenance and (device.maintenance_until is None or self.at < device.maintenance_until):
            return self._in_maintenance(device, process)
        if process is None:
            return self._without_process(device)
        stands = self._count(device, process)
        if process.terminating or device.name in self.snapshot.in_flight:
            self.spent += 1
            return _TERMINATING if process.terminating else _UPDATING
        if process.spec_hash in self.hashes:
            return self._updated(device, process, stands)
        return self._outdated(device, process, stands)

    def _count(self, device: DeviceRow, process: ProcessRow) -> Standing:
        stands = standing(process, device, self.min_ready_s, self.at)
        self.current += 1
        self.ready += process.ready_since is not None
        self.available += stands is Standing.AVAILABLE
        self.updated += process.spec_hash in self.hashes
        return stands

    def _in_maintenance(self, device: DeviceRow, process: ProcessRow | None) -> Reason:
        if process is not None:
            self._count(device, process)
        if device.maintenance_until is None:
            return Reason(ReasonCode.IN_MAINTENANCE)
        self._look(device.maintenance_until)
        return Reason(ReasonCode.IN_MAINTENANCE, f"until {_time(device.maintenance_until)}")

    def _without_process(self, device: DeviceRow) -> Reason:
        snapshot, name = self.snapshot, device.name
        if name in snapshot.in_flight:
            return _CREATING
        if name in snapshot.refusals:
            return Reason(ReasonCode.CANNOT_CONVERGE, snapshot.refusals[name])
        if self.frozen:
            return _PAUSED
        wanted = process_name(self.deployment.name, name)
        if wanted in snapshot.leftovers:
            self._look(self.at + _LOOK_AGAIN_S)
            return Reason(ReasonCode.TERMINATING, f"{wanted} of a deleted deployment is not collected yet")
        if wanted in snapshot.taken_names:
            wanted = hashed_process_name(self.deployment.name, name)
        if wanted not in snapshot.taken_names:
            self.creates.append(Create(name, wanted))
            return _CREATING
        self._look(self.at + _LOOK_AGAIN_S)
        return Reason(ReasonCode.NAME_TAKEN, f"{wanted} belongs to somebody else")

    def _updated(self, device: DeviceRow, process: ProcessRow, stands: Standing) -> Reason:
        if process.offered_at is not None and process.offered_at > self.last_progress:
            self.last_progress = process.offered_at
        may_write = not (self.frozen or self.on_delete or device.name in self.snapshot.refusals)
        if may_write and self._metadata_differs(process):
            self.updates.append(Update(process, spec=False))
        if stands is Standing.AVAILABLE:
            available_at = (process.ready_since or 0.0) + self.min_ready_s
            if available_at > self.last_progress:
                self.last_progress = available_at
            return _UP_TO_DATE
        if stands is Standing.NEVER_REPORTED or stands is Standing.OFFLINE_BEFORE_OFFER:
            return self._offline(ReasonCode.OFFLINE_SINCE, device, process)
        self.spent += 1
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

    def _outdated(self, device: DeviceRow, process: ProcessRow, stands: Standing) -> Reason:
        if device.name in self.snapshot.refusals:
            self.spent += stands is not Standing.AVAILABLE
            return Reason(ReasonCode.CANNOT_CONVERGE, self.snapshot.refusals[device.name])
        if self.frozen:
            return _PAUSED
        if self.on_delete:
            return _WAITING_FOR_DELETION
        if self.deployment.strategy is StrategyType.RECREATE:
            return self._update(process)
        match stands:
            case Standing.AVAILABLE:
                self.candidates.append(process)
                return _UPDATING  # unless the budget says otherwise
            case Standing.UNAVAILABLE:
                self.spent += 1
                if process.ready_since is None:
                    return self._update(process)
                self._look(process.ready_since + self.min_ready_s)
                self.soaking.append(process)
                return _UPDATING  # unless the budget says otherwise
            case Standing.NEVER_REPORTED:
                return self._update(process)
            case _:
                return self._deferred(device, process)

    def _deferred(self, device: DeviceRow, process: ProcessRow) -> Reason:
        blamed = blamed_until(process, device, self.min_ready_s, self.deadline_s)
        if self.at < blamed:
            self.spent += 1
            self._look(blamed)
            return self._offline(ReasonCode.SILENT_SINCE_OFFER, device, process)
        return self._offline(ReasonCode.OFFLINE_SINCE, device, process)

    def _update(self, process: ProcessRow) -> Reason:
        self.updates.append(Update(process))
        return _UPDATING

    def _offline(self, code: ReasonCode, device: DeviceRow, process: ProcessRow) -> Reason:
        since = offline_since(process, device)
        return Reason(code, _time(since)) if since is not None else _NEVER_SEEN

    def _metadata_differs(self, process: ProcessRow) -> bool:
        template = self.template
        return not (
            process.revision == template.revision
            and process.managed == template.managed
            and template.labels <= process.labels
            and template.annotations <= process.annotations
        )

    def _admit(self) -> None:
        """Choose the running processes that may go down now; the others wait for the budget."""
        self.candidates.sort(key=lambda process: process.device)
        room = self.limit - self.spent
        admitted = (self.soaking if room >= 0 else []) + self.candidates[: max(0, room)]
        waiting = ([] if room >= 0 else self.soaking) + self.candidates[max(0, room) :]
        self.updates += map(Update, admitted)
        exhausted = Reason(ReasonCode.BUDGET_EXHAUSTED, f"maxUnavailable={self.limit}")
        for process in waiting:
            self.reasons[process.device] = exhausted

    def _actions(self, pairing: Pairing) -> tuple[Action, ...]:
        strays = [Delete(process, "its device is gone or no longer matches") for process in pairing.strays]
        surplus = [Delete(process, "the device has an older process of the deployment") for process in pairing.surplus]
        return (*strays, *surplus, *self.updates, *self.creates)

    def _facts(self) -> Facts:
        tally: dict[ReasonCode, int] = {}
        for reason in self.reasons.values():
            tally[reason.code] = tally.get(reason.code, 0) + 1
        return Facts(
            counts=Counts(
                desired=len(self.snapshot.devices),
                current=self.current,
                updated=self.updated,
                ready=self.ready,
                available=self.available,
            ),
            reasons=tally,
            limit=self.limit,
            progress_at=max(self.last_progress, self.snapshot.rollout_since.timestamp()),
        )

    def _look(self, at: float) -> None:
        if self.at < at < self.next_look:
            self.next_look = at

    def _next_look(self) -> datetime | None:
        return None if self.next_look == math.inf else datetime.fromtimestamp(self.next_look, UTC)


def _time(epoch: float) -> str:
    return format_time(datetime.fromtimestamp(epoch, UTC))
