"""Approving a wave: what the annotation on a deployment is to say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from praetor_api.annotations import APPROVED_WAVES_ANNOTATION
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.model.projection import project_deployment

MANUAL = "Manual"


def approved(deployment: Mapping[str, Any], wave: str | None) -> tuple[str, str]:
    """Return the wave to approve, the next one that waits if *wave* is None, and what the annotation is to say.

    Only what is approved for the present template is kept. CommandFailed when there is nothing to approve.
    """
    row = project_deployment(deployment)
    noted = (deployment["metadata"].get("annotations") or {}).get(APPROVED_WAVES_ANNOTATION, "")
    prefix = f"{row.template.revision}/"
    kept = [each for each in map(str.strip, noted.split(",")) if each.startswith(prefix)]
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
