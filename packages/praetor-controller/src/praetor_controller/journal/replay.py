# SPDX-License-Identifier: Apache-2.0
"""Plans recorded inputs again, and reports the first decision that differs. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from attrs import Factory, field, frozen, mutable

from praetor_controller.errors import NotRecorded, Unreadable
from praetor_controller.journal.decision import KnownReasons, decision, reason_changes
from praetor_controller.journal.entry import FORMAT
from praetor_controller.journal.inputs import Reconstruction
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Plan, Snapshot

Planner: TypeAlias = Callable[[Snapshot, datetime], Plan]
NOTHING = "nothing"
_NOT_UNDERSTOOD = (
    NotRecorded, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
_VERBS = ("create", "update", "delete")


@frozen(kw_only=True)
class Difference:
    """The first thing that differs. *device* is empty when it is about the deployment as a whole."""

    line: int
    time: str
    deployment: str
    device: str
    what: str
    recorded: str
    now: str
    version: str


@mutable(kw_only=True)
class Replayed:
    """How far a replay has come. *orphans* are lines that no line with whole inputs precedes."""

    decisions: int = 0
    deployments: set[str] = field(factory=set)
    versions: set[str] = field(factory=set)
    lost: int = 0
    orphans: int = 0
    truncated: bool = False
    difference: Difference | None = None


@mutable
class _Track:
    """What the file held about one deployment so far."""

    inputs: Reconstruction = Factory(Reconstruction)
    reasons: dict[str, str] = field(factory=dict)


def replay(lines: Iterable[bytes], planner: Planner = plan) -> Iterator[Replayed]:
    """Yield how far the replay has come, after each line; the last one is the result.

    lines: of the file, with their line ends.
    planner: the function under test.
    Unreadable is raised for a line that is not a decision.
    """
    done, tracks = Replayed(), dict[str, _Track]()
    for number, (raw, last) in enumerate(_with_last(lines), 1):
        try:
            line = _parsed(raw)
        except (ValueError, RecursionError) as e:
            if last and not raw.endswith(b"\n"):
                done.truncated = True
                break
            raise Unreadable(f"line {number}: is not a decision of a flight recorder: {e}") from e
        try:
            done.difference = _line(number, line, tracks, done, planner)
        except _NOT_UNDERSTOOD as e:
            missing = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            raise Unreadable(f"line {number}: cannot be understood: {missing}") from e
        yield done
        if done.difference is not None:
            return
    if not done.decisions:
        raise Unreadable("holds no decision with whole inputs" if done.orphans else "holds no decision")
    yield done


def _with_last(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    before: bytes | None = None
    for line in lines:
        if before is not None:
            yield before, False
        before = line
    if before is not None:
        yield before, True


def _parsed(raw: bytes) -> dict[str, Any]:
    line = json.loads(raw.decode("utf-8", "surrogatepass"))
    if not isinstance(line, dict):
        raise ValueError("it is not an object")
    if line.get("format") != FORMAT:
        raise ValueError(f"its format is {line.get('format')!r}, this program reads {FORMAT}")
    return line


def _line(
    number: int, line: dict[str, Any], tracks: dict[str, _Track], done: Replayed, planner: Planner
) -> Difference | None:
    uid, now = line["uid"], datetime.fromisoformat(line["time"])
    if "whole" in line:
        tracks[uid] = _Track()
    track = tracks.get(uid)
    if track is None:
        done.orphans += 1
        return None
    done.decisions += 1
    done.deployments.add(str(line["deployment"]))
    done.versions.add(str(line["version"]))
    done.lost += int(line.get("lost", 0))
    track.inputs.change(line["whole"] if "whole" in line else line["change"])
    found = _first(line, track, now, planner)
    if found is None:
        return None
    device, what, recorded, then = found
    return Difference(
        line=number,
        time=line["time"],
        deployment=line["deployment"],
        device=device,
        what=what,
        recorded=recorded,
        now=then,
        version=str(line["version"]),
    )


def _first(line: Mapping[str, Any], track: _Track, now: datetime, planner: Planner) -> tuple[str, str, str, str] | None:
    """Return the device, what of it, what was recorded and what is planned now, where both differ first."""
    if track.inputs.digest != line["digest"]:
        return "", "digest of the inputs", line["digest"], track.inputs.digest
    planned = planner(track.inputs.snapshot(), now)
    recorded, decided = line["decision"], decision(planned)
    return (
        _in_actions(recorded["actions"], decided["actions"])
        or _in_reasons(recorded["reasons"], track, planned)
        or _in_mappings("status", recorded.get("status") or {}, decided.get("status") or {})
        or _in_mappings("", {"next check": recorded.get("next_look")}, {"next check": decided.get("next_look")})
    )


def _in_actions(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    for verb in _VERBS:
        before, after = recorded.get(verb) or {}, now.get(verb) or {}
        for process in sorted(before.keys() | after.keys()):
            old, new = before.get(process), after.get(process)
            if old != new:
                device: str = (old or new or {}).get("device", "")
                return device, f"{verb} of {process}", _text(old), _text(new)
    return None


def _in_reasons(recorded: Mapping[str, Any], track: _Track, planned: Plan) -> tuple[str, str, str, str] | None:
    for device in recorded.get("gone") or ():
        track.reasons.pop(device, None)
    for reason, devices in (recorded.get("changed") or {}).items():
        track.reasons.update(dict.fromkeys(devices, reason))
    now = {device: str(reason) for device, reason in planned.reasons.items()}
    if now != track.reasons:
        for device in sorted(now.keys() | track.reasons.keys()):
            if now.get(device) != track.reasons.get(device):
                return device, "reason", track.reasons.get(device, NOTHING), now.get(device, NOTHING)
    record, _ = reason_changes(KnownReasons(), planned.reasons)
    return _in_mappings("reasons", recorded, record, ("counts", "digest"))


def _in_mappings(
    what: str, recorded: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] | None = None
) -> tuple[str, str, str, str] | None:
    for name in names or sorted(recorded.keys() | now.keys()):
        if recorded.get(name) != now.get(name):
            return "", f"{what} {name}".strip(), _text(recorded.get(name)), _text(now.get(name))
    return None


def _text(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
