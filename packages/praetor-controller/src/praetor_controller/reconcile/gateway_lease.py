# SPDX-License-Identifier: Apache-2.0
"""Whether a gateway judges which devices are connected, by the Lease that the judging one renews.

As in client-go, a Lease has expired when it did not change for its duration on our own monotonic clock. Time in which
it could not be read does not count: then the gateway could not renew it either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from praetor_api.annotations import JUDGES_WITHIN_ANNOTATION
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import Forbidden, KubeError, NotFound
from praetor_api.kube.client.resource import LEASES, Key
from praetor_api.kube.runtime.clock import Clock, within
from praetor_controller.rollout.snapshot import GatewayState

PERIOD_S = 2.0
"""How often the Lease is read: as often as its holder renews it by default."""
_DURATION_S = 15.0
_JUDGES_WITHIN_S = 60.0
"""For a gateway that does not say it: three heartbeats of 15 seconds by default, and some."""

_log = structlog.get_logger(__name__)


class GatewayLease:
    """Follows the Lease *key*. Without one that can be read, a gateway counts as judging, as a log line says."""

    def __init__(self, api: KubeApi, key: Key, clock: Clock, changed: Callable[[], None]) -> None:
        self._api = api
        self._key = key
        self._clock = clock
        self._changed = changed
        self.state = GatewayState.AWAITED
        self.judged_since = 0.0  # monotonic
        self._spec: Mapping[str, Any] | None = None  # as last read; None while there was none
        self._read_at: float | None = None  # monotonic; None when the last attempt failed
        self._unchanged_s = 0.0
        self._duration_s = _DURATION_S
        self._judges_at = 0.0
        self._unseen = ""  # why no Lease is seen

    async def run(self) -> None:
        """Read the Lease again and again, until cancelled."""
        while True:
            try:
                lease = await within(self._clock, PERIOD_S, self._api.get(LEASES, self._key))
            except NotFound:
                self._see({}) if self._spec is not None else self._see_none("there is none")
            except Forbidden:
                self._see_none("reading it is forbidden; apply the controller's role again")
            except (KubeError, TimeoutError) as e:
                self._read_at = None
                _log.debug("cannot read the gateways' Lease", lease=str(self._key), error=str(e))
            else:
                self._see(lease)
            await self._clock.sleep(PERIOD_S)

    def _see_none(self, why: str) -> None:
        if why != self._unseen:
            _log.warning("whether a gateway runs is not known, rollouts go on", lease=str(self._key), why=why)
        self._unseen, self._spec = why, None
        self._set(GatewayState.JUDGING)

    def _see(self, lease: Mapping[str, Any]) -> None:
        now, spec = self._clock.monotonic(), lease.get("spec") or {}
        first, self._unseen = self._spec is None, ""
        holder, before = spec.get("holderIdentity"), (self._spec or {}).get("holderIdentity")
        renewed = not first and spec != self._spec and bool(spec.get("holderIdentity"))
        if first or renewed:
            self._unchanged_s = 0.0
        elif self._read_at is not None:
            self._unchanged_s += min(now - self._read_at, 2 * PERIOD_S)
        if spec.get("holderIdentity"):
            self._duration_s = float(spec.get("leaseDurationSeconds") or _DURATION_S)
        self._spec, self._read_at = spec, now
        self._set(self._next(lease, now, renewed=renewed, took_over=holder != before))

    def _next(self, lease: Mapping[str, Any], now: float, *, renewed: bool, took_over: bool) -> GatewayState:
        if self._unchanged_s >= self._duration_s:
            return GatewayState.GONE
        if not renewed:
            return self.state
        if self.state is GatewayState.GONE or (self.state is GatewayState.RETURNING and took_over):
            # how long that takes is the business of the one that holds it: of two settings the last one counts
            self._judges_at = now + _judges_within_s(lease)
            return GatewayState.RETURNING
        if self.state is GatewayState.RETURNING and now < self._judges_at:
            return GatewayState.RETURNING
        return GatewayState.JUDGING

    @property
    def judging(self) -> float:
        """1 while a gateway judges, 0 while none does, and NaN while that is not known."""
        return float("nan") if self._unseen else float(self.state is GatewayState.JUDGING)

    def _set(self, state: GatewayState) -> None:
        if state is not self.state:
            log = _log.warning if state is GatewayState.GONE else _log.info
            log("gateway", state=state, before=self.state, lease=str(self._key))
            self.state = state
            self.judged_since = self._clock.monotonic()
            self._changed()


def _judges_within_s(lease: Mapping[str, Any]) -> float:
    said = ((lease.get("metadata") or {}).get("annotations") or {}).get(JUDGES_WITHIN_ANNOTATION, "")
    try:
        return min(max(float(said), 0.0), 3600.0)
    except ValueError:
        return _JUDGES_WITHIN_S
