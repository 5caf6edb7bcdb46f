# SPDX-License-Identifier: Apache-2.0
"""The progress of a rollout, from a raw deployment: a verdict for scripts, a bar for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from attrs import asdict, frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_controller.ctl.errors import ExitCode
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import WaveState
from praetor_controller.rollout.status import cannot_move

BAR_WIDTH = 30
_DEFERRED = (
    ReasonCode.IN_MAINTENANCE,
    ReasonCode.OFFLINE_SINCE,
    ReasonCode.NEVER_CONNECTED,
    ReasonCode.UPDATE_HELD,
    ReasonCode.AGENT_TOO_OLD,
    ReasonCode.REFERENCE_MISSING,
    ReasonCode.REFERENCE_REFUSED,
    ReasonCode.REQUIREMENT_NOT_MET,
    ReasonCode.FACTS_NOT_REPORTED,
)
LAST_WAVE = "(rest)"
_HELD = (ReasonCode.WAVE_UNCHANGED, ReasonCode.WAVE_LOST_ITS_DEVICES, ReasonCode.WAVE_FAILED)
_HOLDS = {
    ReasonCode.WAVE_MATCHES_NOTHING: "it matches nothing",
    ReasonCode.WAVE_UNCHANGED: "the overrides change nothing there",
    ReasonCode.WAVE_LOST_ITS_DEVICES: "it lost its devices",
    ReasonCode.WAVE_FAILED: "devices failed",
    ReasonCode.WAVE_HAS_NO_ELIGIBLE_DEVICE: "no device can show it now",
}


class Verdict(StrEnum):
    """The state of a rollout."""

    DONE = "Done"
    FAILED = "Failed"
    PAUSED = "Paused"
    IN_PROGRESS = "InProgress"


_EXIT_CODES = {
    Verdict.DONE: ExitCode.DONE,
    Verdict.FAILED: ExitCode.FAILED,
    Verdict.PAUSED: ExitCode.PAUSED,
    Verdict.IN_PROGRESS: ExitCode.IN_PROGRESS,
}
_COLOURS = {Verdict.DONE: "green", Verdict.FAILED: "red", Verdict.PAUSED: "yellow", Verdict.IN_PROGRESS: ""}


@frozen(kw_only=True)
class Progress:
    """A rollout by its status. *waves* are the names in order, without the implicit last one."""

    name: str
    verdict: Verdict
    reason: str
    message: str
    revision: str = ""
    desired: int = 0
    updated: int = 0
    available: int = 0
    up_to_date: int = 0
    deferred: int = 0
    reasons: Mapping[str, int] = {}
    wave: str | None = None
    waves: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self.verdict]

    @property
    def colour(self) -> str:
        return _COLOURS[self.verdict]


def progress(deployment: Mapping[str, Any]) -> Progress:
    """Return the progress of the rollout of *deployment*, a raw object."""
    metadata, spec, status = deployment["metadata"], deployment.get("spec") or {}, deployment.get("status") or {}
    verdict, reason, message = _verdict(metadata, status)
    reasons: dict[str, int] = status.get("reasons") or {}
    rolling = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("waves") or ()
    return Progress(
        name=metadata["name"],
        verdict=verdict,
        reason=reason,
        message=message,
        revision=status.get("updateRevision") or "",
        desired=status.get("desiredNumberScheduled") or 0,
        updated=status.get("updatedNumberScheduled") or 0,
        available=status.get("numberAvailable") or 0,
        up_to_date=reasons.get(ReasonCode.UP_TO_DATE, 0),
        deferred=sum(reasons.get(code, 0) for code in _DEFERRED),
        reasons=reasons,
        wave=status.get("wave"),
        waves=tuple(each["name"] for each in rolling),
    )


def _verdict(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Verdict, str, str]:
    if (status.get("observedGeneration") or 0) < metadata.get("generation", 0):
        return Verdict.IN_PROGRESS, "NotObserved", "the controller has not observed the change yet; check that it runs"
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    rolled_back = conditions.get(ConditionType.ROLLED_BACK) or {}
    if rolled_back.get("status") == "True":
        return (
            Verdict.FAILED,
            ConditionType.ROLLED_BACK,
            rolled_back.get("message") or "the failure policy rolled it back",
        )
    progressing = conditions.get(ConditionType.PROGRESSING) or {}
    reason, message = progressing.get("reason") or "", progressing.get("message") or ""
    if progressing.get("status") == "False":
        return Verdict.FAILED, reason, message
    if (conditions.get(ConditionType.PAUSED) or {}).get("status") == "True":
        paused = conditions[ConditionType.PAUSED]
        return Verdict.PAUSED, paused.get("reason") or reason, paused.get("message") or message
    done = reason == DeploymentReason.NEW_REVISION_ROLLED_OUT
    held = conditions.get(ConditionType.REMOVAL_HELD) or {}
    if done and held.get("status") == "True":
        return Verdict.PAUSED, ConditionType.REMOVAL_HELD, held.get("message") or message
    available = conditions.get(ConditionType.AVAILABLE) or {}
    if done and available.get("status") == "False" and (status.get("reasons") or {}).get(ReasonCode.FAILING):
        return Verdict.FAILED, ReasonCode.FAILING, message  # it was available at first, and failed since
    return Verdict.DONE if done else Verdict.IN_PROGRESS, reason, message


def line(shown: Progress, *, name_waves: bool = True) -> str:
    """Return one line about a rollout that is under way; its waves are named unless they have lines of their own."""
    counts = f"{shown.up_to_date}/{shown.desired} up to date"
    others = [f"{count} {code}" for code, count in sorted(shown.reasons.items()) if code != ReasonCode.UP_TO_DATE]
    stands = ["cannot move"] if shown.verdict is Verdict.IN_PROGRESS and cannot_move(shown.reasons) else []
    parts = [f"{shown.name} {bar(shown)} {', '.join([*stands, counts, *others])}"]
    if shown.waves and name_waves:
        parts.append(waves(shown))
    if shown.reason not in ("", DeploymentReason.ROLLOUT_IN_PROGRESS):
        parts.append(shown.reason)
    return "; ".join(parts)


def bar(shown: Progress, width: int = BAR_WIDTH) -> str:
    """Return the bar: `#` is up to date, `o` has the template and is not available, `-` is deferred, `.` waits."""
    total = max(1, shown.desired)
    done = min(width, width * shown.up_to_date // total)
    deferred = min(width - done, width * shown.deferred // total)
    moving = min(width - done - deferred, width * max(0, shown.updated - shown.up_to_date) // total)
    return f"[{'#' * done}{'o' * moving}{'.' * (width - done - moving - deferred)}{'-' * deferred}]"


def waves(shown: Progress) -> str:
    """Return the waves in order, with the one that is being rolled out in brackets."""
    names = [*shown.waves, LAST_WAVE]
    if shown.wave is None:
        return f"waves {' > '.join(names)}"
    present = shown.wave if shown.wave in names else LAST_WAVE
    return f"waves {' > '.join(f'[{name}]' if name == present else name for name in names)}"


def wave_lines(shown: Progress, states: Sequence[WaveState]) -> list[str]:
    """Return a bar for each wave: `#` is available with the template, `.` is not yet, `-` is deferred.

    A command to type is a line of its own.
    """
    width = max((len(each.name) for each in states), default=0)
    open_ = sum(each.open for each in states)
    bars = [f"  {each.name:<{width}} {_wave_bar(each)} {each.available}/{each.devices}" for each in states]
    words = [_wave_words(shown, each, number - open_) for number, each in enumerate(states)]
    return [line for parts in zip(bars, words, strict=True) for line in " ".join(parts).splitlines()]


def _wave_bar(state: WaveState, width: int = BAR_WIDTH) -> str:
    total = max(1, state.devices)
    done = min(width, width * state.available // total)
    deferred = min(width - done, width * (state.devices - state.counted) // total)
    return f"[{'#' * done}{'.' * (width - done - deferred)}{'-' * deferred}]"


def _wave_words(shown: Progress, state: WaveState, after_open: int) -> str:
    """Return the state of a wave; *after_open* is its distance from the first wave that is not open."""
    if state.open:
        holds = [words for code, words in _HOLDS.items() if code in shown.reasons]
        if not state.devices and not holds:  # the status may be older than the plan
            holds = [_HOLDS[ReasonCode.WAVE_MATCHES_NOTHING]]
        if after_open == -1 and not state.passed and state.name != LAST_WAVE and holds:
            return f"holds: {holds[0]}"
        return "done" if state.passed or state.available >= state.needed else "now"
    if after_open:
        return "later"
    held = [code for code in _HELD if code in shown.reasons]
    if held:
        return f"{held[0]}\n    praetorctl rollout approve {shown.name}"
    if ReasonCode.AWAITING_APPROVAL in shown.reasons:
        return f"waits for approval\n    praetorctl rollout approve {shown.name}"
    return "soaking" if ReasonCode.SOAKING in shown.reasons else "next"


def wave_data(states: Sequence[WaveState]) -> list[dict[str, Any]]:
    """Return the waves for JSON and YAML."""
    return [asdict(each) for each in states]


def final_line(shown: Progress) -> str:
    """Return the last line: the outcome of the rollout."""
    words = {
        Verdict.DONE: "rolled out",
        Verdict.FAILED: f"failed ({shown.reason})",
        Verdict.PAUSED: f"paused ({shown.reason})",
        Verdict.IN_PROGRESS: "under way",
    }[shown.verdict]
    return f"{shown.name}: {words}: {shown.message}" if shown.message else f"{shown.name}: {words}"


def as_data(shown: Progress) -> dict[str, Any]:
    """Return a rollout for JSON and YAML."""
    return {
        "name": shown.name,
        "verdict": shown.verdict.value,
        "reason": shown.reason,
        "message": shown.message,
        "revision": shown.revision,
        "desired": shown.desired,
        "updated": shown.updated,
        "available": shown.available,
        "upToDate": shown.up_to_date,
        "reasons": dict(shown.reasons),
        "wave": shown.wave,
    }
