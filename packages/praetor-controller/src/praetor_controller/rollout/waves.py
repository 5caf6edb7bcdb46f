"""Waves: which device belongs to which, and which of them are open. Pure, and derived from the snapshot alone.

A device that has the update revision keeps the wave that was noted on its process. Of the others each belongs to the
first wave that selects it and has room, reachable ones first, then by name; what no wave takes is the last one. A
wave starts when in every wave before it enough devices were available for long enough, and somebody approved it where
that is asked for. It stays open once one of its devices was given the revision. A wave without devices is passed over;
the devices that come into it later still wait for its approval. Devices in maintenance, those that hold updates, and
those offline since before the offer are not counted; but a wave of such devices only has shown nothing, and the next
one waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from attrs import field, frozen, mutable

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import Approval, LabelSelector, Wave
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.model.selectors import Matches, compile_selector
from praetor_controller.rollout.amounts import amount
from praetor_controller.rollout.assignment import Pairing
from praetor_controller.rollout.availability import Standing, blamed_until
from praetor_controller.rollout.reasons import Reason, ReasonCode

REST = "(rest)"
"""Name of the last wave, which no wave of the spec can have."""
_PATH = "spec.updateStrategy.rollingUpdate.waves"
_NOWHERE = -1
_SPARED = (Standing.NEVER_REPORTED, Standing.OFFLINE_BEFORE_OFFER, Standing.HELD)


@frozen(kw_only=True)
class WaveState:
    """One wave, for people: of *counted* devices *available* have the revision, and *needed* must."""

    name: str
    devices: int
    counted: int
    available: int
    needed: int
    open: bool


@frozen(kw_only=True)
class Stage:
    """How far a rollout has come: waves with an index below *open* are, unless they are among the *passed* over, which
    say why; *blocker* says why the next one is not.

    *place* is the index of each device's wave, in the order of the devices; empty when there are no waves.
    """

    place: Sequence[int]
    open: int
    blocker: Reason | None
    waves: tuple[WaveState, ...]
    passed: Mapping[int, Reason] = field(factory=dict)
    look_at: float = math.inf
    progress_at: float = 0.0  # when the last wave was opened by a soak that ended


@mutable(kw_only=True)
class _Members:
    wave: Wave
    devices: int = 0
    counted: int = 0
    available_at: list[float] = field(factory=list)
    started: bool = False

    @property
    def needed(self) -> int:
        threshold = self.wave.success_threshold
        return max(1, math.ceil(self.counted * threshold / 100)) if self.devices and threshold else 0

    def state(self, *, open: bool) -> WaveState:
        available = len(self.available_at)
        return WaveState(
            name=self.wave.name,
            devices=self.devices,
            counted=self.counted,
            available=available,
            needed=self.needed,
            open=open,
        )


def stage(deployment: DeploymentRow, pairing: Pairing, hashes: Collection[str], now: float, since: float) -> Stage:
    """Return where the rollout stands at *now*; it began at *since*. InvalidDeployment for a bad limit or selector."""
    waves = deployment.policy.update_strategy.rolling_update.waves
    seen = _Seen(deployment, pairing, hashes, now, since)
    place = _place(waves, seen)
    members = [_Members(wave=wave) for wave in (*waves, Wave(name=REST))]
    for index, counted, available_at, note in zip(place, seen.counted, seen.available_at, seen.notes, strict=True):
        group = members[index]
        group.devices += 1
        if counted:
            group.counted += 1
            if available_at is not None:
                group.available_at.append(available_at)
        if note == group.wave.name:
            group.started = True
    return _opened(deployment, members, place, now, since)


class _Seen:
    """What waves look for in the devices, in their order.

    *notes* are the waves that updated devices were given the revision in, *available_at* when they became available.
    """

    def __init__(
        self, deployment: DeploymentRow, pairing: Pairing, hashes: Collection[str], now: float, since: float
    ) -> None:
        self._revision = deployment.template.revision
        self._deadline_s = float(deployment.policy.progress_deadline_seconds)
        self._min_ready_s = float(deployment.policy.min_ready_seconds)
        self._now = now
        self._since = since
        self._names = pairing.names
        self.devices = pairing.devices
        self.updated = [each in hashes for each in pairing.hashes]
        self.counted = [
            not (device.in_maintenance and device.maintained(now))
            and ((stands is Standing.AVAILABLE and updated) or self._counts(device, process, stands, updated=updated))
            for (device, process, stands), updated in zip(pairing, self.updated, strict=True)
        ]
        self.available_at = [
            (process.ready_since or 0.0) + self._min_ready_s
            if updated and process is not None and stands is Standing.AVAILABLE and not process.terminating
            else None
            for (_, process, stands), updated in zip(pairing, self.updated, strict=True)
        ]
        self.notes = [
            self._note(process) if updated and process is not None else ""
            for process, updated in zip(pairing.processes, self.updated, strict=True)
        ]

    def _note(self, process: ProcessRow) -> str:
        recent = process.offered_at is not None and process.offered_at >= self._since  # not an earlier rollout of it
        return process.wave if recent and process.revision == self._revision else ""

    def _counts(self, device: DeviceRow, process: ProcessRow | None, stands: Standing | None, *, updated: bool) -> bool:
        if process is None:
            return device.connected is not False
        if stands is Standing.SILENT_AFTER_OFFER and not updated:
            return self._now < blamed_until(process, device, self._min_ready_s, self._deadline_s)
        return stands not in _SPARED and (updated or not process.held)

    def left(self, place: Sequence[int]) -> list[int]:
        """Return the devices without a place in the order in which waves take them."""
        left = [number for number, index in enumerate(place) if index == _NOWHERE]
        left.sort(key=self._names.__getitem__)
        left.sort(key=self._rank)
        return left

    def _rank(self, number: int) -> tuple[bool, bool, bool]:
        return not self.updated[number], not self.counted[number], self.devices[number].connected is None


def _place(waves: Sequence[Wave], seen: _Seen) -> list[int]:
    """Return the index of each device's wave."""
    index_of = {wave.name: index for index, wave in enumerate(waves)} | {REST: len(waves)}
    place = [index_of.get(note, _NOWHERE) for note in seen.notes]
    kept = Counter(place)
    left = seen.left(place)
    for index, wave in enumerate(waves):
        takes = compile_selector(wave.selector or LabelSelector(), f"{_PATH}[{index}].selector")
        room = _limit(index, wave, seen, takes) - kept[index]
        left = _fill(index, takes, room, seen, place, left)
    for number in left:
        place[number] = len(waves)
    return place


def _fill(index: int, takes: Matches, room: float, seen: _Seen, place: list[int], left: Sequence[int]) -> list[int]:
    """Give the wave at *index* those of the devices *left* that it takes; return the others."""
    others: list[int] = []
    for at, number in enumerate(left):
        if room <= 0:
            return [*others, *left[at:]]
        if takes(seen.devices[number].labels):
            place[number] = index
            room -= 1
        else:
            others.append(number)
    return others


def _limit(index: int, wave: Wave, seen: _Seen, takes: Matches) -> float:
    if wave.limit is None:
        return math.inf
    candidates = sum(takes(device.labels) for device in seen.devices) if isinstance(wave.limit, str) else 0
    return amount(wave.limit, candidates, f"{_PATH}[{index}].limit")


def _opened(
    deployment: DeploymentRow, members: Sequence[_Members], place: Sequence[int], now: float, since: float
) -> Stage:
    open_ = max((index + 1 for index, group in enumerate(members) if group.started), default=0)
    progress_at, look_at, blocker = 0.0, math.inf, None
    while open_ < len(members) and blocker is None:
        group = members[open_]
        blocker, passed_at = _gates(members[:open_], now, since)
        if blocker is None:
            progress_at = passed_at
            blocker = _approval(deployment, group)
        elif passed_at > now:
            look_at = passed_at
        open_ += blocker is None
    passed = {index: reason for index, group in enumerate(members[:open_]) if (reason := _passed(deployment, group))}
    return Stage(
        place=place,
        open=open_,
        blocker=blocker,
        waves=tuple(group.state(open=index < open_ and index not in passed) for index, group in enumerate(members)),
        passed=passed,
        look_at=look_at,
        progress_at=progress_at,
    )


def _passed(deployment: DeploymentRow, group: _Members) -> Reason | None:
    """Return what a wave still waits for that had no devices when it was its turn."""
    return None if group.started else _approval(deployment, group)


def _gates(before: Sequence[_Members], now: float, since: float) -> tuple[Reason | None, float]:
    """Return what holds the next wave up, if anything does, and when the gates open or opened (0: nobody knows)."""
    opens_at = 0.0
    for group in before:
        available = len(group.available_at)
        if available < group.needed:
            return Reason(ReasonCode.WAITING_FOR_WAVE, f"{group.wave.name} {available}/{group.needed}"), 0.0
        reached_at = sorted(group.available_at)[group.needed - 1] if group.needed else since
        ends_at = reached_at + group.wave.soak_seconds if group.devices else 0.0
        if ends_at > now:
            until = format_time(datetime.fromtimestamp(ends_at, UTC))
            return Reason(ReasonCode.SOAKING, f"{group.wave.name} until {until}"), ends_at
        opens_at = max(opens_at, ends_at)
    return None, opens_at


def _approval(deployment: DeploymentRow, group: _Members) -> Reason | None:
    wave = group.wave
    if wave.approval is Approval.AUTOMATIC or not group.devices:
        return None
    wanted = f"{deployment.template.revision}/{wave.name}"
    return None if wanted in deployment.approved else Reason(ReasonCode.AWAITING_APPROVAL, wave.name)
