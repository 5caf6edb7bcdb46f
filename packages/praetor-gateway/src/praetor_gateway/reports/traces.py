# SPDX-License-Identifier: Apache-2.0
"""Carries a rollout's trace on to the device: when its new spec is served, and when it says what came of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from attrs import define

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.tracing import Attributes, Tracer
from praetor_api.protocol import ArtifactReason, Observation
from praetor_gateway.fleet.rows import CachedProcess

MAX_OPEN = 10_000
"""Processes whose trace is not at its end yet; the oldest are given up. An entry takes about 500 bytes."""

_RESULTS = {
    (ConditionType.HEALTHY, ProcessReason.HEALTHY),
    (ConditionType.HEALTHY, ProcessReason.UNHEALTHY),
    (ConditionType.HEALTHY, ProcessReason.COMPLETED),
    (ConditionType.PROCESS_STARTED, ProcessReason.START_FAILED),
    (ConditionType.PROCESS_STARTED, ProcessReason.EXITED),
    (ConditionType.SPEC_OBSERVED, ProcessReason.GIVEN_UP),
    *((ConditionType.SPEC_OBSERVED, reason) for reason in ArtifactReason),
}
"""What conditions say after a result."""


@define
class _Open:
    """A traced spec: when it came, and when and with which span it was served."""

    came: datetime
    served: datetime | None = None
    span: str = ""


class DeviceTraces:
    """The traces that wait for a device, by the traceparent of the write. A replica that restarts forgets them."""

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def on_change(self, _: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Take a change that an informer reports; what a device already said of a spec is no part of its trace here.

        The result may have come to another replica: its status then says so.
        """
        before = old.traceparent if old is not None else ""
        after = new.traceparent if new is not None else ""
        if before == after:
            if new is not None and after in self._open and _has_result(new):
                del self._open[after]
            return
        self._open.pop(before, None)
        if new is not None and after and new.status.observed_spec_hash != new.spec_hash and not _has_result(new):
            self._open[after] = _Open(self._clock.now())
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)

    def served(self, rows: Iterable[CachedProcess]) -> None:
        """Record that *rows* are sent to their device."""
        for row in rows:
            entry = self._open.get(row.traceparent) if row.traceparent else None
            if entry is not None and entry.served is None:
                span = self._tracer.start("desired state served", _about(row), row.traceparent, since=entry.came)
                span.end()
                entry.served, entry.span = self._clock.now(), span.traceparent

    def reported(self, row: CachedProcess, seen: Observation) -> None:
        """Record what the device says of *row*, once it is a result: healthy or not, rolled back, or failed.

        Only a device that names the traced write speaks of it. The span begins when this replica served the spec, or
        when it learned of it.
        """
        entry = self._open.get(row.traceparent) if row.traceparent and seen.traceparent == row.traceparent else None
        if entry is None:
            return
        problem = seen.rolled_back_message or seen.rolled_back_reason or seen.error_message or ""
        if seen.healthy is None and not problem:
            return
        del self._open[row.traceparent]
        parent, since = entry.span or row.traceparent, entry.served or entry.came
        healthy = bool(seen.healthy) and not seen.rolled_back_reason
        span = self._tracer.start("device reported", _about(row), parent, since=since)
        span.end(problem if problem or healthy else "not healthy", healthy=healthy, restarts=seen.restart_count)


def _about(row: CachedProcess) -> Attributes:
    return {"namespace": row.key.namespace, "process": row.key.name, "device": row.device}


def _has_result(row: CachedProcess) -> bool:
    """Return whether the status of *row* holds the result of its present spec."""
    conditions = (each for each in row.status.conditions if each.observed_generation == row.generation)
    return any((each.type, each.reason) in _RESULTS for each in conditions)
