# SPDX-License-Identifier: Apache-2.0
"""What the API stores: as the rows that the controller makes of it, and as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from kube_testing import InProcessKube
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.model.revisions import RevisionRow, find_revision, project_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow

LAB = "lab"


class Stored:
    """Rows are made once for each version of an object, and gathered once for each version of the store."""

    def __init__(self, kube: InProcessKube) -> None:
        self._kube = kube
        self._read_at = 0
        self._objects: dict[Resource, dict[Key, dict[str, Any]]] = {}
        self._rows: dict[tuple[Resource, Key], tuple[str, Any]] = {}
        self._gathered_at = 0
        self._processes: dict[str | None, tuple[ProcessRow, ...]] = {}  # by the uid of their owner
        self._devices: dict[str, DeviceRow] = {}

    def deployment(self, name: str) -> DeploymentRow:
        row: DeploymentRow = self._row(DEVICE_PROCESS_DEPLOYMENTS, Key(LAB, name), project_deployment)
        return row

    def processes(self, deployment: str) -> tuple[ProcessRow, ...]:
        self._gather()
        return self._processes.get(self.deployment(deployment).uid, ())

    def devices(self) -> Mapping[str, DeviceRow]:
        self._gather()
        return self._devices

    def matching(self, deployment: str) -> Mapping[str, DeviceRow]:
        matches = self.deployment(deployment).matches
        return {name: row for name, row in self.devices().items() if matches(row.labels)}

    def number(self, deployment: str) -> int:
        """Return the number of the template's revision; 0 before it is recorded."""
        found = find_revision(self._revisions(deployment), self.deployment(deployment).template.revision)
        return found.number if found is not None else 0

    def rollout(self, deployment: str) -> tuple[DeploymentRow, int]:
        """Return the deployment with the template of its newest revision, and the number of that; 0 before the first.

        The template that a user wants now may be another one, of which nothing was offered yet.
        """
        row, revisions = self.deployment(deployment), self._revisions(deployment)
        if not revisions:
            return row, 0
        newest = max(revisions, key=lambda each: each.number)
        return evolve(row, template=newest.template), newest.number

    def is_first(self, row: DeploymentRow) -> bool:
        """Return whether no revision was rolled out yet, and no device has another one than that of *row*."""
        others = any(each.spec_hash != row.template.spec_hash for each in self.processes(row.name))
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
        keys, uid = self.objects(CONTROLLER_REVISIONS), self.deployment(deployment).uid
        rows: list[RevisionRow] = [self._row(CONTROLLER_REVISIONS, key, project_revision) for key in keys]
        return [each for each in rows if each.owner == uid]

    def _gather(self) -> None:
        if self._gathered_at == self._kube.version:
            return
        self._gathered_at, self._processes = self._kube.version, {}
        for key in self.objects(DEVICE_PROCESSES):
            row: ProcessRow = self._row(DEVICE_PROCESSES, key, project_process)
            self._processes[row.owner] = (*self._processes.get(row.owner, ()), row)
        keys = self.objects(NETWORK_SWITCHES)
        self._devices = {key.name: self._row(NETWORK_SWITCHES, key, project_device) for key in keys}

    def _row(self, resource: Resource, key: Key, project: Any) -> Any:
        obj = self.objects(resource)[key]
        version = obj["metadata"]["resourceVersion"]
        known = self._rows.get((resource, key))
        if known is None or known[0] != version:
            known = self._rows[resource, key] = (version, project(obj))
        return known[1]
