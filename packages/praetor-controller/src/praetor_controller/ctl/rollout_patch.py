"""Writes to a deployment that steer its rollout: the smallest that say what is wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from praetor_api.annotations import CHANGE_CAUSE_ANNOTATION
from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import Conflict
from praetor_api.kube.client.patches import json_pointer
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.names import is_device_name
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster
from praetor_controller.ctl.errors import BadInput

ATTEMPTS = 10
"""The controller writes the status of a rollout at most once a second: a tenth conflict has another cause."""


def checked(name: str) -> str:
    """Return *name* if a deployment can be called so, else raise BadInput."""
    if not is_device_name(name):  # the same rule holds for both
        raise BadInput(f"DPD: {name!r} is no name of a deployment; praetorctl takes it alone, as in: beacon")
    return name


async def read(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the deployment; BadInput when none can be called so."""
    return await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, Key(cluster.namespace, checked(name)))


async def rewrite(cluster: Cluster, name: str, change: Callable[[dict[str, Any]], Awaitable[str]]) -> str:
    """Return what *change* tells of its write to the deployment as it is now.

    Writes of its status, which a rollout is full of, are in nobody's way: it is read again. But Conflict when somebody
    else changed its spec meanwhile, since what was asked for may no longer be what is wanted.
    """
    found = await read(cluster, name)
    for _ in range(ATTEMPTS - 1):
        try:
            return await change(found)
        except Conflict:
            asked_of = found["metadata"]["generation"]
            found = await read(cluster, name)
            if found["metadata"]["generation"] != asked_of:
                raise
    return await change(found)


async def merge(cluster: Cluster, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Change only what *patch* names, and return the deployment."""
    key = Key(cluster.namespace, checked(name))
    return await cluster.api.patch(DEVICE_PROCESS_DEPLOYMENTS, key, patch, field_manager=FIELD_MANAGER)


async def replace_template(
    cluster: Cluster, deployment: Mapping[str, Any], template: Mapping[str, Any], cause: str
) -> None:
    """Give *deployment* another template as a whole, and its *cause*; Conflict when somebody changed it meanwhile."""
    patch = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": deployment["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec/template", "value": dict(template)},
        *_cause_changes(deployment["metadata"].get("annotations"), cause),
    ]
    key = Key(cluster.namespace, deployment["metadata"]["name"])
    await cluster.api.patch(
        DEVICE_PROCESS_DEPLOYMENTS, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
    )


def _cause_changes(annotations: Mapping[str, str] | None, cause: str) -> list[dict[str, Any]]:
    """Return what makes *cause* the change cause, so that an older template is not explained by a newer one's."""
    path = json_pointer("metadata", "annotations", CHANGE_CAUSE_ANNOTATION)
    if annotations is None:
        return (
            [{"op": "add", "path": "/metadata/annotations", "value": {CHANGE_CAUSE_ANNOTATION: cause}}] if cause else []
        )
    if cause:
        return [{"op": "add", "path": path, "value": cause}]
    return [{"op": "remove", "path": path}] if CHANGE_CAUSE_ANNOTATION in annotations else []
