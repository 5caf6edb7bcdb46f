# SPDX-License-Identifier: Apache-2.0
"""One line of the flight recorder: a decision and its inputs. Pure.

`whole` holds all inputs, for the first decision of a deployment in a file; `change` the merge patch from the inputs of
the deployment's previous line.
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
    """The inputs of the planner, and its plan."""

    now: datetime
    snapshot: Snapshot
    plan: Plan


@frozen(kw_only=True)
class Written:
    """What a file holds about a deployment so far."""

    known: Known = Factory(Known)
    reasons: KnownReasons = Factory(KnownReasons)


def entry(
    written: Written | None, made: Decision, version: str, lost: int = 0, pause: Callable[[], None] = lambda: None
) -> tuple[bytes, Written]:
    """Return the line for *made*, and what the file holds with it.

    written: what the file holds before it; None when nothing.
    version: of the controller.
    lost: how many decisions before it are missing.
    pause: is called now and then in long work, so that other threads may run.
    """
    before = written or Written()
    deployment = made.snapshot.deployment
    inputs, known = changes(before.known, made.snapshot, pause)
    reasons_record, reasons = reason_changes(before.reasons, made.plan.reasons)
    line = {
        "time": made.now.isoformat(),
        "deployment": f"{deployment.namespace}/{deployment.name}",
        "uid": deployment.uid,
        "digest": known.digest,
        "whole" if written is None else "change": inputs,
        "decision": decision(made.plan) | {"reasons": reasons_record},
        "version": version,
        "format": FORMAT,
    }
    if lost:
        line["lost"] = lost
    return _dumped(line, pause), Written(known=known, reasons=reasons)


def _dumped(line: Mapping[str, Any], pause: Callable[[], None]) -> bytes:
    pieces: list[str] = []
    _dump(line, _PIECEWISE, pieces, pause)
    pieces.append("\n")
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _dump(value: Any, depth: int, pieces: list[str], pause: Callable[[], None]) -> None:
    """Append the JSON of *value* to *pieces*, in several: one call for a whole fleet would block other threads."""
    if not depth or not isinstance(value, dict):
        pieces.append(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
        return
    before = "{"
    for number, (name, part) in enumerate(value.items(), 1):
        pieces.append(f"{before}{json.dumps(name, ensure_ascii=False)}:")
        _dump(part, depth - 1, pieces, pause)
        before = ","
        if number % 256 == 0:
            pause()
    pieces.append("}" if value else "{}")
