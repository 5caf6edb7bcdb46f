"""Devices that other deployments have down: they count in the failure domains that both share. Pure.

What another deployment is about to write counts before it is written, so that two rollouts cannot both take the last
place of a domain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import frozen

from praetor_controller.availability import Standing, blamed_until, standing
from praetor_controller.rows import DeploymentRow, DeviceRow, ProcessRow


@frozen
class Neighbour:
    """Another deployment of the namespace, and the devices that it is about to write to, or may have written to."""

    deployment: DeploymentRow
    processes: Iterable[ProcessRow]
    taking: Collection[str] = frozenset()


def down_elsewhere(
    neighbours: Iterable[Neighbour], devices: Mapping[str, DeviceRow], now: float
) -> tuple[DeviceRow, ...]:
    """Return those of *devices*, all of the namespace by name, that one of the *neighbours* has down at *now*."""
    names: set[str] = set()
    for neighbour in neighbours:
        names.update(neighbour.taking)
        names.update(_down(neighbour, devices, now))
    rows = (devices[name] for name in sorted(names & devices.keys()))
    return tuple(row for row in rows if not row.maintained(now))


def _down(neighbour: Neighbour, devices: Mapping[str, DeviceRow], now: float) -> Iterable[str]:
    policy = neighbour.deployment.policy
    min_ready_s, deadline_s = float(policy.min_ready_seconds), float(policy.progress_deadline_seconds)
    for process in neighbour.processes:
        device = devices.get(process.device)
        if device is None:
            continue
        stands = standing(process, device, min_ready_s, now)
        blamed = stands is Standing.SILENT_AFTER_OFFER and now < blamed_until(process, device, min_ready_s, deadline_s)
        if blamed or stands is Standing.UNAVAILABLE:
            yield process.device
