# SPDX-License-Identifier: Apache-2.0
"""Which of the devices that are up may go down now: the budgets, over the verdicts of a whole fleet. Pure.

Devices whose verdict is down are spent. Never more than maxUnavailable devices are down by our doing, nor more in any
failure domain than the budgets of all deployments that match the device allow. A device whose process is ready and only
waits for minReadySeconds is down already, so it is admitted unless more are spent than allowed. Devices are admitted by
wave, then by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import field, frozen, mutable

from praetor_controller.rollout.assignment import Assignment
from praetor_controller.rollout.budgets import Domains
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.verdicts import Step, Verdicts
from praetor_controller.rollout.waves import WaveProgress


@frozen(kw_only=True)
class Admission:
    """The numbers of the devices to update now, in order, and the reasons of those that wait for a budget."""

    admitted: Sequence[int]
    refused: Mapping[int, Reason]


@mutable
class _Refusals:
    reasons: dict[int, Reason] = field(factory=dict)
    _shared: dict[str, Reason] = field(factory=dict)

    def add(self, numbers: Iterable[int], exhausted: str) -> None:
        """Let *numbers* wait for the budget that is *exhausted*; they share one reason."""
        reason = self._shared.get(exhausted)
        if reason is None:
            reason = self._shared[exhausted] = Reason(ReasonCode.BUDGET_EXHAUSTED, exhausted)
        for number in numbers:
            self.reasons[number] = reason


def admit(
    verdicts: Verdicts, assignment: Assignment, waves: WaveProgress | None, limit: int, spent: int, domains: Domains
) -> Admission:
    """Return which devices may go down, of at most *limit* in all, of which so many are *spent*.

    *domains* have counted these, and count those that go down.
    """
    devices = assignment.devices
    room = limit - spent
    full = f"maxUnavailable={limit}"
    admitted: list[int] = []
    refusals = _Refusals()
    for number in verdicts.with_step(Step.UPDATE_IN_BUDGET):
        exhausted = domains.full(devices[number]) if room >= 0 else full
        if exhausted:
            refusals.add((number,), exhausted)
        else:
            admitted.append(number)
    waiting = _in_order(verdicts.with_step(Step.UPDATE_WITH_PLACE), assignment, waves)
    for at, number in enumerate(waiting):
        if room <= 0:
            refusals.add(waiting[at:], full)
            break
        exhausted = domains.full(devices[number]) if domains else ""
        if exhausted:
            refusals.add((number,), exhausted)
        else:
            admitted.append(number)
            domains.take(devices[number])
            room -= 1
    return Admission(admitted=admitted, refused=refusals.reasons)


def _in_order(numbers: Sequence[int], assignment: Assignment, waves: WaveProgress | None) -> list[int]:
    ordered = sorted(numbers, key=assignment.names.__getitem__)
    if waves is not None and waves.place:
        ordered.sort(key=waves.place.__getitem__)
    return ordered
