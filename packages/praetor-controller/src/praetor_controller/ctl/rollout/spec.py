"""Writes to a deployment that steer its rollout: the smallest that say what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from praetor_api.kube.api import PatchType
from praetor_api.kube.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster


async def read(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the deployment."""
    return await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, Key(cluster.namespace, name))


async def merge(cluster: Cluster, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Change only what *patch* names, and return the deployment."""
    key = Key(cluster.namespace, name)
    return await cluster.api.patch(DEVICE_PROCESS_DEPLOYMENTS, key, patch, field_manager=FIELD_MANAGER)


async def replace_template(cluster: Cluster, deployment: Mapping[str, Any], template: Mapping[str, Any]) -> None:
    """Give *deployment* another template as a whole; Conflict when somebody changed it since it was read."""
    patch = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": deployment["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec/template", "value": dict(template)},
    ]
    key = Key(cluster.namespace, deployment["metadata"]["name"])
    await cluster.api.patch(
        DEVICE_PROCESS_DEPLOYMENTS, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
    )
