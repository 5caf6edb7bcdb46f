"""One line of the flight recorder: a decision, and what it was made from. Pure.

`whole` holds the inputs as a whole, for the first decision of a deployment in a file; `change` the merge patch that
makes them of those of the deployment's line before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import Factory, frozen

from praetor_controller.journal.decision import KnownReasons, decision, reason_changes
from praetor_controller.journal.inputs import Known, changes
from praetor_controller.rollout.snapshot import Plan, Snapshot

FORMAT = 1
_PIECEWISE = 3


@frozen(kw_only=True)
class Decision:
    """What the planner was given and what it said."""

    now: datetime
    snapshot: Snapshot
    plan: Plan


@frozen(kw_only=True)
class Written:
    """What a file says of a deployment so far."""

    known: Known = Factory(Known)
    reasons: KnownReasons = Factory(KnownReasons)


def entry(
    written: Written | None, made: Decision, version: str, lost: int = 0, breathe: Callable[[], None] = lambda: None
) -> tuple[bytes, Written]:
    """Return the line that tells of *made*, and what the file says with it. *lost* decisions before it are missing."""
    before = written or Written()
    deployment = made.snapshot.deployment
    inputs, known = changes(before.known, made.snapshot, breathe)
    told, reasons = reason_changes(before.reasons, made.plan.reasons)
    line = {
        "time": made.now.isoformat(),
        "deployment": f"{deployment.namespace}/{deployment.name}",
        "uid": deployment.uid,
        "digest": known.digest,
        "whole" if written is None else "change": inputs,
        "decision": decision(made.plan) | {"reasons": told},
        "version": version,
        "format": FORMAT,
    }
    if lost:
        line["lost"] = lost
    return _dumped(line, breathe), Written(known=known, reasons=reasons)


def _dumped(line: Mapping[str, Any], breathe: Callable[[], None]) -> bytes:
    pieces: list[str] = []
    _dump(line, _PIECEWISE, pieces, breathe)
    pieces.append("\n")
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _dump(value: Any, depth: int, pieces: list[str], breathe: Callable[[], None]) -> None:
    """Append the JSON of *value* to *pieces*, in several: one of a whole fleet would hold up everybody else."""
    if not depth or not isinstance(value, dict):
        pieces.append(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
        return
    before = "{"
    for number, (name, part) in enumerate(value.items(), 1):
        pieces.append(f"{before}{json.dumps(name, ensure_ascii=False)}:")
        _dump(part, depth - 1, pieces, breathe)
        before = ","
        if number % 256 == 0:
            breathe()
    pieces.append("}" if value else "{}")
