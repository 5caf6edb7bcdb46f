# SPDX-License-Identifier: Apache-2.0
"""What the controller remembers of a deployment between passes. Losing it costs time, never safety."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping

from attrs import field, frozen, mutable

from praetor_api.kube.client.resource import Key
from praetor_controller.model.rows import ProcessRow
from praetor_controller.rollout.incremental import IncrementalAggregate

FIRST_RETRY_S = 5.0
"""A write that the API refused is tried again after this time, and after twice as long each time it is refused again:
its schema, a quota or a webhook may have been fixed."""
MAX_RETRY_S = 60.0
RETRIED_AT_ONCE = 10
"""How many of many refused writes are tried again first: while they are refused, so would be the others."""


@frozen
class Refusal:
    """A write that the API did not take; *revision* is the hash of the template, labels and annotations included."""

    revision: str
    message: str


@mutable
class Refusals:
    """The refused writes of a deployment, by device or delete-refusal key, and when some are tried again.

    *retry_at* is in monotonic seconds, and None while there is nothing to try again.
    """

    retry_at: float | None = None
    _found: dict[str, Refusal] = field(factory=dict)
    _retried: set[str] = field(factory=set)
    _attempts: int = 0
    _asked: str | None = None
    _shown: tuple[float, float] = (0.0, 0.0)

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def add(self, key: str, refusal: Refusal, now: float) -> None:
        """Remember that the API refused the write *key*."""
        self._found[key] = refusal
        if self.retry_at is None:
            self._schedule(now)

    def accepted(self, key: str, now: float) -> None:
        """Try all again when the API took one of those that it had refused."""
        if key in self._retried:
            self._retry(now)

    def current(self, revisions: Collection[str], asked: str, now: float) -> Mapping[str, str]:
        """Return the messages of those for one of *revisions* that are not to be tried again now; forget the others.

        A new value of *asked* is a user's request to try all again.
        """
        if self._asked not in (None, asked):
            self._retry(now)
        self._asked = asked
        kept = {key: each for key, each in self._found.items() if each.revision in revisions}
        replaced, self._found = bool(self._found) and not kept, kept
        due = self.retry_at is not None and now >= self.retry_at
        if replaced or (due and not kept):  # nothing was refused since the last attempt
            self.retry_at, self._attempts = None, 0
        elif due:
            first = list(kept)[: RETRIED_AT_ONCE if self._attempts else None]
            self._retried = set(first)
            for key in first:
                del kept[key]
            self._schedule(now)
        return {key: each.message for key, each in self._found.items()}

    def retry_time(self, epoch: float, now: float) -> float:
        """Return when some are tried again, in whole seconds of the wall clock, for people; 0 for never.

        *epoch* is *now* on that clock. The time stays the same while the attempt does.
        """
        if self.retry_at is None:
            return 0.0
        if self._shown[0] != self.retry_at:
            self._shown = self.retry_at, float(round(epoch + self.retry_at - now))
        return self._shown[1]

    def _schedule(self, now: float) -> None:
        self.retry_at = now + min(FIRST_RETRY_S * 2.0**self._attempts, MAX_RETRY_S)
        self._attempts += 1

    def _retry(self, now: float) -> None:
        if self.retry_at is not None:
            self.retry_at, self._attempts = now, 0


SETTLE_S = 5.0
"""For so long a process is unmatched before it is deleted, and its device counts as down afterwards: a user who labels
devices one after the other makes one change. A loop over kubectl takes less than a second for each."""


_LEAST_S = 0.01
"""Rounding of times must not make a pass be due at once, before time has passed."""


@frozen
class _Unmatched:
    """A process whose device no longer matches. *since* is in the time of rows; *is_up*: it was ready."""

    device: str
    since: float
    is_up: bool


@frozen(kw_only=True)
class RemovalState:
    """What Snapshot has by these names; *changes_at* is when time alone may change it."""

    removable: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    changes_at: float = math.inf


@mutable(kw_only=True)
class ReconcilerState:
    """The state of the deployment *uid*.

    *started_at* is the stamp of its rollout's start, in seconds since the epoch; no offer has one before *offers_from*.

    *writing_to* are the devices whose processes are being updated. *unknown* are the names of processes, by device,
    whose last write had no known outcome. *account* is there in steady state, and *audit_at* is when a pass over all
    devices is to confirm it, in monotonic seconds, as *status_due_at* is.
    """

    uid: str = ""
    writing_to: frozenset[str] = frozenset()
    refusals: Refusals = field(factory=Refusals)
    stored_as: dict[str, set[str]] = field(factory=dict)
    unknown: dict[str, str] = field(factory=dict)
    status_due_at: float | None = None
    account: IncrementalAggregate | None = None
    audit_at: float = 0.0
    started_at: float = 0.0
    offers_from: float = 0.0
    _seen: dict[str, tuple[object, float]] = field(factory=dict)
    _unmatched: dict[str, _Unmatched] = field(factory=dict)  # by uid
    _removed: dict[str, float] = field(factory=dict)  # devices, and until when they count as down

    @property
    def has_unmatched(self) -> bool:
        """Whether the last pass saw processes whose device no longer matches."""
        return bool(self._unmatched)

    def unmatched(
        self, rows: Iterable[ProcessRow], matching: Container[str], now: float, settle_s: float
    ) -> RemovalState:
        """Return which of *rows*, the deployment's processes, may be removed at *now*, in the time of rows.

        *settle_s* is SETTLE_S, or 0 for a forecast. *matching* are the names of the devices that match. A process that
        was unmatched and is gone was removed.
        """
        leaving: dict[str, _Unmatched] = {}
        matched: set[str] = set()
        for row in rows:
            if row.device in matching:
                matched.add(row.uid)
            elif not row.terminating:
                known = self._unmatched.get(row.uid)
                leaving[row.uid] = _Unmatched(row.device, known.since if known else now, row.ready_since is not None)
        gone = self._unmatched.keys() - leaving.keys() - matched
        until = {each.device: now + settle_s for uid in gone if (each := self._unmatched[uid]).is_up}
        self._removed = {name: at for name, at in (self._removed | until).items() if at > now}
        self._unmatched = leaving
        settled = {uid: each.since + settle_s for uid, each in leaving.items()}
        times = [at for at in (*settled.values(), *self._removed.values()) if at > now]
        return RemovalState(
            removable=frozenset(uid for uid, at in settled.items() if at <= now),
            removed=frozenset(self._removed),
            changes_at=max(min(times, default=math.inf), now + _LEAST_S),
        )

    def since(self, what: str, stamp: object, now: float) -> float:
        """Return since when *what* has had this *stamp*, as far as it was seen; *now* if it has another one now."""
        known = self._seen.get(what)
        if known is None or known[0] != stamp:
            known = self._seen[what] = (stamp, now)
        return known[1]


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
