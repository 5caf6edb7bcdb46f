# SPDX-License-Identifier: Apache-2.0
"""What a user does with Kubernetes in one namespace, without kubectl and without the production client."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import yaml
from contract.rawapi import Answer, RawApi

from e2e.stack.errors import Refused
from e2e.stack.waiting import eventually

GROUP_VERSION = "azure.com/v1alpha1"
SWITCHES = "networkswitches"
PROCESSES = "deviceprocesses"
DEPLOYMENTS = "deviceprocessdeployments"
OTHER_DEVICES = ("bmcs", "dpus", "servers", "socs")
PLURALS = {
    "NetworkSwitch": SWITCHES,
    "BMC": "bmcs",
    "DPU": "dpus",
    "Server": "servers",
    "SOC": "socs",
    "DeviceProcess": PROCESSES,
    "DeviceProcessDeployment": DEPLOYMENTS,
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACES = "/api/v1/namespaces"
MANAGER = "e2e"
CRDS = Path(__file__).resolve().parents[2] / "crds"

Object = dict[str, Any]


class Kube:
    """Requests to one namespace; a refusal raises Refused with the server's message."""

    def __init__(self, api: RawApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, plural: str, name: str = "") -> str:
        """Return the path of a collection or of one object of our kinds."""
        return f"/apis/{GROUP_VERSION}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply; the namespace is always this one."""
        for item in objects:
            body = {**item, "metadata": {**item["metadata"], "namespace": self.namespace}}
            path = self.path(PLURALS[item["kind"]], item["metadata"]["name"])
            accepted(self.api.apply(path, body, MANAGER, force="true"))

    def get(self, plural: str, name: str) -> Object | None:
        """Return one object, or None when there is none."""
        answer = self.api.get(self.path(plural, name))
        return None if answer.status == HTTPStatus.NOT_FOUND else accepted(answer)

    def list(self, plural: str, **query: str) -> tuple[Object, ...]:
        """Return all objects; *query* may hold labelSelector and fieldSelector."""
        return tuple(accepted(self.api.get(self.path(plural), **query))["items"])

    def patch(self, plural: str, name: str, body: Mapping[str, Any]) -> Object:
        """Merge *body* into the object."""
        return accepted(self.api.patch(self.path(plural, name), body))

    def delete(self, plural: str, name: str) -> None:
        """Delete the object; garbage collection deletes what it owns."""
        accepted(self.api.delete(self.path(plural, name), {"propagationPolicy": "Background"}))

    def delete_devices(self) -> None:
        """Delete all that declares a device, so that those which end on purpose make no storm for the next test.

        A process declares its device, too, and a controller keeps the processes of most devices that go at once.
        """
        for plural in (DEPLOYMENTS, SWITCHES, PROCESSES):
            accepted(self.api.delete(self.path(plural)))

    def switch(self, name: str) -> Object:
        """Return one NetworkSwitch; Refused when there is none."""
        return self._existing(SWITCHES, name)

    def process(self, name: str) -> Object:
        """Return one DeviceProcess; Refused when there is none."""
        return self._existing(PROCESSES, name)

    def deployment(self, name: str) -> Object:
        """Return one DeviceProcessDeployment; Refused when there is none."""
        return self._existing(DEPLOYMENTS, name)

    def processes(self) -> dict[str, Object]:
        """Return the namespace's processes by the name of their device."""
        return {item["spec"]["deviceRef"]["name"]: item for item in self.list(PROCESSES)}

    def events(self) -> tuple[Object, ...]:
        """Return the namespace's events, as events.k8s.io/v1."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        return tuple(accepted(self.api.get(path))["items"])

    def create_namespace(self) -> Self:
        """Make the namespace unless it is there."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        answer = self.api.post(NAMESPACES, body)
        if answer.status != HTTPStatus.CONFLICT:
            accepted(answer)
        return self

    def delete_namespace(self) -> None:
        """Delete the namespace with all that is in it; not waited for."""
        self.api.delete(f"{NAMESPACES}/{self.namespace}")

    def _existing(self, plural: str, name: str) -> Object:
        return accepted(self.api.get(self.path(plural, name)))


def accepted(answer: Answer) -> Object:
    """Return the body of an answer; Refused when it is a refusal."""
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise Refused(f"{answer.status} {answer.reason}: {answer.message}")
    for item in answer.body.get("items", [answer.body]):
        item.get("metadata", {}).pop("managedFields", None)  # they would bury what a failure is about
    return dict(answer.body)


def condition(item: Mapping[str, Any], kind: str) -> str:
    """Return the status of a condition, or "" when the object has none such."""
    return str(conditions(item).get(kind, {}).get("status", ""))


def conditions(item: Mapping[str, Any]) -> dict[str, Object]:
    """Return the object's conditions by their type."""
    return {entry["type"]: entry for entry in (item.get("status") or {}).get("conditions", ())}


def install_definitions(api: RawApi, folder: Path = CRDS) -> None:
    """Create the project's CRDs, or bring them up to date, and wait until their objects are served."""
    bodies = [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("azure.com_*.yaml"))]
    for body in bodies:
        # neither create nor merge patch minds fields that an older apiserver does not know
        answer = api.post(DEFINITIONS, body)
        if answer.status == HTTPStatus.CONFLICT:
            answer = api.patch(f"{DEFINITIONS}/{body['metadata']['name']}", body)
        accepted(answer)
    for plural in (body["spec"]["names"]["plural"] for body in bodies):  # an earlier release has fewer
        eventually(
            lambda path=f"/apis/{GROUP_VERSION}/{plural}": api.get(path, limit=1),  # type: ignore[misc]
            lambda answer: answer.status == HTTPStatus.OK,
            what=f"{plural} are served",
        )
