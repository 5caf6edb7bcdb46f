# SPDX-License-Identifier: Apache-2.0
"""What a deployment says of kinds of devices that the cluster does not have, and which processes are theirs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition, set_condition, without_condition
from praetor_api.kube.objects import Condition, ConditionStatus
from praetor_api.names import referenced_device
from praetor_api.spec import DeviceKind
from praetor_controller.model.rows import DeploymentRow, ProcessRow


def followed(processes: Iterable[ProcessRow], missing: Collection[DeviceKind]) -> Iterable[ProcessRow]:
    """Return *processes* without those of the kinds *missing*: nothing is known of their devices, so they stay."""
    if not missing:
        return processes
    return [row for row in processes if referenced_device(row.device)[0] not in missing]


def missing_text(deployment: DeploymentRow, missing: Collection[DeviceKind]) -> str:
    """Return which kinds *deployment* asks for that are *missing*, and what to do; empty for none."""
    wanted = [kind.value for kind in deployment.policy.device_kinds if kind in missing]
    if not wanted:
        return ""
    return (
        f"spec.deviceKinds: the cluster has no {' and no '.join(wanted)}, or it may not be read; apply crds/ and the "
        "roles of this release, and its devices are selected within a minute"
    )


def with_missing_kinds(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, missing: Collection[DeviceKind], now: datetime
) -> tuple[Condition, ...]:
    """Return *conditions* with the one that says which kinds are *missing*, and without it when none is."""
    text = missing_text(deployment, missing)
    if text:
        return set_condition(
            conditions,
            type=ConditionType.KINDS_MISSING,
            status=ConditionStatus.TRUE,
            reason=DeploymentReason.NOT_INSTALLED,
            message=text,
            observed_generation=deployment.generation,
            now=now,
        )
    if get_condition(conditions, ConditionType.KINDS_MISSING) is None:
        return conditions
    return without_condition(conditions, ConditionType.KINDS_MISSING)
