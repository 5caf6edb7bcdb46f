"""Waves: which device belongs to which, and which of them are open. Pure, and derived from the snapshot alone.

A device that has the update revision keeps the wave that was noted on its process. Of the others each belongs to the
first wave that selects it and has room, reachable ones first, then by name; what no wave takes is the last one. A
wave starts when in every wave before it enough devices were available for long enough, and somebody approved it where
that is asked for. It stays open once one of its devices was given the revision. Devices in maintenance, or offline
since before the offer, are not counted; but a wave of such devices only has shown nothing, and the next one waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from attrs import field, frozen, mutable

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import Approval, LabelSelector, Wave
from praetor_controller.amounts import amount
from praetor_controller.availability import Standing, blamed_until, standing
from praetor_controller.reasons import Reason, ReasonCode
from praetor_controller.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.selectors import Matches, compile_selector

REST = "(rest)"
"""Name of the last wave, which no wave of the spec can have."""
_PATH = "spec.updateStrategy.rollingUpdate.waves"


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
    """How far a rollout has come: waves with an index below *open* are; *blocker* says why the next one is not."""

    place: Mapping[str, int]
    open: int
    blocker: Reason | None
    waves: tuple[WaveState, ...]
    look_at: float = math.inf
    progress_at: float = 0.0  # when the last wave was opened by a soak that ended


class _Seen(NamedTuple):
    device: DeviceRow
    updated: bool
    counted: bool
    available_at: float | None
    note: str


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


def stage(
    deployment: DeploymentRow,
    devices: Sequence[DeviceRow],
    find: Callable[[str], ProcessRow | None],
    hashes: Collection[str],
    now: float,
    since: float,
) -> Stage:
    """Return where the rollout stands at *now*; it began at *since*. InvalidDeployment for a bad limit or selector."""
    waves = deployment.policy.update_strategy.rolling_update.waves
    eyes = _Eyes(deployment, hashes, now, since)
    seen = [eyes.see(device, find(device.name)) for device in devices]
    place = _place(waves, seen)
    members = [_Members(wave=wave) for wave in (*waves, Wave(name=REST))]
    for each in seen:
        index = place[each.device.name]
        group = members[index]
        group.devices += 1
        group.counted += each.counted
        if each.available_at is not None and each.counted:
            group.available_at.append(each.available_at)
        group.started = group.started or (each.updated and each.note == group.wave.name)
    return _opened(deployment, members, place, now, since)


class _Eyes:
    """What waves look for in a device."""

    def __init__(self, deployment: DeploymentRow, hashes: Collection[str], now: float, since: float) -> None:
        self._revision = deployment.template.revision
        self._hashes = hashes
        self._min_ready_s = float(deployment.policy.min_ready_seconds)
        self._deadline_s = float(deployment.policy.progress_deadline_seconds)
        self._now = now
        self._since = since

    def see(self, device: DeviceRow, process: ProcessRow | None) -> _Seen:
        maintained = device.maintained(self._now)
        if process is None:
            return _Seen(device, False, not maintained and device.connected is not False, None, "")
        updated = process.spec_hash in self._hashes
        stands = standing(process, device, self._min_ready_s, self._now)
        recent = process.offered_at is not None and process.offered_at >= self._since  # not an earlier rollout of it
        note = process.wave if process.revision == self._revision and recent else ""
        available_at = None
        if updated and stands is Standing.AVAILABLE and not process.terminating:
            available_at = (process.ready_since or 0.0) + self._min_ready_s
        counted = not maintained and self._counts(device, process, stands, updated=updated)
        return _Seen(device, updated, counted, available_at, note)

    def _counts(self, device: DeviceRow, process: ProcessRow, stands: Standing, *, updated: bool) -> bool:
        if stands is Standing.SILENT_AFTER_OFFER and not updated:
            return self._now < blamed_until(process, device, self._min_ready_s, self._deadline_s)
        return stands not in (Standing.NEVER_REPORTED, Standing.OFFLINE_BEFORE_OFFER)


def _place(waves: Sequence[Wave], seen: Sequence[_Seen]) -> dict[str, int]:
    index_of = {wave.name: index for index, wave in enumerate(waves)} | {REST: len(waves)}
    place = {each.device.name: index_of[each.note] for each in seen if each.updated and each.note in index_of}
    left = sorted(
        (each for each in seen if each.device.name not in place),
        key=_rank,
    )
    kept = Counter(place.values())
    for index, wave in enumerate(waves):
        takes, others = compile_selector(wave.selector or LabelSelector(), f"{_PATH}[{index}].selector"), []
        room = _limit(index, wave, seen, takes) - kept[index]
        for each in left:
            if room > 0 and takes(each.device.labels):
                place[each.device.name] = index
                room -= 1
            else:
                others.append(each)
        left = others
    place.update((each.device.name, len(waves)) for each in left)
    return place


def _rank(seen: _Seen) -> tuple[bool, bool, bool, str]:
    return not seen.updated, not seen.counted, seen.device.connected is None, seen.device.name


def _limit(index: int, wave: Wave, seen: Sequence[_Seen], takes: Matches) -> float:
    if wave.limit is None:
        return math.inf
    candidates = sum(takes(each.device.labels) for each in seen) if isinstance(wave.limit, str) else 0
    return amount(wave.limit, candidates, f"{_PATH}[{index}].limit")


def _opened(
    deployment: DeploymentRow, members: Sequence[_Members], place: Mapping[str, int], now: float, since: float
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
    return Stage(
        place=place,
        open=open_,
        blocker=blocker,
        waves=tuple(_states(members, open_)),
        look_at=look_at,
        progress_at=progress_at,
    )


def _states(members: Iterable[_Members], open_: int) -> Iterable[WaveState]:
    return (group.state(open=index < open_) for index, group in enumerate(members))


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
