# SPDX-License-Identifier: Apache-2.0
"""Waves: which device belongs to which, and which of them are open. Pure, and derived from the snapshot alone.

A device that has the update revision keeps the wave that is recorded on its process. Each of the others belongs to the
first wave that selects it and has room, reachable devices first, then by name; what no wave takes is the last wave.

A wave opens when in every wave before it enough devices were available for long enough, and when it is approved, if it
needs that. It stays open once one of its devices has got the revision, and a wave that was passed stays so. Devices in
maintenance, those that hold updates or do not meet the requirements, and those offline since before the last write are
not counted; but a wave of only such devices has shown nothing, and the next one waits. So does one after a wave whose
devices the new overrides leave as they are, unless it allows to be empty.

A wave that no device matches holds those after it, unless it allows that: its selector may be a mistake. So does one
that lost all its devices, until it is approved. A device whose process failed at the revision stays counted when it
leaves, so that what failed cannot be passed by taking it away. The first revision of all moves no device from another
one, so there a wave that nothing matches is passed over; devices that come into it later still wait for its approval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import chain, compress, product
from operator import and_

from attrs import evolve, field, frozen, mutable

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import Approval, LabelSelector, Wave
from praetor_controller.model.amounts import amount
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.model.selectors import compile_each
from praetor_controller.model.wave_record import MAX_FAILURES, WaveFailure, WaveRecord
from praetor_controller.rollout.assignment import Assignment, Updated
from praetor_controller.rollout.availability import OVERTAKEN, Availability, blamed_until
from praetor_controller.rollout.failure_policy import Failures, is_failed
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import WaveState

REST = "(rest)"
"""Name of the last wave; the CRD allows no wave of a spec this name."""
_PATH = "spec.updateStrategy.rollingUpdate.waves"
_SHOWN = 3
_NOT_COUNTED = (Availability.NEVER_REPORTED, Availability.OFFLINE_BEFORE_OFFER, Availability.HELD)


@frozen(kw_only=True)
class WaveProgress:
    """How far a rollout has come: waves with an index below *open* are open, except those *passed* over, with why.

    *record* is what has to be remembered. *blocker* is why the next wave is closed. *place* is the index of each
    device's wave, in the order of the devices; empty when there are no waves. *recheck_at* is when time alone may open
    a wave, *progress_at* when a soak that ended opened the last one; both are seconds since the epoch.
    """

    place: Sequence[int] = ()
    open: int = 0
    blocker: Reason | None
    waves: tuple[WaveState, ...] = ()
    record: WaveRecord = field(factory=WaveRecord)
    passed: Mapping[int, Reason] = field(factory=dict)
    recheck_at: float = math.inf
    progress_at: float = 0.0

    def closed(self, number: int) -> Reason | None:
        """Return why the wave of the device at *number* is closed; None when it is open."""
        return self.closed_wave(self.place[number]) if self.place else self.blocker

    def closed_wave(self, index: int) -> Reason | None:
        """Return why the wave at *index* is closed; None when it is open."""
        return self.passed.get(index) if index < self.open else self.blocker

    def name_of(self, number: int) -> str:
        """Return the name of the wave of the device at *number*; empty when there are no waves."""
        return self.waves[self.place[number]].name if self.waves else ""

    @property
    def current(self) -> str | None:
        """The name of the wave that is being rolled out; None when there are no waves."""
        return self.waves[max(0, self.open - 1)].name if self.waves else None


@mutable(kw_only=True)
class _Members:
    wave: Wave
    matched: bool = True
    passed: bool = False
    devices: int = 0
    unchanged: int = 0  # devices that the rollout gives nothing
    counted: int = 0
    available: int = 0
    available_at: Callable[[], Sequence[float]] = tuple  # when these became so, the first one first; asked of few
    started: bool = False
    failed: list[str] = field(factory=list)  # devices that failed and are counted no more by themselves

    @property
    def needed(self) -> int:
        if self.is_idle and self.wave.allow_empty:
            return 0
        threshold = self.wave.success_threshold
        counted = self.counted + len(self.failed)
        return max(1, math.ceil(counted * threshold / 100)) if (self.devices or self.failed) and threshold else 0

    @property
    def is_idle(self) -> bool:
        """Whether the rollout changes none of its devices, and so can show nothing on them."""
        return self.unchanged == self.devices > 0 and not self.failed

    def state(self, *, open: bool) -> WaveState:
        return WaveState(
            name=self.wave.name,
            devices=self.devices,
            counted=self.counted,
            available=self.available,
            needed=self.needed,
            open=open,
            passed=self.passed,
        )


def wave_progress(
    deployment: DeploymentRow,
    assignment: Assignment,
    updated: Updated,
    faults: Mapping[str, str],
    now: float,
    since: float,
    stamp: float,
    record: WaveRecord,
    failures: Failures | None,
    *,
    is_first: bool,
    proven: Mapping[str, float],
) -> WaveProgress:
    """Return how far the waves are at *now* of a rollout that began at *since*, in seconds since the epoch.

    *updated* are the devices that have the target, *faults* why some cannot get it, and *stamp* is the least one of its
    offers. *record* is what is
    remembered of the waves. *failures* says which devices failed, None while no gateway judges them. *is_first*: no
    device has another revision, and none was rolled out before. *proven* is that of the snapshot. InvalidDeployment for
    a bad limit or selector.
    """
    waves = deployment.policy.update_strategy.rolling_update.waves
    devices = _Devices(deployment, assignment, updated, faults, now, stamp, proven)
    place, matched, recorded = _place(waves, devices)
    let_pass = {each.name for each in waves if _token(deployment, each, record.number) in deployment.approved}
    members = [
        _Members(wave=wave, matched=found, passed=wave.name in record.passed or wave.name in let_pass)
        for wave, found in zip((*waves, Wave(name=REST)), (*matched, True), strict=True)
    ]
    counted, available = (list(compress(place, each)) for each in (devices.counted, devices.available))
    unchanged = list(compress(place, updated.unchanged))  # of none, where all are changed
    for index, group in enumerate(members):
        group.devices, group.unchanged = place.count(index), unchanged.count(index)
        group.counted, group.available = counted.count(index), available.count(index)
        group.available_at = partial(devices.available_at, place, index)
        group.started = recorded[index] > 0
    failed = _failed(members, place, devices, assignment, failures, record)
    progress = _opened(deployment, members, place, now, since, record, is_first=is_first)
    record = WaveRecord(
        number=record.number,
        matched=record.matched | {group.wave.name for group in members[:-1] if group.matched},
        passed=progress.record.passed,
        failed=tuple(each for each in failed if each.wave not in progress.record.passed),
    )
    recheck_at = progress.recheck_at if failures is None else min(progress.recheck_at, failures.next_deadline)
    return evolve(progress, record=record, recheck_at=recheck_at)


def _failed(
    members: Sequence[_Members],
    place: Sequence[int],
    devices: _Devices,
    assignment: Assignment,
    failures: Failures | None,
    record: WaveRecord,
) -> tuple[WaveFailure, ...]:
    """Return the processes that failed and were not available since, and count those of devices that left."""
    known = {each.uid: each for each in record.failed}
    counted: set[str] = set()
    # of a fleet few fail: those that are available matter only where some did before
    suspects: Sequence[int] = range(len(place)) if known else assignment.special
    for number in [number for number in suspects if devices.updated[number]]:
        device, process = assignment.devices[number], assignment.processes[number]
        availability = assignment.availabilities[number]
        if process is None or devices.is_unchanged(number):
            continue
        if devices.is_available(number):
            known.pop(process.uid, None)
            continue
        index = place[number]
        group = members[index]
        gates = index < len(members) - 1 and not group.passed
        unseen = device.in_maintenance and devices.recorded.get(number) == group.wave.name and is_failed(process)
        if gates and failures is not None and (unseen or failures.of(device, process, availability)):
            known.setdefault(process.uid, WaveFailure(group.wave.name, device.name, process.uid))
        if process.uid in known and devices.counted[number] and known[process.uid].wave == group.wave.name:
            counted.add(process.uid)
    groups = {group.wave.name: group for group in members[:-1]}
    for process in assignment.orphans if failures is not None else ():  # what failed unseen, before its device left
        gate = groups.get(devices.wave_of(process))
        if gate is not None and not gate.passed and is_failed(process):
            known.setdefault(process.uid, WaveFailure(gate.wave.name, process.device, process.uid))
    failed = tuple(sorted(known.values()))[:MAX_FAILURES]
    for each in failed:
        if each.uid not in counted and each.wave in groups:
            groups[each.wave].failed.append(each.device)
    return failed


class _Devices:
    """What decides about waves in each device, in the order of the devices.

    *updated*: it has the target. *is_unchanged*: it had before. *counted*: waves wait for it. *available*: it is
    counted, and available with the target. *recorded* are the names of the waves in which updated devices got the
    target, by their numbers.
    """

    def __init__(
        self,
        deployment: DeploymentRow,
        assignment: Assignment,
        updated: Updated,
        faults: Mapping[str, str],
        now: float,
        stamp: float,
        proven: Mapping[str, float],
    ) -> None:
        self._revision = deployment.template.revision
        self._policy = deployment.policy
        self._proven = proven
        self._min_ready_s = float(deployment.policy.min_ready_seconds)
        self._now = now
        self._stamp = stamp
        self._assignment = assignment
        self.rows = assignment.devices
        self._faults = faults
        self.updated = updated.all
        self.is_unchanged = updated.is_unchanged
        self._unchanged = updated.unchanged
        numbers, processes = range(len(self.rows)), assignment.processes
        self.counted = [True] * len(numbers)
        for number in assignment.special:
            self.counted[number] = self._counts(number)
        for number in compress(numbers, updated.unchanged):
            self.counted[number] = False
        for number in self._faulty:
            self.counted[number] &= self.updated[number]
        self.available = list(map(and_, self.updated, self.counted))
        for number in assignment.special:
            self.available[number] &= self.is_available(number)
        self.recorded = {
            number: wave
            for number in compress(numbers, self.updated)
            if (process := processes[number]) is not None and process.wave and (wave := self.wave_of(process))
        }

    def wave_of(self, process: ProcessRow) -> str:
        """Return the name of the wave in which *process*, which has the target, got it; "" if in none."""
        stamp = process.offered_at if process.offer_stamp is None else process.offer_stamp
        recent = stamp is not None and stamp >= self._stamp  # not an earlier rollout of it
        return process.wave if recent and process.revision == self._revision else ""

    def is_available(self, number: int) -> bool:
        """Return whether the process of the device at *number* is available and not being deleted."""
        process = self._assignment.processes[number]
        is_available = self._assignment.availabilities[number] is Availability.AVAILABLE
        return is_available and process is not None and not process.terminating

    def available_at(self, place: Sequence[int], index: int) -> list[float]:
        """Return when the *available* devices whose *place* is the wave at *index* became so, the first one first."""
        numbers = [number for number in compress(range(len(place)), self.available) if place[number] == index]
        processes = (self._assignment.processes[number] for number in numbers)
        return sorted((each.ready_since or 0.0) + self._min_ready_s for each in processes if each is not None)

    @cached_property
    def _faulty(self) -> Sequence[int]:
        """The numbers of the devices that cannot be given what the overrides make of the template."""
        if not self._faults:
            return ()
        return [number for number, name in enumerate(self._assignment.names) if name in self._faults]

    def _counts(self, number: int) -> bool:
        device, process = self.rows[number], self._assignment.processes[number]
        availability, updated = self._assignment.availabilities[number], self.updated[number]
        if device.maintained(self._now) or (process is not None and process.kept_at <= self._now):
            return False
        if device.unmet and not updated:
            return False
        if process is not None and process.held == OVERTAKEN:
            return True
        if process is None:
            return device.connected is not False and not device.withheld
        if availability in (Availability.SILENT_AFTER_OFFER, Availability.SILENT) and not updated:
            return self._now < blamed_until(process, self._policy, self._proven)
        return availability not in _NOT_COUNTED and (updated or not process.held)

    def first(self, candidates: Sequence[int], room: float) -> Sequence[int]:
        """Return as many of *candidates* as a wave has *room* for: those that waves take first."""
        if room >= len(candidates):
            return candidates
        chosen: list[int] = []
        groups = self._by_rank(candidates)
        while (fits := int(room) - len(chosen)) > 0:
            group = next(groups)
            chosen += group if fits >= len(group) else sorted(group, key=self._assignment.names.__getitem__)[:fits]
        return chosen

    def may_pass(self, takes: Sequence[bool]) -> int:
        """Return how many of the devices that a wave *takes* may let it pass."""
        return takes.count(True) - sum(takes[number] for number in self._barred)

    @cached_property
    def _barred(self) -> Collection[int]:
        unmet = (number for number in self._assignment.special if self.rows[number].unmet)
        return {*unmet, *self._faulty, *compress(range(len(self.rows)), self._unchanged)}

    def _by_rank(self, candidates: Sequence[int]) -> Iterator[list[int]]:
        """Return *candidates* as waves take them: what has the target first, then what counts, then what was seen."""
        updated, counted = self.updated, self.counted
        same = set(compress(range(len(self.rows)), self._unchanged))
        changed = [number for number in candidates if number not in same] if same else candidates
        ranks = (
            [number for number in changed if updated[number] is has and counted[number] is counts]
            for has, counts in product((True, False), repeat=2)
        )
        last = [number for number in candidates if number in same]
        return chain.from_iterable(map(self._seen_first, chain(ranks, (last,))))

    def _seen_first(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        seen = [number for number in numbers if self.rows[number].connected is not None]
        return seen, [number for number in numbers if self.rows[number].connected is None]


def _place(waves: Sequence[Wave], devices: _Devices) -> tuple[list[int], list[bool], list[int]]:
    """Return the index of each device's wave, whether each wave matches a device, and how many are recorded in each."""
    index_of = {wave.name: index for index, wave in enumerate(waves)} | {REST: len(waves)}
    of_recorded = {number: index_of[name] for number, name in devices.recorded.items() if name in index_of}
    indices = list(of_recorded.values())
    recorded = [indices.count(index) for index in range(len(waves) + 1)]
    rest = len(waves)
    place = [rest] * len(devices.rows)
    free = [True] * len(place)
    for number, index in of_recorded.items():
        place[number], free[number] = index, False
    matched: list[bool] = []
    labels = [row.labels for row in devices.rows] if waves else []
    for index, wave in enumerate(waves):
        takes = compile_each(wave.selector or LabelSelector(), f"{_PATH}[{index}].selector")(labels)
        matched.append(True in takes)
        room = _limit(index, wave, devices, takes) - recorded[index]
        for number in devices.first(list(compress(range(len(place)), map(and_, takes, free))), room):
            place[number], free[number] = index, False
    return place, matched, recorded


def _limit(index: int, wave: Wave, devices: _Devices, takes: Sequence[bool]) -> float:
    if wave.limit is None:
        return math.inf
    # a wave that none may pass is not one without a device
    candidates = devices.may_pass(takes) or takes.count(True) if isinstance(wave.limit, str) else 0
    return amount(wave.limit, candidates, f"{_PATH}[{index}].limit")


def _opened(
    deployment: DeploymentRow,
    members: Sequence[_Members],
    place: Sequence[int],
    now: float,
    since: float,
    record: WaveRecord,
    *,
    is_first: bool,
) -> WaveProgress:
    open_ = max((index + 1 for index, group in enumerate(members) if group.started), default=0)
    for group in members[: max(0, open_ - 1)]:
        group.passed = True  # a later wave has begun
    progress_at, recheck_at, blocker = 0.0, math.inf, None
    while open_ < len(members) and blocker is None:
        group = members[open_]
        blocker, passed_at = _gates(members[:open_], now, since, record, is_first=is_first)
        if blocker is None:
            for before in members[:open_]:
                before.passed = True
            progress_at = passed_at
            others_wait = any(each.devices for each in members[open_ + 1 :])
            blocker = _approval(deployment, group, asked=bool(group.devices) or (group.matched and others_wait))
        elif passed_at > now:
            recheck_at = passed_at
        open_ += blocker is None
    passed = {index: reason for index, group in enumerate(members[:open_]) if (reason := _passed(deployment, group))}
    return WaveProgress(
        place=place,
        open=open_,
        blocker=blocker,
        waves=tuple(group.state(open=index < open_ and index not in passed) for index, group in enumerate(members)),
        record=evolve(record, passed=record.passed | {group.wave.name for group in members[:-1] if group.passed}),
        passed=passed,
        recheck_at=recheck_at,
        progress_at=progress_at,
    )


def _passed(deployment: DeploymentRow, group: _Members) -> Reason | None:
    """Return what a wave waits for that had no devices when its turn came."""
    return None if group.started else _approval(deployment, group, asked=bool(group.devices))


def _gates(
    before: Sequence[_Members], now: float, since: float, record: WaveRecord, *, is_first: bool
) -> tuple[Reason | None, float]:
    """Return what the next wave waits for (None: nothing), and when that ends or ended (epoch seconds; 0: unknown)."""
    opens_at = 0.0
    for group in before:
        if group.passed:
            continue
        reason = _empty(group, record, is_first=is_first) or _short(group)
        if reason is not None:
            return reason, 0.0
        reached_at = group.available_at()[group.needed - 1] if group.needed else since
        ends_at = reached_at + group.wave.soak_seconds if group.devices > group.unchanged or group.failed else 0.0
        if ends_at > now:
            until = format_time(datetime.fromtimestamp(ends_at, UTC))
            return Reason(ReasonCode.SOAKING, f"{group.wave.name} until {until}"), ends_at
        opens_at = max(opens_at, ends_at)
    return None, opens_at


def _empty(group: _Members, record: WaveRecord, *, is_first: bool) -> Reason | None:
    """Return why a wave that no device matches holds those after it; None when it does not, or when one does."""
    if group.devices or group.matched or is_first:
        return None
    if group.wave.name in record.matched:
        return Reason(ReasonCode.WAVE_LOST_ITS_DEVICES, _with_failed(group, group.wave.name))
    return None if group.wave.allow_empty else Reason(ReasonCode.WAVE_MATCHES_NOTHING, group.wave.name)


def _short(group: _Members) -> Reason | None:
    """Return what a wave waits for that has too few available devices; None when it has enough."""
    if group.available >= group.needed:
        return None
    detail = f"{group.wave.name} {group.available}/{group.needed}"
    if group.failed:
        return Reason(ReasonCode.WAVE_FAILED, _with_failed(group, detail))
    if not group.counted:
        if group.is_idle:
            return Reason(ReasonCode.WAVE_UNCHANGED, group.wave.name)
        return Reason(ReasonCode.WAVE_HAS_NO_ELIGIBLE_DEVICE, group.wave.name)
    return Reason(ReasonCode.WAITING_FOR_WAVE, detail)


def _with_failed(group: _Members, detail: str) -> str:
    names = sorted(group.failed)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{detail}, failed: {', '.join(names[:_SHOWN])}{more}" if names else detail


def _token(deployment: DeploymentRow, wave: Wave, number: int) -> str:
    """Return the approval that passes *wave* in the rollout *number*, whatever it has shown."""
    return f"{deployment.template.revision}/{wave.name}/{number}"


def _approval(deployment: DeploymentRow, group: _Members, *, asked: bool) -> Reason | None:
    wave = group.wave
    if wave.approval is Approval.AUTOMATIC or not asked:
        return None
    wanted = f"{deployment.template.revision}/{wave.name}"
    return None if wanted in deployment.approved else Reason(ReasonCode.AWAITING_APPROVAL, wave.name)
