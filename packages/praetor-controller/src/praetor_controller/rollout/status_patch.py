"""The merge patch between the status that is stored and the one that shall be. Pure; empty when they say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from praetor_api.kube.codec import encode
from praetor_controller.rollout.snapshot import RolloutStatus


def status_patch(stored: Mapping[str, Any], status: RolloutStatus) -> dict[str, Any]:
    """Return the fields of *status* that *stored*, a raw status, does not hold already."""
    wanted = _fields(status)
    patch = {name: value for name, value in wanted.items() if stored.get(name) != value}
    patch |= {name: None for name, value in _optional(status).items() if value is None and name in stored}
    if "reasons" in patch:  # a merge patch keeps what it does not name
        gone = (stored.get("reasons") or {}).keys() - wanted["reasons"].keys()
        patch["reasons"] = wanted["reasons"] | dict.fromkeys(gone)
    return patch


def _fields(status: RolloutStatus) -> dict[str, Any]:
    counts = status.counts
    fields: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "desiredNumberScheduled": counts.desired,
        "currentNumberScheduled": counts.current,
        "updatedNumberScheduled": counts.updated,
        "numberReady": counts.ready,
        "numberAvailable": counts.available,
        "numberUnavailable": counts.unavailable,
        "updateRevision": status.update_revision,
        "reasons": {code.value: count for code, count in sorted(status.reasons.items())},
        "conditions": [encode(condition) for condition in status.conditions],
    }
    return fields | {name: value for name, value in _optional(status).items() if value is not None}


def _optional(status: RolloutStatus) -> dict[str, str | None]:
    return {
        "currentRevision": status.current_revision,
        "wave": status.wave,
        "failedRevision": status.failed_revision,
    }
