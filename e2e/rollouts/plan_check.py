# SPDX-License-Identifier: Apache-2.0
"""Compare each forecast of `praetorctl plan` with what a watch then shows of the rollout.

A forecast knows no failures. Of a rollout that a failure stops, only the writes made until then are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen
from contract.rawapi import JSON_PATCH

from e2e.rollouts.observer import Labels, SpecWrite, Timeline, domain, observe
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, GROUP_VERSION, PROCESSES, SWITCHES, Kube, Object, accepted
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually

READY_AFTER = ("--ready-after", "1s")
CONCURRENT_WRITES = 32  # as many writes may overtake each other


@frozen(kw_only=True)
class Change:
    """One change of a deployment: its forecast, and what a watch has shown since."""

    name: str
    forecast: Mapping[str, Any]
    labels: Labels
    record: Recorder
    spec: Mapping[str, Any]

    @property
    def timeline(self) -> Timeline:
        """What the watch has shown up to now."""
        return observe(
            tuple(self.record.frames),
            self.name,
            listed=self.record.listed,
            min_ready_s=float(self.spec.get("minReadySeconds", 0)),
        )


class PlanCheck:
    """Makes changes to deployments of one namespace, each with its forecast, and checks the forecasts."""

    def __init__(self, stack: Stack, kube: Kube) -> None:
        self._kubeconfig = stack.cluster.kubeconfig
        self._kube = kube
        self._ctl = Ctl(self._kubeconfig, kube.namespace)

    @contextmanager
    def change(self, name: str, *, stopped: bool = False, approved: bool = False, **spec: Any) -> Iterator[Change]:
        """Replace fields of the deployment's *spec* (None takes one away), and compare on leaving.

        The body of the context waits for the end. *stopped*: something stops the rollout before it ends as planned.
        *approved*: each wave that asks for approval gets it.
        """
        before = self._kube.deployment(name)["spec"]
        after = {key: value for key, value in {**before, **spec}.items() if value is not None}
        with self.compare(manifest(name, after), stopped=stopped, approved=approved) as change:
            patch = [{"op": "add", "path": "/spec", "value": after}]
            accepted(self._kube.api.patch(self._kube.path(DEPLOYMENTS, name), patch, JSON_PATCH))
            yield change

    @contextmanager
    def template(self, name: str, process: Mapping[str, Any], **options: Any) -> Iterator[Change]:
        """Give the deployment another process, which is most of what rollouts are about."""
        template = {**self._kube.deployment(name)["spec"]["template"], "spec": dict(process)}
        with self.change(name, template=template, **options) as change:
            yield change

    @contextmanager
    def first(self, wanted: Mapping[str, Any], **options: bool) -> Iterator[Change]:
        """Apply the manifest of a new deployment, and compare on leaving."""
        with self.compare(wanted, **options) as change:
            self._kube.apply(wanted)
            yield change

    @contextmanager
    def present(self, name: str, **options: bool) -> Iterator[Change]:
        """Compare what becomes of the deployment as it is; the body of the context may approve waves, or do nothing."""
        with self.compare(manifest(name, self._kube.deployment(name)["spec"]), **options) as change:
            yield change

    @contextmanager
    def compare(self, wanted: Mapping[str, Any], *, stopped: bool = False, approved: bool = False) -> Iterator[Change]:
        """Forecast what the manifest *wanted* does and record what happens; the body makes the change."""
        words = ("plan", "-f", "-", *READY_AFTER, *(("--approve",) if approved else ()))
        (forecast,) = self._ctl.read(*words, text=json.dumps(wanted))
        labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in self._kube.list(SWITCHES)}
        with Recorder(self._kubeconfig, self._kube.path(PROCESSES)) as record:
            change = Change(
                name=wanted["metadata"]["name"],
                forecast=forecast,
                labels=labels,
                record=record,
                spec=wanted["spec"],
            )
            yield change
        # a record that has ended holds all that was written before the deployment was seen at its end
        now = self._observed(change.name)
        left = {} if stopped else self._left(change.name)
        found = deviations(change.forecast, change.timeline, now, labels, left, stopped=stopped)
        message = [f"praetorctl plan was wrong about {change.name}:", *found, str(change.timeline)]
        assert not found, "\n".join(message)

    def _observed(self, name: str) -> Object:
        """Return the deployment once its status is about its present spec; it is written once a second at most."""

        def is_current(item: Object) -> bool:
            return bool(item["status"]["observedGeneration"] == item["metadata"]["generation"])

        return eventually(lambda: self._kube.deployment(name), is_current, what=f"the status of {name} is up to date")

    def _left(self, name: str) -> dict[str, str]:
        """Return why each device that is not up to date is so, as `praetorctl explain` says."""
        explained = self._ctl.read("explain", name)
        reasons = {each["device"]: group["reason"] for group in explained["reasons"] for each in group["devices"]}
        return {device: reason for device, reason in reasons.items() if reason != "UpToDate"}


def manifest(name: str, spec: Mapping[str, Any]) -> Object:
    """Return the manifest of a deployment whose whole *spec* is known."""
    kind = "DeviceProcessDeployment"
    return {"apiVersion": GROUP_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


@frozen(kw_only=True)
class _Forecast:
    """The parts of a forecast that can be compared."""

    steps: Mapping[str, int]  # of each device that is to be written
    deleted: frozenset[str]
    waves: Mapping[str, str]
    at_most: int
    budgets: Sequence[tuple[Sequence[str], Mapping[str, int]]]
    left: Mapping[str, str]


def _read(forecast: Mapping[str, Any]) -> _Forecast:
    steps: dict[str, int] = {}
    for number, step in enumerate(forecast["steps"]):
        steps |= dict.fromkeys((*step["create"], *step["update"]), number)
    return _Forecast(
        steps=steps,
        deleted=frozenset(name for step in forecast["steps"] for name in step["delete"]),
        waves={device: wave for wave, devices in forecast["waves"].items() for device in devices},
        at_most=forecast["unavailableAtMost"],
        budgets=[(each["budget"].partition(":")[0].split(","), each["domains"]) for each in forecast["budgets"]],
        left={device: each["reason"] for device, each in forecast["left"].items()},
    )


def deviations(
    forecast: Mapping[str, Any],
    timeline: Timeline,
    deployment: Object,
    labels: Labels,
    left: Mapping[str, str],
    *,
    stopped: bool,
) -> list[str]:
    """Return the differences between the forecast and what happened; empty when there are none."""
    planned, revision = _read(forecast), deployment["status"]["updateRevision"]
    writes = timeline.writes_of(revision)
    return [
        *([f"it reported a wrong spec: {forecast['fault']}"] if forecast["fault"] else []),
        *_of_devices(planned, writes, stopped=stopped),
        *_of_deleted(planned, timeline.deleted, stopped=stopped),
        *_of_waves(planned, writes),
        *_of_order(planned, writes, labels),
        *_of_worst(planned, timeline, labels),
        *([] if stopped or planned.left == left else [f"left at the end: planned {planned.left}, but it was {left}"]),
    ]


def _of_devices(planned: _Forecast, writes: Sequence[SpecWrite], *, stopped: bool) -> Iterator[str]:
    written = [write.device for write in writes]
    twice = sorted({device for device in written if written.count(device) > 1})
    if twice:
        yield f"written more than once: {twice}"
    if unforeseen := sorted(set(written) - planned.steps.keys()):
        yield f"written, but not planned: {unforeseen}"
    if not stopped and (missing := sorted(planned.steps.keys() - set(written))):
        yield f"planned, but not written: {missing}"


def _of_deleted(planned: _Forecast, deleted: Sequence[str], *, stopped: bool) -> Iterator[str]:
    if unforeseen := sorted(set(deleted) - planned.deleted):
        yield f"deleted, but not planned: {unforeseen}"
    if not stopped and (missing := sorted(planned.deleted - set(deleted))):
        yield f"planned, but not deleted: {missing}"


def _of_waves(planned: _Forecast, writes: Sequence[SpecWrite]) -> Iterator[str]:
    """Each device comes in its wave, and no wave before one that is planned earlier."""
    order = sorted(set(planned.waves.values()), key=lambda wave: _last_step(planned, wave))
    latest = 0
    for write in writes:
        wave = planned.waves.get(write.device, "")
        if write.wave != wave:
            yield f"{write.device} was planned for the wave {wave!r} and came in {write.wave!r}"
        elif write.wave:
            index = order.index(write.wave)
            if index < latest:
                yield f"{write.device} of the wave {write.wave} came after devices of {order[latest]}"
            latest = max(latest, index)


def _last_step(planned: _Forecast, wave: str) -> int:
    return max(planned.steps[device] for device, each in planned.waves.items() if each == wave)


def _of_order(planned: _Forecast, writes: Sequence[SpecWrite], labels: Labels) -> Iterator[str]:
    """Devices of the same wave and the same failure domains come in the planned order, but for concurrent writes."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for write in writes:
        domains = (domain(keys, labels.get(write.device, {})) for keys, _ in planned.budgets)
        groups.setdefault((write.created, write.wave, *domains), []).append(write.device)
    slack = max(1, min(CONCURRENT_WRITES, planned.at_most or CONCURRENT_WRITES))
    for devices in groups.values():
        order = sorted(devices, key=lambda device: planned.steps.get(device, -1))
        for place, device in enumerate(devices):
            step = planned.steps.get(device, -1)
            ahead = sum(planned.steps.get(other, -1) < step for other in order)
            behind = len(devices) - sum(planned.steps.get(other, -1) > step for other in order) - 1
            if not ahead - slack < place < behind + slack:
                yield f"{device} came as number {place + 1} of {devices}, planned was {order}"


def _of_worst(planned: _Forecast, timeline: Timeline, labels: Labels) -> Iterator[str]:
    worst = timeline.worst()
    if worst > planned.at_most:
        yield f"{worst} devices were disrupted at a time, planned were at most {planned.at_most}"
    for keys, domains in planned.budgets:
        for name, count in timeline.worst_by_domain(keys, labels).items():
            if count > domains.get(name, 0):
                yield f"{count} devices of {name} were disrupted at a time, planned were {domains.get(name, 0)}"
