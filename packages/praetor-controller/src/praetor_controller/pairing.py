"""Which process belongs to which device: one each, and what to do with the others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from praetor_controller.rows import DeviceRow, ProcessRow


@frozen(kw_only=True)
class Pairing:
    """*strays* have no matching device; *surplus* are the younger ones of several on one device."""

    process_of: Mapping[str, ProcessRow]
    strays: tuple[ProcessRow, ...]
    surplus: tuple[ProcessRow, ...]


def pair(devices: Sequence[DeviceRow], processes: Sequence[ProcessRow]) -> Pairing:
    """Return the one process of each device, and those that are to go and do not go yet."""
    matching = {device.name for device in devices}
    process_of: dict[str, ProcessRow] = {}
    strays: list[ProcessRow] = []
    surplus: list[ProcessRow] = []
    for process in processes:
        if process.device not in matching:
            strays.append(process)
            continue
        kept = process_of.setdefault(process.device, process)
        if kept is not process:
            first, second = sorted((kept, process), key=_age)
            process_of[process.device] = first
            surplus.append(second)
    return Pairing(process_of=process_of, strays=_staying(strays), surplus=_staying(surplus))


def _age(process: ProcessRow) -> tuple[bool, float, str]:
    return process.terminating, process.created_at, process.name


def _staying(processes: Sequence[ProcessRow]) -> tuple[ProcessRow, ...]:
    return tuple(process for process in processes if not process.terminating)
