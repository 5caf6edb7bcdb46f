# SPDX-License-Identifier: Apache-2.0
"""The bodies and patches that are written to the API, from actions. Pure.

A change of a process is one JSON patch: all of spec, and of the metadata only
the keys that came from the template. It holds only for the version it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from praetor_api.annotations import (
    MANAGED_ANNOTATION,
    MIN_READY_ANNOTATION,
    OFFERED_AT_ANNOTATION,
    REVISION_ANNOTATION,
    REVISION_LABEL,
    TRACEPARENT_ANNOTATION,
    WAVE_ANNOTATION,
)
from praetor_api.kube.client.patches import json_pointer
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES
from praetor_api.kube.codec import format_time
from praetor_api.names import referenced_device
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.annotations import parse_managed_keys
from praetor_controller.model.rows import DeploymentRow, LabelItems, ProcessRow, Template

Operation = dict[str, Any]


def process_manifest(deployment: DeploymentRow, action: Create, now: datetime, traceparent: str = "") -> dict[str, Any]:
    """Return the DeviceProcess to create; *traceparent* is the span of this write, if one is recorded."""
    template = action.template
    return {
        "apiVersion": DEVICE_PROCESSES.api_version,
        "kind": DEVICE_PROCESSES.kind,
        "metadata": {
            "name": action.name,
            "namespace": deployment.namespace,
            "labels": {REVISION_LABEL: template.revision} | dict(sorted(template.labels)),
            "annotations": dict(sorted(template.annotations)) | _own_annotations(deployment, action, now, traceparent),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": _spec(template, action.device, deployment.namespace),
    }


def process_patch(deployment: DeploymentRow, action: Update, now: datetime, traceparent: str = "") -> list[Operation]:
    """Return the JSON patch that gives a process the template; it conflicts when the process changed in between.

    *traceparent* is the span of this write, if one is recorded.
    """
    template, process = action.template, action.process
    managed = parse_managed_keys(process.managed)
    own = _own_annotations(deployment, action, now, traceparent)
    if process.min_ready:  # else the trial of an earlier version would stay
        own.setdefault(MIN_READY_ANNOTATION, "0")
    if not action.spec:
        del own[OFFERED_AT_ANNOTATION]  # the device gets no new spec
        own.pop(MIN_READY_ANNOTATION, None)
        own.pop(TRACEPARENT_ANNOTATION, None)
    operations: list[Operation] = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": process.resource_version}
    ]
    if action.spec:
        spec = _spec(template, process.device, deployment.namespace)
        operations.append({"op": "replace", "path": "/spec", "value": spec})
    labels = dict(template.labels)
    if action.spec or any(key == REVISION_LABEL for key, _ in process.labels):  # older ones get it with their next spec
        labels.setdefault(REVISION_LABEL, template.revision)
    operations += _keys("labels", process, process.labels, labels, managed.labels)
    operations += _keys(
        "annotations", process, process.annotations, dict(template.annotations) | own, managed.annotations
    )
    if action.spec and process.wave and not action.wave:  # else the wave would count as begun in this rollout
        path = json_pointer("metadata", "annotations", WAVE_ANNOTATION)
        operations.append({"op": "add", "path": path, "value": ""})  # the API refuses to remove what is gone already
    return operations


def adoption_patch(deployment: DeploymentRow, process: Mapping[str, Any]) -> list[Operation]:
    """Return the JSON patch that makes *deployment* the owner of *process*, a raw object without a controller."""
    metadata = process["metadata"]
    owners = [*(metadata.get("ownerReferences") or ()), owner_reference(deployment)]
    return [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/ownerReferences", "value": owners},
    ]


def owner_reference(deployment: DeploymentRow) -> dict[str, Any]:
    """Return the reference by which the garbage collector deletes an object with its deployment."""
    return {
        "apiVersion": DEVICE_PROCESS_DEPLOYMENTS.api_version,
        "kind": DEVICE_PROCESS_DEPLOYMENTS.kind,
        "name": deployment.name,
        "uid": deployment.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _spec(template: Template, device: str, namespace: str) -> dict[str, Any]:
    kind, name = referenced_device(device)
    ref = {"kind": kind.value, "name": name, "namespace": namespace}
    return {**template.spec, "deviceRef": ref}


def _own_annotations(
    deployment: DeploymentRow, action: Create | Update, now: datetime, traceparent: str
) -> dict[str, str]:
    own = {
        REVISION_ANNOTATION: action.template.revision,
        OFFERED_AT_ANNOTATION: format_time(now),
        MANAGED_ANNOTATION: action.template.managed,
    }
    if deployment.policy.min_ready_seconds:
        own[MIN_READY_ANNOTATION] = str(deployment.policy.min_ready_seconds)
    if traceparent:
        own[TRACEPARENT_ANNOTATION] = traceparent
    return own | {WAVE_ANNOTATION: action.wave} if action.wave else own


def _keys(
    field: str, process: ProcessRow, current: LabelItems, wanted: Mapping[str, str], managed: frozenset[str]
) -> list[Operation]:
    there = dict(current)
    if not there and not (field == "annotations" and process.annotated):
        return [{"op": "add", "path": json_pointer("metadata", field), "value": dict(wanted)}] if wanted else []
    added = [
        {"op": "add", "path": json_pointer("metadata", field, key), "value": value}
        for key, value in sorted(wanted.items())
        if there.get(key) != value
    ]
    gone = sorted((managed - wanted.keys()) & there.keys())
    return added + [{"op": "remove", "path": json_pointer("metadata", field, key)} for key in gone]
