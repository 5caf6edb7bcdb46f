# SPDX-License-Identifier: Apache-2.0
"""What would keep one device from a template: as far as its object says, and what no object says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from praetor_api.kube.objects import FactRequirement
from praetor_api.protocol import PendingReason, features_needed
from praetor_api.values import SECRET, Reference
from praetor_controller.ctl.forecast.refusals import refusals
from praetor_controller.model.requirements import unmet
from praetor_controller.model.rows import DeviceRow
from praetor_controller.rollout.reasons import Reason, ReasonCode


def holds(requirements: Sequence[FactRequirement], spec: Mapping[str, Any], device: DeviceRow) -> Iterator[str]:
    """Yield each reason for which *device* would not take the process spec *spec*, as far as its object says."""
    if why := unmet(requirements, device.facts):
        code = ReasonCode.FACTS_NOT_REPORTED if device.facts is None else ReasonCode.REQUIREMENT_NOT_MET
        yield str(Reason(code, why))
    if device.facts is not None and (missing := features_needed(spec) - device.features):
        yield str(Reason(ReasonCode.AGENT_TOO_OLD, ",".join(sorted(missing))))
    yield from (f"{PendingReason.NOT_ALLOWED}: {each}" for each in refusals(spec, device.facts))


def not_known(namespace: str, device: str, references: Sequence[Reference]) -> str:
    """Return what else may keep the values of *references* from *device*; empty where they name no objects."""
    kinds = {each.source.kind for each in references if each.source is not None}
    if not kinds:
        return ""
    said = f"not known here: whether the gateway may read in {namespace} (NotEnabled, NotReadable)"
    if SECRET not in kinds:
        return said
    how = "has a token of its own and TLS (SharedToken, PlainText)"
    return f"{said}, how large Secrets are, and whether {device} {how}"
