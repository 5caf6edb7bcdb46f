# SPDX-License-Identifier: Apache-2.0
"""What the controller remembers of a deployment between passes. Losing it costs time, never safety."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import field, frozen, mutable

from praetor_api.kube.client.resource import Key
from praetor_controller.rollout.incremental import IncrementalAggregate

REFUSED_FOR_S = 300.0
"""A write that the API refused is tried again after this time: its schema or its webhooks may have been fixed."""


@frozen
class Refusal:
    """A write that the API will not take.

    *revision* is the hash of the template that it was made for, labels and annotations included; *until* is in
    monotonic seconds.
    """

    revision: str
    message: str
    until: float


@mutable(kw_only=True)
class ReconcilerState:
    """The state of the deployment *uid*.

    *started_at* is the stamp of its rollout's start, in seconds since the epoch.

    *writing_to* are the devices whose processes are being updated. *unknown* are the names of processes, by device,
    whose last write had no known outcome. *account* is there in steady state, and *audit_at* is when a pass over all
    devices is to confirm it, in monotonic seconds, as *status_due_at* is.
    """

    uid: str = ""
    writing_to: frozenset[str] = frozenset()
    refusals: dict[str, Refusal] = field(factory=dict)
    stored_as: dict[str, set[str]] = field(factory=dict)
    unknown: dict[str, str] = field(factory=dict)
    status_due_at: float | None = None
    account: IncrementalAggregate | None = None
    audit_at: float = 0.0
    started_at: float = 0.0
    _seen: dict[str, tuple[object, float]] = field(factory=dict)

    def since(self, what: str, stamp: object, now: float) -> float:
        """Return since when *what* has had this *stamp*, as far as it was seen; *now* if it has another one now."""
        known = self._seen.get(what)
        if known is None or known[0] != stamp:
            known = self._seen[what] = (stamp, now)
        return known[1]

    def refused(self, revisions: Collection[str], now: float) -> Mapping[str, str]:
        """Return why writes for one of *revisions* were refused, by device or delete-refusal key; forget the others."""
        self.refusals = {
            device: refusal
            for device, refusal in self.refusals.items()
            if refusal.revision in revisions and now < refusal.until
        }
        return {device: refusal.message for device, refusal in self.refusals.items()}

    def retry_at(self) -> float | None:
        """Return when the first of the refused writes may be tried again."""
        return min((refusal.until for refusal in self.refusals.values()), default=None)


class DirtySet:
    """The devices of each deployment in steady state that changed since its last pass.

    Events add devices and a pass takes them. An event that may concern other devices, too, makes the set stop tracking
    the deployment: then only a pass over all its devices can decide.
    """

    def __init__(self) -> None:
        self._devices: dict[Key, set[str]] = {}

    def track(self, deployment: Key) -> None:
        """Collect from now on which devices of *deployment* change."""
        self._devices[deployment] = set()

    def untrack(self, deployment: Key) -> None:
        """Collect nothing more: any device may have changed."""
        self._devices.pop(deployment, None)

    def tracks(self, deployment: Key) -> bool:
        """Return whether *deployment* is tracked: then all its devices are in steady state."""
        return deployment in self._devices

    def add(self, deployment: Key, device: str) -> None:
        """Mark *device* as changed, or its process."""
        devices = self._devices.get(deployment)
        if devices is not None:
            devices.add(device)

    def take(self, deployment: Key) -> frozenset[str] | None:
        """Return the devices that changed since the last call, and start over; None when any may have."""
        devices = self._devices.get(deployment)
        if devices is None:
            return None
        self._devices[deployment] = set()
        return frozenset(devices)
