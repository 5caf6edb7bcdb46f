# SPDX-License-Identifier: Apache-2.0
"""A plan as plain JSON: what was decided. Pure.

Reasons are recorded as changes since the deployment's previous decision, with a digest of all of them: the sum, modulo
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
    """Return *planned* without its reasons; actions are by the name of the process that they write."""
    record: dict[str, Any] = {"actions": _actions(planned.actions)}
    if planned.status is not None:
        record["status"] = plain(planned.status)
    if planned.recheck_at is not None:
        record["next_look"] = planned.recheck_at.isoformat()
    return record


def _actions(actions: tuple[Action, ...]) -> dict[str, dict[str, Any]]:
    record: dict[str, dict[str, Any]] = {}
    for action in actions:
        match action:
            case Create(device, name, template, wave):
                record.setdefault("create", {})[name] = _write(device, template.revision, wave)
            case Update(process, template, spec, wave):
                write = _write(process.device, template.revision, wave)
                record.setdefault("update", {})[process.name] = write if spec else write | {"metadata_only": True}
            case Delete(process, why):
                record.setdefault("delete", {})[process.name] = {"device": process.device, "why": why}
            case _:
                assert_never(action)
    return record


def _write(device: str, revision: str, wave: str) -> dict[str, Any]:
    write = {"device": device, "revision": revision}
    return write | {"wave": wave} if wave else write


def reason_changes(known: KnownReasons, reasons: Mapping[str, Reason]) -> tuple[dict[str, Any], KnownReasons]:
    """Return the record of *reasons*, given what is *known* from earlier lines, and what is known with it."""
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
    record: dict[str, Any] = {"digest": f"{after.sum:064x}", "counts": dict(sorted(counts.items()))}
    if changed:
        record["changed"] = {reason: sorted(devices) for reason, devices in sorted(changed.items())}
    if gone:
        record["gone"] = gone
    return record, after
