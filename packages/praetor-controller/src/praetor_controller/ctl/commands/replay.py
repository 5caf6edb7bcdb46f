# SPDX-License-Identifier: Apache-2.0
"""`praetorctl replay`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from praetor_api.wire import clean_text
from praetor_controller.__about__ import __version__
from praetor_controller.ctl.errors import BadInput, ExitCode
from praetor_controller.ctl.output import counted, fitted_lines, for_people, output_option, painted, show, structured
from praetor_controller.errors import Unreadable
from praetor_controller.journal.replay import Difference, Replayed
from praetor_controller.journal.replay import replay as replayed

_CLEAR_LINE = "\r\x1b[2K"
_MAX_LINE = 1 << 28
"""Bytes; whole inputs of 10,000 devices are some MB."""
_SHOW_EVERY_BYTES = 1 << 18


@click.command("replay")
@click.argument("file", type=click.Path(allow_dash=True))
@output_option
@click.pass_context
def replay(context: click.Context, file: str, output: str) -> None:
    """Replay the decisions that praetor-controller --record FILE recorded.

    The planner of this version gets the recorded inputs. The first decision that differs is shown: a line of FILE, a
    deployment, a device, what was recorded and what is planned now. No cluster is needed. A last line that was cut off
    is skipped.

    \b
    Exit codes:
      0  every decision is as it was recorded
      1  one differs, or a line was changed since
      2  FILE cannot be read, or is no recording
    """
    try:
        done = _last(file)
    except Unreadable as e:
        raise BadInput(f"{file}: {e}; give a file that praetor-controller --record wrote") from e
    except OSError as e:
        raise BadInput(
            f"{file}: cannot be read: {e.strerror}; give a file that praetor-controller --record wrote"
        ) from e
    show(replay_text(file, done, output))
    context.exit(ExitCode.DONE if done.difference is None else ExitCode.DIFFERENT)


def _last(file: str) -> Replayed:
    if file == "-":
        return _replay(sys.stdin.buffer, 0)
    with Path(file).open("rb") as lines:
        return _replay(lines, Path(file).stat().st_size)


def _replay(lines: BinaryIO, size: int) -> Replayed:
    """Replay *lines*, of *size* bytes (0: unknown), and show the progress on a terminal."""
    progress = ProgressLine(size, watched=sys.stderr.isatty())
    done = Replayed()
    try:
        for done in replayed(progress.through(lines)):
            progress.show(done)
    finally:
        progress.end()
    return done


class ProgressLine:
    """Shows on a terminal how much of a file was read."""

    def __init__(self, size: int, *, watched: bool) -> None:
        self._size = size
        self._watched = watched
        self._read = 0
        self._shown = 0

    def through(self, lines: BinaryIO) -> Iterator[bytes]:
        while line := lines.readline(_MAX_LINE):
            self._read += len(line)
            yield line

    def show(self, done: Replayed) -> None:
        if not self._watched or self._read - self._shown < _SHOW_EVERY_BYTES:
            return
        self._shown = self._read
        part = f"{100 * self._read // self._size}%, " if self._size else ""
        click.echo(f"{_CLEAR_LINE}replaying: {part}{done.decisions} decisions", err=True, nl=False)

    def end(self) -> None:
        if self._shown:
            click.echo(_CLEAR_LINE, err=True, nl=False)


def replay_text(file: str, done: Replayed, output: str) -> str:
    """Return what is printed about a replay."""
    if not for_people(output):
        return structured(_data(file, done), output)
    found = done.difference
    count = f"{counted(done.decisions, 'decision')} of {_deployments(done)}"
    if found is None:
        lines = [f"{painted('same', 'green')}: {count} are as they were recorded"]
    else:
        lines = [f"{painted('different', 'red')}: {file}, line {found.line}, the last of {count}", *_words(found)]
    if done.truncated:
        lines.append("note: the last line was cut off, and skipped")
    if done.lost:
        lines.append(
            f"note: {counted(done.lost, 'decision was', 'decisions were')} never recorded, "
            "see praetor_controller_recorded_decisions_total"
        )
    if done.orphans:
        lines.append(
            f"note: {counted(done.orphans, 'line was', 'lines were')} skipped, "
            "because the whole inputs of their deployment are not here"
        )
    return fitted_lines(lines, output)


def _deployments(done: Replayed) -> str:
    names = sorted(done.deployments)
    return clean_text(names[0]) if len(names) == 1 else f"{len(names)} deployments"


def _words(found: Difference) -> list[str]:
    about = (
        ("deployment", found.deployment),
        ("device", found.device),
        ("at", found.time),
        ("what", found.what),
        ("recorded", f"{found.recorded}   (by version {found.version})"),
        ("now", f"{found.now}   (by version {__version__})"),
    )
    lines = [f"    {name + ':':<12}{clean_text(str(value))}" for name, value in about if value]
    if found.what == "digest of the inputs":
        lines.append("    The inputs in this line, or in one before it, were changed after they were written.")
    return lines


def _data(file: str, done: Replayed) -> dict[str, Any]:
    found = done.difference
    return {
        "file": file,
        "same": found is None,
        "decisions": done.decisions,
        "deployments": sorted(done.deployments),
        "recordedBy": sorted(done.versions),
        "replayedBy": __version__,
        "truncated": done.truncated,
        "lost": done.lost,
        "passedOver": done.orphans,
        "difference": None
        if found is None
        else {
            "line": found.line,
            "time": found.time,
            "deployment": found.deployment,
            "device": found.device or None,
            "what": found.what,
            "recorded": found.recorded,
            "now": found.now,
            "version": found.version,
        },
    }
