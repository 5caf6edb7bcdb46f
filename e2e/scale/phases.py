# SPDX-License-Identifier: Apache-2.0
"""The phases of a run, one after the other, and the limits that each must keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from e2e.bench.measure.figures import percentile
from e2e.clusters.api.audit import spec_changes
from e2e.scale.fleet import GROUPS, NAME, ScaledFleet, switches, time_of
from e2e.scale.sampler import Sample, Sampler
from e2e.stack.kube import SWITCHES, conditions
from e2e.stack.waiting import eventually
from praetor_api.protocol import DEFAULT_STALE_MULTIPLIER

STEADY_WRITES_PER_S = 2.0
WAVE_WRITES_PER_S = 100.0
QUIET_S = 6.0
AWAIT_S = 3600.0  # the timeout of the run is shorter
LOST_S = 5.0
"""Until devices have said that their gateway is gone."""
LOOK_S = 1.0
"""Between two looks at metrics, which cost the programs something."""


@frozen(kw_only=True)
class Limit:
    """A value that must be at most *most*, or exactly that if *exact*."""

    what: str
    value: float
    most: float
    exact: bool = False

    @property
    def kept(self) -> bool:
        """Whether the value is within the limit."""
        return self.value == self.most if self.exact else self.value <= self.most

    def __str__(self) -> str:
        sign = "=" if self.exact else "≤"
        return f"{self.what}: {self.value:,.3g} ({sign} {self.most:,.3g}) {'ok' if self.kept else 'BROKEN'}"


@frozen(kw_only=True)
class Phase:
    """One phase: its *samples*, its *marks* as seconds of the monotonic clock, and what was measured."""

    name: str
    title: str
    began: float
    samples: Sequence[Sample]
    summaries: Sequence[Mapping[str, Any]]
    limits: Sequence[Limit] = ()
    marks: Mapping[str, float] = field(factory=dict)
    figures: Mapping[str, float] = field(factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.samples[-1].at - self.began if self.samples else 0.0

    @property
    def writes_per_s(self) -> float:
        """How many writes the apiserver answered a second, Leases included."""
        return rate(self.samples)


def rate(samples: Sequence[Sample]) -> float:
    """Return the writes per second between the first and the last of *samples*."""
    if len(samples) < 2:
        return 0.0
    first, last = samples[0], samples[-1]
    return (sum(last.writes.values()) - sum(first.writes.values())) / max(last.at - first.at, 1e-3)


class Run:
    """Takes *fleet* through its phases; *say* gets what happens."""

    def __init__(self, fleet: ScaledFleet, sampler: Sampler, say: Callable[[str], None], *, steady_s: float) -> None:
        self._fleet = fleet
        self._sampler = sampler
        self._say = say
        self._steady_s = steady_s
        self._since = 0.0  # since when, in seconds since 1970, no connection may have changed

    def phases(self) -> Iterator[Phase]:
        """Yield each phase when it is over."""
        yield self._ramp_up()
        self._since = time.time()
        yield self._steady()
        yield self._gateway_killed()
        yield self._wave()
        yield self._devices_killed()

    def _ramp_up(self) -> Phase:
        fleet, began, count = self._fleet, time.monotonic(), self._fleet.settings.devices
        said = len(fleet.summaries())
        fleet.bring_up()
        ready = time.monotonic()
        fleet.power_on()
        self._await(fleet.connected, count - fleet.settings.doomed, "devices are connected")
        self._await(fleet.judged_connected, count, "devices count as connected")
        connected = time.monotonic()
        self._await(fleet.available, count, "processes are available")
        self._await(lambda: -fleet.pending_statuses(), 0, "statuses are unwritten")
        self._await_quiet()
        marks = {"programs ready": ready, "all connected": connected}
        return self._phase("ramp-up", f"{count:,} devices come", began, said, marks=marks)

    def _steady(self) -> Phase:
        fleet, began, said, before = self._fleet, time.monotonic(), len(self._fleet.summaries()), self._lost()
        while (left := self._steady_s - (time.monotonic() - began)) > 0:
            time.sleep(min(left, 30.0))
            self._say(f"steady for {time.monotonic() - began:.0f} s, {fleet.judged_connected()} connected")
        samples = self._sampler.since(began)
        limits = (
            Limit(what="apiserver writes per second", value=rate(samples), most=STEADY_WRITES_PER_S),
            Limit(what="devices called disconnected", value=self._lost() - before, most=0),
        )
        return self._phase("steady", "Nothing changes", began, said, limits=limits)

    def _gateway_killed(self) -> Phase:
        fleet, began, said, before = self._fleet, time.monotonic(), len(self._fleet.summaries()), self._lost()
        arbiter, count = fleet.arbiter(), fleet.settings.devices - fleet.settings.doomed
        counted = int(fleet.disconnections())
        arbiter.program.kill()
        killed = time.monotonic()
        self._say(f"{arbiter.name}, which ran the failure detector, was killed with SIGKILL")
        time.sleep(LOST_S)
        self._await(fleet.connected, count, "devices are connected")
        again = time.monotonic()
        arbiter.program.start()
        arbiter.wait_ready(900)
        ready = time.monotonic()
        # a device that was lost would be found out once the successor's grace is over
        until_s = fleet.settings.grace_s + (DEFAULT_STALE_MULTIPLIER + 1) * fleet.interval_s() + 5.0
        time.sleep(max(0.0, killed + until_s - time.monotonic()))
        after = fleet.disconnections()
        lost = after - (before if after >= counted else 0)
        limits = (Limit(what="devices called disconnected", value=max(0, lost), most=0),)
        marks = {"SIGKILL": killed, "all connected": again, "it is back": ready}
        self._await_quiet()
        title = f"One of {len(fleet.stack.gateways)} gateways is killed"
        figures = {"seconds until all devices were connected again": again - killed}
        return self._phase("gateway-killed", title, began, said, limits=limits, marks=marks, figures=figures)

    def _wave(self) -> Phase:
        fleet, began, said, before = self._fleet, time.monotonic(), len(self._fleet.summaries()), self._lost()
        count = -(-fleet.settings.devices // GROUPS)
        fleet.roll_out()
        self._await(fleet.updated, count, "devices have the new version")
        updated = time.monotonic()
        self._await(fleet.available, fleet.settings.devices, "processes are available")
        samples = self._sampler.since(began)
        limits = (
            Limit(what="apiserver writes per second", value=rate(samples), most=WAVE_WRITES_PER_S),
            Limit(what="devices called disconnected", value=self._lost() - before, most=0),
        )
        self._await_quiet()
        title = f"A new version for {count:,} devices"
        late = sorted(self._late())
        figures = {"seconds until all had it": updated - began}
        if late:
            figures |= {
                f"stored to device, ms, p{share * 100:.0f}": percentile(late, share) * 1000 for share in (0.5, 0.99)
            }
        return self._phase("wave", title, began, said, limits=limits, marks={"updated": updated}, figures=figures)

    def _late(self) -> Iterator[float]:
        """Yield how much later each device had its spec than the apiserver had stored it."""
        got = self._fleet.changes()
        for process, at in spec_changes(self._fleet.stack.cluster.audit_log()).items():
            device = process.removeprefix(f"{NAME}-")
            if device in got:
                yield max(0.0, got[device] - at)

    def _devices_killed(self) -> Phase:
        fleet, began, said = self._fleet, time.monotonic(), len(self._fleet.summaries())
        killed_at, killed = time.time(), time.monotonic()
        doomed = fleet.kill_doomed()
        self._say(f"{len(doomed)} devices were killed")

        def missed() -> list[str]:
            time.sleep(LOOK_S)
            return [name for name in doomed if self._connection(name)[0] == "True"]

        within_s = 4 * DEFAULT_STALE_MULTIPLIER * fleet.interval_s() + 60.0
        try:
            eventually(missed, lambda left: not left, what="all that were killed are found", within_s=within_s)
        except AssertionError:
            self._say("not all were found in time")
        found = time.monotonic()
        left = missed()
        late = [self._connection(name)[1] - killed_at for name in doomed if name not in left]
        changed = self._changed(set(doomed))
        limits = (
            Limit(what="killed devices that were found", value=len(doomed) - len(left), most=len(doomed), exact=True),
            Limit(what="other devices whose connection changed since the ramp-up", value=len(changed), most=0),
        )
        figures = {"seconds until one was found, at most": max(late, default=0.0)}
        title = f"{len(doomed)} devices are killed"
        marks = {"SIGKILL": killed, "all found": found}
        return self._phase("devices-killed", title, began, said, limits=limits, marks=marks, figures=figures)

    def _connection(self, device: str) -> tuple[str, float]:
        """Return what the status says of the device, and since when, in seconds since 1970."""
        item = self._fleet.kube.get(SWITCHES, device)
        found = conditions(item or {}).get("AgentConnected", {})
        return str(found.get("status", "")), time_of(found.get("lastTransitionTime", "1970-01-01T00:00:00Z"))

    def _changed(self, but: set[str]) -> list[str]:
        """Return the devices, without *but*, whose connection is not the one that they had after the ramp-up."""
        found = []
        for item in switches(self._fleet.kube):
            name, said = item["metadata"]["name"], conditions(item).get("AgentConnected", {})
            late = time_of(said.get("lastTransitionTime", "1970-01-01T00:00:00Z")) > self._since
            if name not in but and (said.get("status") != "True" or late):
                found.append(name)
        return found

    def _lost(self) -> int:
        return self._fleet.disconnections()

    def _await(self, observe: Callable[[], int], count: int, what: str) -> None:
        last = time.monotonic()

        def seen() -> int:
            nonlocal last
            now = observe()
            if time.monotonic() - last > 10.0:
                last = time.monotonic()
                self._say(f"{abs(now)} of {count} {what}" if count else f"{abs(now)} {what}")
            time.sleep(LOOK_S)
            return now

        eventually(seen, lambda now: now >= count, what=f"{count} {what}", within_s=AWAIT_S)

    def _await_quiet(self) -> None:
        """Return when the apiserver had hardly a write for QUIET_S."""

        def quiet() -> bool:
            now = self._sampler.since(0.0)
            recent = [sample for sample in now if sample.at > now[-1].at - QUIET_S]
            time.sleep(LOOK_S)
            return now[-1].at - now[0].at > QUIET_S and rate(recent) < STEADY_WRITES_PER_S

        eventually(quiet, what="the apiserver is quiet", within_s=600)

    def _phase(
        self,
        name: str,
        title: str,
        began: float,
        said: int,
        *,
        limits: Sequence[Limit] = (),
        marks: Mapping[str, float] | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> Phase:
        return Phase(
            name=name,
            title=title,
            began=began,
            samples=self._sampler.since(began),
            summaries=self._fleet.summaries()[said:],
            limits=limits,
            marks=marks or {},
            figures=figures or {},
        )
