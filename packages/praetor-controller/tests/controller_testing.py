# SPDX-License-Identifier: Apache-2.0
"""For tests: rows with sensible defaults, and a fleet in memory that plans are carried out on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve, mutable

from praetor_api.kube.objects import Budget, LabelSelector, RollingUpdate, StrategyType, UpdateStrategy, Wave
from praetor_controller.model.actions import Create, Delete, Update
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, RolloutPolicy, StoredStatus, Template
from praetor_controller.rollout.snapshot import GatewayState, Plan, RolloutStatus, Snapshot

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = "lab"


class JudgingGateway:
    """A gateway that judges the devices until *state* is set, in the place of a Lease."""

    def __init__(self) -> None:
        self.state = GatewayState.JUDGING
        self.judged_since = 0.0


def runs(command: str) -> dict[str, Any]:
    """Return the spec of a process that runs *command*, as a user writes it."""
    return {"execution": {"backend": "process", "command": [command]}}


def template(version: str) -> Template:
    """Return a template that *version* identifies."""
    return Template(spec={"version": version}, spec_hash=version, revision=f"rev-{version}")


def deployment(
    version: str = "v1",
    *,
    max_unavailable: int | str = 1,
    waves: tuple[Wave, ...] = (),
    budgets: tuple[Budget, ...] = (),
    strategy: StrategyType = StrategyType.ROLLING_UPDATE,
    status: StoredStatus = StoredStatus(),  # noqa: B008  # frozen
    fault: str = "",
    **policy: Any,
) -> DeploymentRow:
    """Return a deployment `tel` that selects every device; *policy* are fields of RolloutPolicy."""
    update = UpdateStrategy(
        type=strategy, rolling_update=RollingUpdate(max_unavailable=max_unavailable, waves=waves, budgets=budgets)
    )
    return DeploymentRow(
        name="tel",
        namespace=NAMESPACE,
        uid="uid-tel",
        generation=1,
        template=template(version),
        policy=RolloutPolicy(selector=LabelSelector(), update_strategy=update, **policy),
        matches=lambda labels: True,
        status=status,
        fault=fault,
    )


def device(name: str, **fields: Any) -> DeviceRow:
    """Return a device that is connected, unless *fields* say otherwise."""
    defaults: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "labels": {}, "connected": True}
    return DeviceRow(**defaults | fields)


def process(device_name: str, version: str = "v1", **fields: Any) -> ProcessRow:
    """Return a process of *version* that has been ready for an hour, unless *fields* say otherwise."""
    start = START.timestamp()
    defaults: dict[str, Any] = {
        "name": f"tel-{device_name}",
        "namespace": NAMESPACE,
        "uid": f"uid-{device_name}",
        "resource_version": "1",
        "device": device_name,
        "owner": "uid-tel",
        "spec_hash": version,
        "revision": f"rev-{version}",
        "offered_at": start - 7200,
        "created_at": start - 7200,
        "connected": True,
        "connected_since": start - 3600,
        "reported": True,
        "observed": True,
        "ready_since": start - 3600,
        "settled_since": start - 3600,
    }
    return ProcessRow(**defaults | fields)


def offline(row: ProcessRow, since: float) -> ProcessRow:
    """Return *row* as it looks after its device, which had fetched what it was offered, went silent at *since*."""
    fetched = row.offered_at is None or row.offered_at <= since
    return evolve(row, connected=False, connected_since=since, silent_since=since, ready_since=None, fetched=fetched)


def snapshot(
    deployment_row: DeploymentRow, devices: list[DeviceRow], processes: list[ProcessRow], **fields: Any
) -> Snapshot:
    """Return a snapshot; the rollout began at START unless *fields* say otherwise."""
    defaults: dict[str, Any] = {"rollout_since": START, "removable": frozenset(row.uid for row in processes)}
    return Snapshot(deployment=deployment_row, devices=devices, processes=processes, **defaults | fields)


@mutable(kw_only=True)
class PlannedDevice:
    """A simulated device and whether a write of the planner made it unavailable."""

    row: DeviceRow
    healthy: bool = True
    down: bool = False  # by a spec write of ours, and not available since


class PlannedFleet:
    """A fleet that plans are carried out on: processes as the API stores them, and devices that follow later."""

    def __init__(self, names: list[str], *, bad: frozenset[str] = frozenset(), killers: frozenset[str] = frozenset()):
        self.now = START
        self.devices = {name: PlannedDevice(row=device(name)) for name in names}
        self.processes: dict[str, ProcessRow] = {}
        self.status = StoredStatus()
        self.bad = bad
        self.killers = killers
        self.writes = 0
        self.down_elsewhere: set[str] = set()
        self._version = 1

    def snapshot(self, row: DeploymentRow, rollout_since: datetime) -> Snapshot:
        rows = [each.row for each in self.devices.values()]
        row = evolve(row, status=self.status)
        rolled_out = self.status.current_revision
        return snapshot(
            row,
            rows,
            list(self.processes.values()),
            rollout_since=rollout_since,
            current=template(rolled_out.removeprefix("rev-")) if rolled_out else None,
            down_elsewhere=[self.devices[name].row for name in sorted(self.down_elsewhere & self.devices.keys())],
        )

    def carry_out(self, plan: Plan, row: DeploymentRow) -> None:
        """Carry *plan* out, as the writer and the API do."""
        for action in plan.actions:
            self.writes += 1
            self._version += 1
            match action:
                case Create(name, process_name, wanted, wave):
                    assert process_name not in self.processes, f"second process {process_name}"
                    self.processes[process_name] = self._created(name, process_name, wanted, wave)
                case Update(old, wanted, spec, wave):
                    self.processes[old.name] = self._updated(old, wanted, wave, spec=spec)
                case Delete(old):
                    del self.processes[old.name]
        if plan.status is not None:
            self.status = stored(plan.status)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def disconnect(self, name: str) -> None:
        self._connect(name, connected=False)
        for row in self._on(name):
            self.processes[row.name] = offline(row, self.now.timestamp())

    def reconnect(self, name: str) -> None:
        self._connect(name, connected=True)
        for row in self._on(name):
            back = evolve(row, connected=True, connected_since=self.now.timestamp(), silent_since=None)
            self.processes[row.name] = self._settled(back) if row.observed else back

    def report(self, name: str) -> None:
        """Let a connected device bring its processes to their spec and report it."""
        target = self.devices[name]
        for row in self._on(name):
            if not target.row.connected or (row.observed and row.ready_since is not None):
                continue
            if row.spec_hash in self.killers:
                self.disconnect(name)
            else:
                self.processes[row.name] = self._settled(evolve(row, connected=True, reported=True, observed=True))

    def devices_down(self, min_ready_s: float) -> frozenset[str]:
        """Return the devices that are down by a spec write and were not available since."""
        for name, target in self.devices.items():
            if any(self._is_available(row, min_ready_s) for row in self._on(name)):
                target.down = False
        return frozenset(name for name, target in self.devices.items() if target.down and self._on(name))

    def _created(self, name: str, process_name: str, wanted: Template, wave: str) -> ProcessRow:
        at = self.now.timestamp()
        return ProcessRow(
            name=process_name,
            namespace=NAMESPACE,
            uid=f"uid-{self._version}",
            resource_version=str(self._version),
            device=name,
            owner="uid-tel",
            spec_hash=wanted.spec_hash,
            revision=wanted.revision,
            wave=wave,
            offered_at=at,
            created_at=at,
        )

    def _updated(self, old: ProcessRow, wanted: Template, wave: str, *, spec: bool) -> ProcessRow:
        new = evolve(old, revision=wanted.revision, resource_version=str(self._version))
        if not spec:
            return new
        target = self.devices[old.device]
        target.down = target.down or old.ready_since is not None
        at = self.now.timestamp()
        return evolve(
            new, spec_hash=wanted.spec_hash, offered_at=at, observed=False, ready_since=None,
            settled_since=None, failure="", wave=wave, fetched=None if old.connected else False,
        )  # fmt: skip

    def _settled(self, row: ProcessRow) -> ProcessRow:
        at = self.now.timestamp()
        if row.spec_hash in self.bad or not self.devices[row.device].healthy:
            return evolve(row, ready_since=None, settled_since=None, failure="phase Failed")
        return evolve(row, ready_since=at, settled_since=at, failure="")

    def _connect(self, name: str, *, connected: bool) -> None:
        target = self.devices[name]
        target.row = evolve(target.row, connected=connected, connected_since=self.now.timestamp())

    def _on(self, name: str) -> list[ProcessRow]:
        return [row for row in self.processes.values() if row.device == name]

    def _is_available(self, row: ProcessRow, min_ready_s: float) -> bool:
        return row.ready_since is not None and row.ready_since + min_ready_s <= self.now.timestamp()


def stored(status: RolloutStatus, raw: Mapping[str, Any] | None = None) -> StoredStatus:
    """Return *status* as it is read back."""
    return StoredStatus(
        current_revision=status.current_revision,
        update_revision=status.update_revision,
        failed_revision=status.failed_revision,
        conditions=status.conditions,
        raw=raw or {},
    )
