# SPDX-License-Identifier: Apache-2.0
"""What the API stores: as the rows that the controller makes of it, and as people read it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import evolve, field, mutable

from controller_simulation.given import is_changed
from kube_testing import InProcessKube
from praetor_api.annotations import DEPLOYMENT_LABEL, OFFERED_AT_ANNOTATION
from praetor_api.kube.client.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.delivered import published_digests
from praetor_api.names import FILE_DIGESTS
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.approvals import with_approvals
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.model.revisions import RevisionRow, find_revision, project_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Template

LAB = "lab"
PUBLISHED = Key("praetor-system", FILE_DIGESTS)
"""Where a gateway says what the ConfigMaps hold that files refer to, as digests."""
T = TypeVar("T")


@mutable
class _Gathered:
    """The rows of one version of the store, and what was made of them."""

    version: int = 0
    deployments: Mapping[str, DeploymentRow] = {}
    processes: Mapping[str | None, tuple[ProcessRow, ...]] = {}  # by the uid of their owner
    devices: Mapping[str, DeviceRow] = {}
    matching: dict[str, Mapping[str, DeviceRow]] = field(factory=dict)
    rollouts: dict[str, tuple[DeploymentRow, int]] = field(factory=dict)


class Stored:
    """Rows are made once for each version of an object, and gathered once for each version of the store."""

    def __init__(self, kube: InProcessKube) -> None:
        self._kube = kube
        self._read_at = 0
        self._objects: dict[Resource, dict[Key, dict[str, Any]]] = {}
        self._rows: dict[Resource, dict[Key, tuple[str, Any]]] = defaultdict(dict)
        self._gathered = _Gathered()
        self.offered_at: dict[str, str] = {}
        """When the controller wrote the spec of a process last, by our clock: its own may be set otherwise. By uid."""

    def forget(self) -> None:
        """Read everything again: the store was restored, and counts its versions again."""
        self._read_at, self._gathered = 0, _Gathered()
        self._objects.clear()
        self._rows.clear()

    def process(self, obj: dict[str, Any]) -> ProcessRow:
        """Return the row of a process, with its offer by our clock."""
        meta, notes = obj["metadata"], obj["metadata"].get("annotations", {})
        if OFFERED_AT_ANNOTATION in notes and meta["uid"] in self.offered_at:
            notes = notes | {OFFERED_AT_ANNOTATION: self.offered_at[meta["uid"]]}
            obj = {**obj, "metadata": {**meta, "annotations": notes}}
        return project_process(obj)

    def deployment(self, name: str) -> DeploymentRow:
        return self._gather().deployments[name]

    def processes(self, deployment: str) -> tuple[ProcessRow, ...]:
        return self._gather().processes.get(self.deployment(deployment).uid, ())

    def ownerless(self, deployment: str) -> tuple[ProcessRow, ...]:
        """Return the processes that the deployment is to adopt."""
        label = (DEPLOYMENT_LABEL, deployment_label(deployment))
        return tuple(each for each in self._gather().processes.get(None, ()) if label in each.labels)

    def devices(self) -> Mapping[str, DeviceRow]:
        return self._gather().devices

    def matching(self, deployment: str) -> Mapping[str, DeviceRow]:
        gathered = self._gather()
        if deployment not in gathered.matching:
            matches = gathered.deployments[deployment].matches
            gathered.matching[deployment] = {name: row for name, row in gathered.devices.items() if matches(row.labels)}
        return gathered.matching[deployment]

    def number(self, deployment: str) -> int:
        """Return the number of the template's revision; 0 before it is recorded."""
        found = find_revision(self._revisions(deployment), self.deployment(deployment).template.revision)
        return found.number if found is not None else 0

    def rollout(self, deployment: str) -> tuple[DeploymentRow, int]:
        """Return the deployment with the template of its newest revision, and the number of that; 0 before the first.

        The template that a user wants now may be another one, of which nothing was offered yet.
        """
        gathered = self._gather()
        if deployment not in gathered.rollouts:
            row, revisions = self.deployment(deployment), self._revisions(deployment)
            newest = max(revisions, key=lambda each: each.number, default=None)
            gathered.rollouts[deployment] = (
                (row, 0) if newest is None else (evolve(row, template=newest.template), newest.number)
            )
        return gathered.rollouts[deployment]

    def unchanged(self, row: DeploymentRow, began: float) -> frozenset[str]:
        """Return the devices that the rollout of *row*, which *began* then, does not change and has offered nothing."""
        found = find_revision(self._revisions(row.name), row.status.current_revision)
        before = found.template if found is not None else None
        offered = {each.device for each in self.processes(row.name) if (each.offered_at or 0.0) >= math.floor(began)}
        return frozenset(
            name
            for name, device in self.matching(row.name).items()
            if name not in offered and not is_changed(row.template, before, device.labels)
        )

    def template(self, deployment: str, revision: str) -> Template | None:
        """Return the template of the *revision*; None when it is not kept."""
        found = find_revision(self._revisions(deployment), revision)
        return found.template if found is not None else None

    def is_first(self, row: DeploymentRow) -> bool:
        """Return whether no revision was rolled out yet, and no device has another one than that of *row*."""
        devices = self.devices()
        others = any(
            each.spec_hash != row.template.resolved(devices[each.device].labels).spec_hash
            for each in self.processes(row.name)
            if each.device in devices
        )
        return row.status.current_revision is None and not others

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.objects(DEVICE_PROCESS_DEPLOYMENTS)[Key(LAB, name)].get("status") or {}
        return status

    def versions(self, deployment: str) -> dict[str, str]:
        """Return the version of every device's process."""
        uid, found = self.deployment(deployment).uid, self.objects(DEVICE_PROCESSES).values()
        ours = [each for each in found if each["metadata"]["ownerReferences"][0]["uid"] == uid]
        return {each["spec"]["deviceRef"]["name"]: each["spec"]["execution"]["command"][0] for each in ours}

    def objects(self, resource: Resource) -> dict[Key, dict[str, Any]]:
        if self._read_at != self._kube.version:
            self._read_at, self._objects = self._kube.version, {}
        if resource not in self._objects:
            self._objects[resource] = self._kube.peek(resource)
        return self._objects[resource]

    def _revisions(self, deployment: str) -> list[RevisionRow]:
        uid = self.deployment(deployment).uid
        return [each for each in self._made(CONTROLLER_REVISIONS, project_revision).values() if each.owner == uid]

    def _gather(self) -> _Gathered:
        if self._gathered.version != self._kube.version:
            processes = defaultdict[str | None, list[ProcessRow]](list)
            for row in self._made(DEVICE_PROCESSES, self.process).values():
                processes[row.owner].append(row)
            made = self._made(DEVICE_PROCESS_DEPLOYMENTS, project_deployment)
            self._gathered = _Gathered(
                version=self._kube.version,
                deployments={name: self._approved(row) for name, row in made.items()},
                processes={owner: tuple(rows) for owner, rows in processes.items()},
                devices=self._made(NETWORK_SWITCHES, project_device),
            )
        return self._gathered

    def _approved(self, row: DeploymentRow) -> DeploymentRow:
        """Return *row* with the contents that its rollout is about."""
        published = self.objects(CONFIG_MAPS).get(PUBLISHED)
        if published is None or not row.template.refers:
            return row
        return with_approvals(row, published_digests(published["data"][LAB]), None)

    def _made(self, resource: Resource, project: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        """Return the rows of *resource* by the names of their objects; only changed objects are projected."""
        known, now = self._rows[resource], {}
        for key, obj in self.objects(resource).items():
            version, found = obj["metadata"]["resourceVersion"], known.get(key)
            now[key] = found if found is not None and found[0] == version else (version, project(obj))
        self._rows[resource] = now
        return {key.name: row for key, (_, row) in now.items()}
