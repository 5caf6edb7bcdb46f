# SPDX-License-Identifier: Apache-2.0
"""How far a rollout in waves has come, computed from what the API stores, for the invariants.

It knows nothing of how the planner places devices; where the objects do not show it, a wave counts as stood. A rollout
begins when its revision is recorded: before that, nothing is offered, and an edit that is undone began none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from attrs import field, mutable

from controller_simulation.invariants import left_out, selects, share, wave_of
from controller_simulation.stored import Stored
from praetor_api.kube.objects import Wave
from praetor_api.kube.runtime.clock import Clock
from praetor_controller.model.rows import DeploymentRow, ProcessRow

_ALWAYS = -math.inf

ROUNDED_S = 0.001
"""The controller's times are rounded to milliseconds, so that it acts up to half of one early."""


@mutable
class _Rollout:
    revision: str = ""
    number: int = 0
    began: float = 0.0
    stood: dict[str, float] = field(factory=dict)
    failed: dict[str, str] = field(factory=dict)  # waves by the uids of processes


class Progress:
    """Which waves of the present rollouts have stood, and since when: kept, because a device may fail later."""

    def __init__(self, stored: Stored, clock: Clock) -> None:
        self._stored = stored
        self._clock = clock
        self.rollouts: dict[str, _Rollout] = {}

    def began(self, name: str) -> float:
        return self.rollouts[name].began

    def stood(self, name: str) -> Mapping[str, float]:
        """Return the waves that have stood of the template's rollout: none before its revision is the newest one."""
        rollout = self.rollouts[name]
        return rollout.stood if rollout.revision == self._stored.deployment(name).template.revision else {}

    def failed(self, name: str) -> Collection[str]:
        """Return the waves that have not stood, and of which a process failed and was not available since."""
        rollout = self.rollouts[name]
        return {wave for wave in rollout.failed.values() if wave not in rollout.stood}

    def update(self, name: str) -> None:
        """Record the waves of *name* that stand now."""
        row, number = self._stored.rollout(name)
        rollout, now = self.rollouts.get(name), self._clock.now().timestamp()
        if rollout is None or (rollout.revision, rollout.number) != (row.template.revision, number):
            rollout = self.rollouts[name] = _Rollout(row.template.revision, number, now)
        devices, is_first = self._stored.matching(name), self._stored.is_first(row)
        processes = {each.device: each for each in self._stored.processes(name) if each.device in devices}
        waves_of = {each: wave_of(row, process, rollout.began) for each, process in processes.items()}
        available = self._available(row, processes)
        unchanged = self._stored.unchanged(row, rollout.began)
        available = {each: at for each, at in available.items() if each not in unchanged}
        self._record_failures(rollout, processes, waves_of, available)
        for wave in row.policy.update_strategy.rolling_update.waves:
            there = {each for each, note in waves_of.items() if note == wave.name}
            there |= {each.name for each in devices.values() if not waves_of.get(each.name) and selects(wave, each)}
            spared = {each for each in there if devices[each].in_maintenance or not devices[each].connected}
            out = {each for each in there if left_out(row, devices[each])} | (there & unchanged)
            spared |= {each for each in there & processes.keys() if processes[each].held} | out | (there & unchanged)
            taken = {each for each in spared if waves_of.get(each) == wave.name}
            now_there = {each.uid for each in processes.values() if each.device in there - spared}
            gone = [uid for uid, each in rollout.failed.items() if each == wave.name and uid not in now_there]
            since = _since(
                wave, there, out, spared, taken, {each: available[each] for each in there & available.keys()}, len(gone)
            )
            matched = any(selects(wave, each) for each in devices.values())  # and all of them got it in other waves
            if not there and not gone and not (matched or wave.allow_empty or is_first):
                since = math.inf
            if wave.allow_empty and there and there <= unchanged and not gone:
                since = _ALWAYS
            if f"{row.template.revision}/{wave.name}/{number}" in row.approved:
                since = _ALWAYS
            if since <= now + ROUNDED_S:
                rollout.stood[wave.name] = min(since, rollout.stood.get(wave.name, math.inf))

    def _record_failures(
        self,
        rollout: _Rollout,
        processes: Mapping[str, ProcessRow],
        waves_of: Mapping[str, str],
        available: Mapping[str, float],
    ) -> None:
        failed, now = rollout.failed, self._clock.now().timestamp()
        for device, process in processes.items():
            if process.failure and process.ready_since is None and waves_of[device]:
                failed.setdefault(process.uid, waves_of[device])
            elif device in available and available[device] <= now + ROUNDED_S:
                failed.pop(process.uid, None)

    def _available(self, row: DeploymentRow, processes: Mapping[str, ProcessRow]) -> dict[str, float]:
        """Return the devices that have the revision and are ready, and when they became, or become, available."""
        wait_s, wanted = row.policy.min_ready_seconds, row.template.revision
        return {
            device: process.ready_since + wait_s
            for device, process in processes.items()
            if process.ready_since is not None and process.revision == wanted
        }


def _since(
    wave: Wave,
    there: Collection[str],
    out: Collection[str],
    spared: Collection[str],
    taken: Collection[str],
    available: Mapping[str, float],
    gone: int,
) -> float:
    """Return since when *wave* stands, at most, with the devices that may be *there*; inf when it does not.

    Those that are left *out*, for they do not meet the requirements, are *spared*, too. Besides these, so many that
    failed are *gone*.
    """
    if not (there or gone) or not wave.success_threshold:
        return _ALWAYS
    room = math.inf if wave.limit is None else share(wave.limit, len(there) - len(out)) - len(taken)
    counted = max(0.0, min(room, len(there) - len(spared))) + gone
    needed = max(1, math.ceil(counted * wave.success_threshold / 100))
    return sorted(available.values())[needed - 1] if len(available) >= needed else math.inf
