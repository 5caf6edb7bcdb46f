# SPDX-License-Identifier: Apache-2.0
"""The writes to a deployment that control its rollout; each changes the fewest fields."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from praetor_api.annotations import APPROVED_WAVES_ANNOTATION, CHANGE_CAUSE_ANNOTATION
from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import Conflict
from praetor_api.kube.client.patches import json_pointer
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.names import is_device_name
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster
from praetor_controller.ctl.errors import BadInput, CommandFailed
from praetor_controller.model.projection import project_deployment

MANUAL = "Manual"

ATTEMPTS = 10
"""The controller writes the status of a rollout at most once a second, so a tenth conflict has another cause."""


def checked(name: str) -> str:
    """Return *name* if it is a valid name of a deployment, else raise BadInput."""
    if not is_device_name(name):  # the same rule holds for both
        raise BadInput(f"DPD: {name!r} is not a name of a deployment; write the name alone, as in: beacon")
    return name


async def read(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the deployment *name*; BadInput when that is not a valid name."""
    return await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, Key(cluster.namespace, checked(name)))


async def rewrite(cluster: Cluster, name: str, change: Callable[[dict[str, Any]], Awaitable[str]]) -> str:
    """Return what *change* returns about its write to the deployment *name*.

    When only its status changed meanwhile, as in every rollout, the write is repeated. Conflict when another client
    changed its spec: what the user asked for may no longer be right.
    """
    found = await read(cluster, name)
    for _ in range(ATTEMPTS - 1):
        try:
            return await change(found)
        except Conflict:
            generation = found["metadata"]["generation"]
            found = await read(cluster, name)
            if found["metadata"]["generation"] != generation:
                raise
    return await change(found)


async def merge(cluster: Cluster, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Change only what *patch* names, and return the deployment."""
    key = Key(cluster.namespace, checked(name))
    return await cluster.api.patch(DEVICE_PROCESS_DEPLOYMENTS, key, patch, field_manager=FIELD_MANAGER)


async def replace_template(
    cluster: Cluster,
    deployment: Mapping[str, Any],
    template: Mapping[str, Any],
    overrides: Sequence[Mapping[str, Any]],
    cause: str,
) -> None:
    """Give *deployment* another template with its overrides, and its *cause*; Conflict when it changed meanwhile."""
    patch = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": deployment["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec/template", "value": dict(template)},
        *_override_changes(deployment["spec"], overrides),
        *_cause_changes(deployment["metadata"].get("annotations"), cause),
    ]
    key = Key(cluster.namespace, deployment["metadata"]["name"])
    await cluster.api.patch(
        DEVICE_PROCESS_DEPLOYMENTS, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
    )


def _override_changes(spec: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if overrides:
        return [{"op": "add", "path": "/spec/overrides", "value": [*overrides]}]
    return [{"op": "remove", "path": "/spec/overrides"}] if "overrides" in spec else []


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


def approved(deployment: Mapping[str, Any], wave: str | None, held: tuple[str, int] | None) -> tuple[str, str]:
    """Return the wave to approve, the next one that waits if *wave* is None, and what the annotation is to say.

    *held* is the wave that lost its devices or saw them fail, and the number of the revision, so that the approval is
    for this rollout alone. Only what is approved for the present template is kept. CommandFailed when there is nothing
    to approve.
    """
    row = project_deployment(deployment)
    noted = (deployment["metadata"].get("annotations") or {}).get(APPROVED_WAVES_ANNOTATION, "")
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration") == deployment["metadata"].get("generation")
    revision = status.get("updateRevision") if seen else None  # of a template that means the same, it may be another's
    prefix = f"{revision or row.template.revision}/"
    kept = [each for each in map(str.strip, noted.split(",")) if each.startswith(prefix)]
    if held is not None and wave in (None, held[0]):
        return held[0], ",".join(dict.fromkeys([*kept, f"{prefix}{held[0]}/{held[1]}"]))
    waves = row.policy.update_strategy.rolling_update.waves
    manual = [each.name for each in waves if each.approval == MANUAL]
    name = wave or next((each for each in manual if prefix + each not in kept), None)
    if name is None:
        raise CommandFailed(f"{row.name} has no wave that waits for approval with its present template")
    if name not in manual:
        known = ", ".join(manual) or "none"
        raise CommandFailed(f"--wave: {row.name} has no wave {name!r} with approval: Manual; there are: {known}")
    return name, ",".join(dict.fromkeys([*kept, prefix + name]))


def all_approved(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return *deployment* as if each of its waves were approved."""
    row, metadata = project_deployment(deployment), deployment["metadata"]
    waves = row.policy.update_strategy.rolling_update.waves
    note = ",".join(f"{row.template.revision}/{each.name}" for each in waves)
    annotations = {**(metadata.get("annotations") or {}), APPROVED_WAVES_ANNOTATION: note}
    return {**deployment, "metadata": {**metadata, "annotations": annotations}}
