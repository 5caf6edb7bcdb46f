"""A plan as plain JSON: what was decided. Pure.

Reasons are told as changes since the deployment's decision before, with a digest of all of them: the sum, modulo
2^256, of the sha256 of the canonical JSON of each [device, reason].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from attrs import field, frozen

from praetor_controller.journal.codec import plain
from praetor_controller.journal.inputs import MODULUS, row_digest
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.rollout.reasons import Reason
from praetor_controller.rollout.snapshot import Plan


@frozen(kw_only=True)
class KnownReasons:
    """The reasons that were recorded last, and the sum that their digest is made of."""

    reasons: Mapping[str, Reason] = field(factory=dict)
    sum: int = 0


def decision(planned: Plan) -> dict[str, Any]:
    """Return what *planned* decided, without reasons. Actions stand by the process that they write."""
    told: dict[str, Any] = {"actions": _actions(planned.actions)}
    if planned.status is not None:
        told["status"] = plain(planned.status)
    if planned.recheck_at is not None:
        told["next_look"] = planned.recheck_at.isoformat()
    return told


def _actions(actions: tuple[Action, ...]) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for action in actions:
        match action:
            case Create(device, name, template, wave):
                told.setdefault("create", {})[name] = _write(device, template.revision, wave)
            case Update(process, template, spec, wave):
                write = _write(process.device, template.revision, wave)
                told.setdefault("update", {})[process.name] = write if spec else write | {"metadata_only": True}
            case Delete(process, why):
                told.setdefault("delete", {})[process.name] = {"device": process.device, "why": why}
            case _:
                assert_never(action)
    return told


def _write(device: str, revision: str, wave: str) -> dict[str, Any]:
    write = {"device": device, "revision": revision}
    return write | {"wave": wave} if wave else write


def reason_changes(known: KnownReasons, reasons: Mapping[str, Reason]) -> tuple[dict[str, Any], KnownReasons]:
    """Return what is told about *reasons*, and what is known then."""
    changed: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    change = 0
    for device, reason in reasons.items():
        counts[reason.code] = counts.get(reason.code, 0) + 1
        had = known.reasons.get(device)
        if had is reason or had == reason:
            continue
        changed.setdefault(str(reason), []).append(device)
        change += row_digest(device, str(reason)) - (row_digest(device, str(had)) if had is not None else 0)
    gone = sorted(known.reasons.keys() - reasons.keys())
    change -= sum(row_digest(device, str(known.reasons[device])) for device in gone)
    after = KnownReasons(reasons=reasons, sum=(known.sum + change) % MODULUS)
    told: dict[str, Any] = {"digest": f"{after.sum:064x}", "counts": dict(sorted(counts.items()))}
    if changed:
        told["changed"] = {reason: sorted(devices) for reason, devices in sorted(changed.items())}
    if gone:
        told["gone"] = gone
    return told, after
