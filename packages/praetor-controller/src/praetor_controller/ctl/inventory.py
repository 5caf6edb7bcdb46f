# SPDX-License-Identifier: Apache-2.0
"""The rows of a namespace, read once, and the plans that the controller would make from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import evolve, frozen

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    Key,
)
from praetor_api.kube.codec import format_time
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import Condition, ConditionStatus
from praetor_api.spec import DeviceKind
from praetor_api.wire import clean_text
from praetor_controller.ctl.cluster import Cluster, list_all
from praetor_controller.ctl.kinds import kind_of, list_devices, reference_of
from praetor_controller.ctl.times import age
from praetor_controller.model.actions import Create, Delete
from praetor_controller.model.approvals import as_approved
from praetor_controller.model.kinds import followed
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.model.revisions import RevisionRow, newest_template, project_revision, with_stored_template
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.assignment import adoptable
from praetor_controller.rollout.neighbours import Neighbour
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import GatewayState, Moment, Plan, Snapshot

_MAX_REFUSALS = 100
"""How often a plan is made again without the writes that the API refused: enough for a budget of one device."""

_ABSENT = (ProcessReason.NEVER_CONNECTED, ProcessReason.NOT_DECLARED)


@frozen
class Reported:
    """What a device reported of a process: the hash of the spec that it runs, and a phase with the reason for it."""

    spec_hash: str
    words: str


@frozen(kw_only=True)
class Inventory:
    """All rows of a namespace. What only the running controller remembers (refused writes) is not among them.

    *refused_devices* and *refused_processes* are what the gateway says of those that it ignores, by name; *pending* is
    why a device does not act on the current spec of a process yet, by the process's name. *absent* is why a device was
    never heard, by the reference of a device or the name of a process; *reported* is by the name of a process, and
    *outdated* names those that run with older values than they would be started with. Devices are by their references;
    *missing* are kinds that the cluster does not have.
    """

    devices: Mapping[str, DeviceRow]
    processes: Mapping[Key, ProcessRow]
    deployments: Mapping[str, DeploymentRow]
    revisions: tuple[RevisionRow, ...]
    refused_devices: Mapping[str, str] = {}
    refused_processes: Mapping[str, str] = {}
    pending: Mapping[str, str] = {}
    absent: Mapping[str, str] = {}
    reported: Mapping[str, Reported] = {}
    outdated: frozenset[str] = frozenset()
    missing: tuple[DeviceKind, ...] = ()

    def running_revision(self, process: ProcessRow) -> str:
        """Return the revision that the device runs: another than the offered one before an update, and after a
        rollback. Empty when it runs none, or none that is kept."""
        found = self.reported.get(process.name)
        if found is None or found.spec_hash == process.spec_hash:
            return process.revision if found is not None else ""
        device = self.devices.get(process.device)
        labels = device.labels if device is not None else {}
        mine = (row.template.resolved(labels) for row in self.revisions if row.owner == process.owner)
        return next((each.revision for each in mine if each.spec_hash == found.spec_hash), "")

    def with_stored_template(self, deployment: DeploymentRow) -> DeploymentRow:
        """Return *deployment* with the template that the controller takes it to have."""
        revisions = [row for row in self.revisions if row.owner == deployment.uid]
        return with_stored_template(as_approved(deployment, newest_template(revisions)), revisions)

    def _snapshot(self, deployment: DeploymentRow, now: datetime, gateway: GatewayState) -> Snapshot:
        """Return the snapshot that the controller would plan *deployment* from."""
        deployment = self.with_stored_template(deployment)
        found = adoptable(deployment, self.processes.values(), self.devices.get)
        adopted = {Key(row.namespace, row.name): evolve(row, owner=deployment.uid) for row in found}
        processes = {**self.processes, **adopted}
        sources = Sources(
            devices=self.devices.values(),
            processes=followed(processes.values(), self.missing),
            revisions=[row for row in self.revisions if row.owner == deployment.uid],
            find=processes.get,
            neighbours=[self._neighbour(each) for each in self.deployments.values() if each.uid != deployment.uid],
            gateway=gateway,
        )
        return build_snapshot(deployment, sources, ReconcilerState(), now=Moment(now), watching=False)

    def gateway_warning(self, now: datetime) -> str:
        """Return what to warn of while no gateway judges the devices; empty while one does, as far as is known."""
        return gateway_warning(self.deployments.values(), now)

    def plan(self, deployment: DeploymentRow, now: datetime, gateway: GatewayState | None = None) -> Plan:
        """Return what the controller's planner decides about *deployment* at *now*.

        *gateway*, and what the API refused, is by default as the controller wrote into the status.
        """
        if gateway is None:
            gateway = GatewayState.JUDGING if _gateway_gone(deployment) is None else GatewayState.GONE
            return _with_refusals(self._snapshot(deployment, now, gateway), now)
        return plan(self._snapshot(deployment, now, gateway), now)

    def _neighbour(self, deployment: DeploymentRow) -> Neighbour:
        return Neighbour(deployment, self.processes_of(deployment))

    def processes_of(self, deployment: DeploymentRow) -> list[ProcessRow]:
        """Return the processes that *deployment* owns."""
        return [row for row in self.processes.values() if row.owner == deployment.uid]

    def undeclared(self, name: str) -> list[ProcessRow]:
        """Return the process called *name*, or those of that device, if no object declares it."""
        rows = (row for row in self.processes.values() if name in (row.name, row.device))
        return sorted((row for row in rows if row.device not in self.devices), key=lambda row: row.name)

    def processes_on(self, device: str) -> list[ProcessRow]:
        """Return the processes of *device*, in order of their names."""
        return sorted((row for row in self.processes.values() if row.device == device), key=lambda row: row.name)


def inventory_of(
    switches: list[dict[str, Any]],
    processes: list[dict[str, Any]],
    deployments: list[dict[str, Any]],
    revisions: list[dict[str, Any]],
    missing: tuple[DeviceKind, ...] = (),
) -> Inventory:
    """Return the rows of raw objects, of which *switches* are devices of all kinds but those *missing*."""
    rows = (project_device(each, kind_of(each)) for each in switches)
    return Inventory(
        devices={row.name: row for row in sorted(rows, key=lambda row: row.name)},
        missing=missing,
        processes={Key(row.namespace, row.name): row for row in map(project_process, processes)},
        deployments={row.name: row for row in sorted(map(project_deployment, deployments), key=lambda row: row.name)},
        revisions=tuple(map(project_revision, revisions)),
        refused_devices={reference_of(each): why for each in switches if (why := refusal(each))},
        refused_processes={each["metadata"]["name"]: why for each in processes if (why := refusal(each))},
        absent={
            **{reference_of(each): why for each in switches if (why := _absent(each))},
            **{each["metadata"]["name"]: why for each in processes if (why := _absent(each))},
        },
        reported={each["metadata"]["name"]: said for each in processes if (said := _reported(each)) is not None},
        outdated=frozenset(each["metadata"]["name"] for each in processes if _is_outdated(each)),
        pending={each["metadata"]["name"]: why for each in processes if (why := _pending(each))},
    )


def refusal(obj: Mapping[str, Any]) -> str:
    """Return why the gateway ignores a device or a DeviceProcess; empty when it does not."""
    for each in (obj.get("status") or {}).get("conditions") or ():
        if each.get("type") in (ConditionType.REFUSED, ConditionType.NAME_CONFLICT) and each.get("status") == "True":
            return f"{each['type']}, {each.get('reason')}: {clean_text(each.get('message') or '')}"
    return ""


def _reported(process: Mapping[str, Any]) -> Reported | None:
    status = process.get("status") or {}
    if not status.get("observedSpecHash"):
        return None
    words = (status.get("phase"), status.get("reason"), status.get("lastTerminationReason"))
    return Reported(status["observedSpecHash"], ", ".join(dict.fromkeys(clean_text(each) for each in words if each)))


def _pending(process: Mapping[str, Any]) -> str:
    """Return what the device says of why it does not act on the current spec yet; empty when it says nothing."""
    for each in (process.get("status") or {}).get("conditions") or ():
        current = each.get("observedGeneration") == process["metadata"].get("generation")
        if each.get("type") == ConditionType.SPEC_OBSERVED and each.get("status") == "False" and current:
            silent = each.get("reason") in (ProcessReason.OUTDATED, ProcessReason.HASH_MISSING)
            return "" if silent else f"{each.get('reason')}: {clean_text(each.get('message') or '')}"
    return ""


def _is_outdated(process: Mapping[str, Any]) -> bool:
    return _condition(process, ConditionType.VALUES_OUTDATED).get("status") == "True"


def _absent(obj: Mapping[str, Any]) -> str:
    condition = _condition(obj, ConditionType.AGENT_CONNECTED)
    if condition.get("status") != "Unknown" or condition.get("reason") not in _ABSENT:
        return ""
    return f"{condition['reason']}: {clean_text(condition.get('message') or '')}"


def _condition(obj: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def gateway_warning(deployments: Iterable[DeploymentRow], now: datetime) -> str:
    """Return what to warn of when the status of one of *deployments* says that no gateway judges the devices."""
    gone = next(filter(None, map(_gateway_gone, deployments)), None)
    if gone is None:
        return ""
    since = gone.last_transition_time or now
    return f"Warning: {gone.message} (for {age(format_time(since), now)}); what devices reported is as old"


def _with_refusals(snapshot: Snapshot, now: datetime) -> Plan:
    """Return the plan without the writes that the API refused, by the status: what is left to write was refused."""
    planned = plan(snapshot, now)
    refused = get_condition(snapshot.deployment.status.conditions, ConditionType.WRITES_REFUSED)
    if refused is None or planned.status is None:
        return planned
    sentence = refused.message.partition(": ")[2].rpartition("; next attempt")[0]
    refusals: dict[str, str] = {}
    for _ in range(_MAX_REFUSALS):  # a refused device leaves its place in the budget to the next
        writes = [each for each in planned.actions if not isinstance(each, Delete)]
        if not writes:
            break
        devices = (each.device if isinstance(each, Create) else each.process.device for each in writes)
        refusals |= dict.fromkeys(devices, sentence)
        planned = plan(evolve(snapshot, refusals=refusals), now)
    status = planned.status and evolve(planned.status, conditions=snapshot.deployment.status.conditions)
    return evolve(planned, status=status)


def _gateway_gone(deployment: DeploymentRow) -> Condition | None:
    found = get_condition(deployment.status.conditions, ConditionType.GATEWAY_AVAILABLE)
    return found if found is not None and found.status is ConditionStatus.FALSE else None


async def read_inventory(cluster: Cluster) -> Inventory:
    """Read the namespace."""
    devices = await list_devices(cluster)
    return inventory_of(
        devices.objects,
        await list_all(cluster, DEVICE_PROCESSES),
        await list_all(cluster, DEVICE_PROCESS_DEPLOYMENTS),
        await list_all(cluster, CONTROLLER_REVISIONS, DEPLOYMENT_LABEL),
        devices.missing,
    )
