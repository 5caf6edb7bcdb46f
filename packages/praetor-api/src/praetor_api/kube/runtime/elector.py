# SPDX-License-Identifier: Apache-2.0
"""Leader election on a Lease, after client-go's.

Whether another holder's lease has expired is decided by when this process saw it change, on the monotonic clock, never
by its timestamps. Our own counts from before the renewal was sent, so we always stop before another may start.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import AlreadyExists, Conflict, KubeError, NotFound, Unreachable
from praetor_api.kube.client.resource import LEASES, Key
from praetor_api.kube.codec import format_micro_time
from praetor_api.kube.runtime.clock import Clock, first, within
from praetor_api.kube.runtime.informer import went_back

__all__ = ["Elector"]

_JITTER = 1.2

_log = logging.getLogger(__name__)


class Elector:
    """One candidate for the Lease *key*.

    *identity* must differ between processes. *annotations* are set on the lease by its holder, and those of *defaults*
    where it has none: what the holder before announced stays until we announce something else. Times are in seconds.
    *on_doubt* is called after a request without an answer, with the monotonic seconds at which it was sent, and with
    None when the lease went back to an earlier version: the API's store was restored from a backup.

    Unless given, the renew deadline is two thirds of the lease's duration and the retry period two fifteenths of it.
    """

    def __init__(
        self,
        api: KubeApi,
        key: Key,
        identity: str,
        clock: Clock,
        *,
        lease_duration_s: float = 15.0,
        renew_deadline_s: float | None = None,
        retry_period_s: float | None = None,
        annotations: Mapping[str, str] | None = None,
        defaults: Mapping[str, str] | None = None,
        on_doubt: Callable[[float | None], None] = lambda _: None,
    ) -> None:
        renew_deadline_s = lease_duration_s * 2 / 3 if renew_deadline_s is None else renew_deadline_s
        retry_period_s = lease_duration_s * 2 / 15 if retry_period_s is None else retry_period_s
        if not lease_duration_s > renew_deadline_s > retry_period_s * _JITTER > 0:
            raise ValueError("lease_duration_s must exceed renew_deadline_s, and that 1.2 times retry_period_s")
        self._api = api
        self._key = key
        self._identity = identity
        self._clock = clock
        self._lease_duration_s = lease_duration_s
        self._renew_deadline_s = renew_deadline_s
        self._retry_period_s = retry_period_s
        self._annotations = dict(annotations or {})
        self._defaults = dict(defaults or {})
        self._announced: dict[str, str] = {}  # in this term
        self._on_doubt = on_doubt
        self._lease: dict[str, Any] | None = None  # as last seen
        self._changed_at = 0.0  # when we saw its spec change, monotonic
        self._certain = False  # whether _lease is certainly what is stored
        self._renewed_at: float | None = None  # None: we do not lead

    @property
    def holder(self) -> str | None:
        """The holder's identity as last seen; None while no candidate holds the lease."""
        return _spec(self._lease).get("holderIdentity") or None

    @property
    def lease(self) -> Mapping[str, Any] | None:
        """The lease as last seen; None while it was not."""
        return self._lease

    @property
    def holder_annotations(self) -> Mapping[str, str]:
        """The annotations of the lease as last seen."""
        return ((self._lease or {}).get("metadata") or {}).get("annotations") or {}

    def fresh(self, now_monotonic: float | None = None) -> bool:
        """Return whether the last successful renewal is younger than the renew deadline: check before each write.

        *now_monotonic* None stands for the time of the clock.
        """
        if self._renewed_at is None:
            return False
        now = self._clock.monotonic() if now_monotonic is None else now_monotonic
        return now - self._renewed_at < self._renew_deadline_s

    def announce(self, annotations: Mapping[str, str]) -> None:
        """Set annotations of the lease with the next renewal, and each one after that, while we hold it.

        The next holder finds them: what it announces itself comes later.
        """
        self._announced |= annotations

    async def annotate(self, annotations: Mapping[str, str]) -> None:
        """Set annotations of the lease, also while another candidate holds it. Raises KubeError or TimeoutError."""
        patch = self._api.patch(LEASES, self._key, {"metadata": {"annotations": dict(annotations)}})
        await within(self._clock, self._retry_period_s, patch)

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaign, and run *lead* while holding the lease, until *lead* ends.

        A lost lease cancels *lead* and starts a new campaign. When *lead* returns or raises, the lease is released
        and run() ends so, too; also when cancelled.
        """
        lost = True
        while lost:
            await self._campaign()
            _log.info("leading %s as %s", self._key, self._identity)
            try:
                lost = await first(_led(lead), self._keep())
            finally:
                self._renewed_at = None
                self._announced.clear()
                await self._release()
            _log.info("no longer leading %s", self._key)

    async def _campaign(self) -> None:
        while not await self._attempt(self._retry_period_s):
            await self._clock.sleep(self._retry_period_s * random.uniform(1.0, _JITTER))  # noqa: S311  # jitter

    async def _keep(self) -> bool:
        """Renew until the lease is lost, and return True then: always before it can expire."""
        while (left := self._time_left()) > 0:
            await self._clock.sleep(min(self._retry_period_s, left))
            if (left := self._time_left()) <= 0:
                break
            await self._attempt(min(self._retry_period_s, left))
            if self.holder not in (None, self._identity):
                _log.warning("lost %s to %s", self._key, self.holder)
                break
        self._renewed_at = None  # at once: the cancelled work must not write any more
        return True

    def _time_left(self) -> float:
        return (self._renewed_at or 0.0) + self._renew_deadline_s - self._clock.monotonic()

    async def _attempt(self, timeout_s: float) -> bool:
        """Try once to acquire or renew the lease; return whether it is ours now."""
        sent_at = self._clock.monotonic()
        try:
            held = await within(self._clock, timeout_s, self._take())
        except (KubeError, TimeoutError) as e:
            self._certain = False  # it may have been written nevertheless
            _log.warning("cannot acquire or renew %s: %s", self._key, e)
            if isinstance(e, Unreachable | TimeoutError):
                self._on_doubt(sent_at)
            return False
        if held:
            self._renewed_at = sent_at
        return held

    async def _take(self) -> bool:
        if not self._certain:
            try:
                self._see(await self._api.get(LEASES, self._key))
            except NotFound:
                return await self._create()
        if self._lease is None or self._held_by_another():
            return False
        try:
            lease = await self._api.patch(LEASES, self._key, self._claim(self._lease))
        except (Conflict, NotFound):  # another candidate was faster: read the lease at the next attempt
            self._certain = False
            return False
        self._see(lease)
        self._certain = True
        return True

    async def _create(self) -> bool:
        metadata = {"name": self._key.name, "namespace": self._key.namespace}
        body = self._claim({"metadata": {}})
        try:
            lease = await self._api.create(
                LEASES, self._key.namespace, {**body, "metadata": body["metadata"] | metadata}
            )
        except AlreadyExists:
            return False
        self._see(lease)
        self._certain = True
        return True

    def _see(self, lease: dict[str, Any]) -> None:
        if self._lease is None or _spec(lease) != _spec(self._lease):
            self._changed_at = self._clock.monotonic()
        if self._lease is not None and went_back(_version(self._lease), _version(lease)):
            _log.warning("%s went back to an earlier version: the API was restored from a backup", self._key)
            self._on_doubt(None)
        self._lease = lease

    def _held_by_another(self) -> bool:
        if self.holder in (None, self._identity):
            return False
        duration = _spec(self._lease).get("leaseDurationSeconds") or self._lease_duration_s
        return self._clock.monotonic() < self._changed_at + float(duration)

    def _claim(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merge patch that makes *lease* ours, or ours for longer, provided it is still as we saw it."""
        before = _spec(lease)
        now = format_micro_time(self._clock.now())
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_duration_s)),
            "renewTime": now,
        }
        if before.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = (before.get("leaseTransitions") or 0) + 1 if before else 0
        known = lease["metadata"].get("annotations") or {}
        defaults = {name: said for name, said in self._defaults.items() if name not in known}
        metadata: dict[str, Any] = {"annotations": defaults | self._annotations | self._announced}
        if "resourceVersion" in lease["metadata"]:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
        return {"metadata": metadata, "spec": spec}

    async def _release(self) -> None:
        """Give the lease up if it is ours, so that the next one need not wait for it to expire."""
        self._certain = False
        try:
            await within(self._clock, self._retry_period_s, self._give_up())
        except (KubeError, TimeoutError) as e:
            _log.warning("cannot release %s, it will expire: %s", self._key, e)

    async def _give_up(self) -> None:
        lease = await self._api.get(LEASES, self._key)
        self._see(lease)
        if self.holder == self._identity:
            spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": format_micro_time(self._clock.now())}
            metadata = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            self._see(await self._api.patch(LEASES, self._key, {"metadata": metadata, "spec": spec}))


async def _led(lead: Callable[[], Awaitable[None]]) -> bool:
    await lead()
    return False


def _version(lease: Mapping[str, Any]) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _spec(lease: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return (lease or {}).get("spec") or {}
