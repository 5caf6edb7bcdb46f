"""Which process belongs to which device, and how it stands with it: one each, and what to do with the others. Pure.

All that a pass asks of a fleet is in sequences of one order, which are walked side by side: a look-up by name for each
question would be most of what a pass over a hundred thousand devices costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from attrs import frozen

from praetor_controller.model.rows import DeviceRow, ProcessRow
from praetor_controller.rollout.availability import Standing, standings


@frozen(kw_only=True)
class Pairing:
    """*names* and *processes* are those of the *devices*, in their order; None where there is no process.

    *hashes* are of the specs of these processes, and *stands* how they stand, in the same order.
    *strays* have no matching device; *surplus* are the younger ones of several on one device.
    """

    devices: Sequence[DeviceRow]
    names: Sequence[str]
    processes: Sequence[ProcessRow | None]
    hashes: Sequence[str | None]
    stands: Sequence[Standing | None]
    strays: tuple[ProcessRow, ...]
    surplus: tuple[ProcessRow, ...]

    def __iter__(self) -> Iterator[tuple[DeviceRow, ProcessRow | None, Standing | None]]:
        return zip(self.devices, self.processes, self.stands, strict=True)


class _Matched(NamedTuple):
    processes: Sequence[ProcessRow | None]
    strays: tuple[ProcessRow, ...]
    surplus: tuple[ProcessRow, ...]


def pair(devices: Sequence[DeviceRow], processes: Sequence[ProcessRow], min_ready_s: float, now: float) -> Pairing:
    """Return the one process of each device, and those that are to go and do not go yet."""
    names = [device.name for device in devices]
    if names == [process.device for process in processes]:  # as the API lists a fleet: nothing has to be looked up
        paired, strays, surplus = _Matched(processes, (), ())
    else:
        paired, strays, surplus = _matched(names, processes)
    return Pairing(
        devices=devices,
        names=names,
        processes=paired,
        hashes=[process.spec_hash if process is not None else None for process in paired],
        stands=standings(devices, paired, min_ready_s, now),
        strays=strays,
        surplus=surplus,
    )


def _matched(names: Sequence[str], processes: Iterable[ProcessRow]) -> _Matched:
    process_of: dict[str, ProcessRow] = {}
    younger: list[ProcessRow] = []
    for process in processes:
        kept = process_of.setdefault(process.device, process)
        if kept is not process:
            first, second = sorted((kept, process), key=_age)
            process_of[process.device] = first
            younger.append(second)
    matching = frozenset(names if younger else ())
    paired = [process_of.pop(name, None) for name in names]  # what is left belongs to none of them
    strays = (*process_of.values(), *(process for process in younger if process.device not in matching))
    surplus = (process for process in younger if process.device in matching)
    return _Matched(paired, _staying(strays), _staying(surplus))


def _age(process: ProcessRow) -> tuple[bool, float, str]:
    return process.terminating, process.created_at, process.name


def _staying(processes: Iterable[ProcessRow]) -> tuple[ProcessRow, ...]:
    return tuple(process for process in processes if not process.terminating)
