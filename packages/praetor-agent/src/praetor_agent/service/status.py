# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent status`: the processes of this device, without network, even if the agent does not run.

`praetor-agent confirm` confirms a change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from praetor_agent.backends import procfs
from praetor_agent.clock import Clock, SystemClock, rfc3339
from praetor_agent.core.masking import Masking
from praetor_agent.core.model import Exchange, Observed, ObservedDevice, Record
from praetor_agent.core.report import observations
from praetor_agent.errors import AgentError, BackendError
from praetor_agent.host import Backends, revisions_of
from praetor_agent.state import Received, State, is_locked, read_freeze
from praetor_api.backports import dataclass
from praetor_api.protocol import Observation
from praetor_api.spec import ConfirmMode
from praetor_api.wire import clean_text, write

COLUMNS = ("NAMESPACE", "NAME", "STATE", "HEALTH", "PID", "RESTARTS", "EXIT", "SPEC", "ARTIFACT", "MESSAGE")
_LEAVING = (8, 7, 6, 0, 4, 5)
"""Columns that a narrow terminal does not show, the first one first: artifact, spec, exit, namespace, PID, restarts."""
_COMMAND = re.compile(r"((?:praetor-agent|praetorctl|chmod|chown|mount|systemctl)(?: [^\s,;()]+)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the files in a state directory and the backends say. *waiting*: what changes wait for, by uid."""

    device: str | None
    received: Received | None
    exchange: Exchange | None
    freeze: str | None
    newer: str | None
    memory: Mapping[str, Record]
    processes: Mapping[str, Observation]
    waiting: Mapping[str, Mapping[str, str]]

    def in_order(self) -> list[str]:
        """Return the uids of the processes, by namespace and name."""
        return sorted(self.processes, key=lambda uid: (self.processes[uid].namespace, self.processes[uid].name))


def shown_of(state_dir: Path, freeze_file: Path) -> Shown:
    """Return what is to be shown of *state_dir*; AgentError if it cannot be read."""
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise AgentError(f"--state-dir {state_dir} cannot be read; no agent ran there, or it needs root")
    state, boot_id, clock = State(state_dir), procfs.boot_id() or "", SystemClock()
    device, view, memory = state.device(), state.load_view(), state.load_memory()
    received = state.load_desired(device) if device else None
    observed = ObservedDevice(boot_id=boot_id, observed=_observed(state_dir, device), freeze=read_freeze(freeze_file))
    health = {
        uid: one
        for uid, one in view.health.items()
        if uid in observed.observed and observed.observed[uid].handle == one.handle
    }
    items = (*(received.desired.items if received else ()), *(revision.item for revision in revisions_of(memory)))
    masking = Masking(items)
    found = observations(received.desired if received else None, memory, observed, health, clock.now())
    shown = {uid: masking.reported(seen) for uid, seen in found.items()}
    return Shown(
        device=device,
        received=received,
        exchange=view.exchange,
        freeze=observed.freeze,
        newer=state.newer,
        memory=memory,
        processes=shown,
        waiting={uid: wait for uid in shown if (wait := waits(memory[uid], boot_id, clock)) is not None},
    )


def status(state_dir: Path, freeze_file: Path, output: str) -> None:
    """Print the processes of *state_dir* as a table, or as JSON; AgentError if it cannot be read."""
    shown = shown_of(state_dir, freeze_file)
    if output == "json":
        document = {
            "device": shown.device,
            "agentRuns": is_locked(state_dir),
            "desiredETag": shown.received.etag if shown.received else None,
            "lastExchange": write(shown.exchange) if shown.exchange else None,
            "held": shown.freeze,
            "processes": [
                write(shown.processes[uid]) | {"stage": shown.memory[uid].stage, "confirmation": shown.waiting.get(uid)}
                for uid in shown.in_order()
            ],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    number = len(shown.processes)
    known = f"{number} process{'' if number == 1 else 'es'}" if shown.received else "no desired state was received yet"
    agent = "runs" if is_locked(state_dir) else "does not run"
    sys.stdout.write(f"Device {shown.device or '-'}: {known}; the agent {agent}\n")
    sys.stdout.write(f"Gateway: {_exchanged(shown.exchange, SystemClock().wall())}\n")
    for held in filter(None, (shown.freeze, shown.newer)):
        sys.stdout.write(f"Nothing is changed: {held}\n")
    if shown.processes:
        rows = (_row(shown.processes[uid], shown.memory[uid], shown.waiting.get(uid)) for uid in shown.in_order())
        sys.stdout.write(table([COLUMNS, *rows], _LEAVING))


def troubles(state_dir: Path, freeze_file: Path) -> Iterator[tuple[str, str]]:
    """Yield the processes that something is wrong with, and what; AgentError if *state_dir* cannot be read."""
    shown = shown_of(state_dir, freeze_file)
    for uid in shown.in_order():
        seen = shown.processes[uid]
        said = "; ".join(_messages(seen, None))
        if said:
            yield f"{seen.namespace or '-'}/{seen.name}", clean_text(said).replace("\n", " ")


def waits(record: Record, boot_id: str, clock: Clock) -> dict[str, str] | None:
    """Return the mode and the deadline of the confirmation that the change waits for; None if it waits for none."""
    timer, spec = record.confirmation, record.current.item.spec if record.current else None
    if timer is None or spec is None or spec.confirm is None:
        return None
    same_boot = timer.boot_id == boot_id  # else half of the window begins when an agent runs
    left = timer.deadline - clock.now() if same_boot else timer.seconds / 2
    return {"mode": spec.confirm.mode, "deadline": rfc3339(clock.wall() + timedelta(seconds=left))}


def _exchanged(last: Exchange | None, now: datetime) -> str:
    if last is None:
        return "no report was sent yet"
    text = f"{_ago(last.at, now)}: {last.answer}"
    if last.acknowledged_at == last.at:
        return text
    return f"{text}; last acknowledged {_ago(last.acknowledged_at, now) if last.acknowledged_at else 'never'}"


def _ago(at: str, now: datetime) -> str:
    try:
        then = datetime.fromisoformat(at.replace("Z", "+00:00"))  # a Z is read from Python 3.11 on
        return f"{at} ({(now - then).total_seconds():.0f} s ago)"
    except ValueError:
        return at


def table(rows: Sequence[Sequence[str]], leaving: Sequence[int] = ()) -> str:
    """Return *rows* as lines with aligned columns; the last one is prose.

    Where a terminal, or $COLUMNS, is narrower, the columns *leaving* are left out in that order, and prose that does
    not fit stands below its row. What is piped is whole.
    """
    width, kept = _screen_width(), list(range(len(rows[0]) - 1))
    widths = [max(len(row[column]) for row in rows) for column in kept]
    for column in leaving if width is not None else ():
        if sum(widths[each] + 3 for each in kept) - 3 > (width or 0):
            kept.remove(column)
    lines = []
    for row in rows:
        cells = "".join(row[column].ljust(widths[column]) + "   " for column in kept)
        if width is None or len(cells) + len(row[-1]) <= width:
            lines.append((cells + row[-1]).rstrip())
        else:
            lines += [cells.rstrip(), *_sentences(row[-1], width)]
    return "".join(line + "\n" for line in lines)


def _sentences(text: str, width: int) -> list[str]:
    """Return *text* in indented lines of at most *width* characters; a command to run is never broken."""
    lines: list[str] = []
    for part in _COMMAND.split(text):
        if _COMMAND.fullmatch(part):
            lines.append(f"    {part}")
        else:
            lines += textwrap.wrap(
                part.strip("(;) "), width, initial_indent="    ", subsequent_indent="    ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return lines


def _screen_width() -> int | None:
    given = os.environ.get("COLUMNS", "")
    if not (given.isdecimal() or sys.stdout.isatty()):
        return None
    return max(int(given) if given.isdecimal() else shutil.get_terminal_size().columns, 40)


def _observed(state_dir: Path, device: str | None) -> Mapping[str, Observed]:
    observed: dict[str, Observed] = {}
    for backend in Backends(device, state_dir, procfs.boot_id() or "").values():
        try:
            observed |= backend.observe()
        except BackendError as e:
            raise AgentError(str(e)) from e
    return {uid: seen for uid, seen in observed.items() if not seen.unseen}


def _row(seen: Observation, record: Record, wait: Mapping[str, str] | None) -> tuple[str, ...]:
    return (
        seen.namespace or "-",
        seen.name,
        record.stage,
        "-" if seen.healthy is None else "Healthy" if seen.healthy else "Unhealthy",
        str(seen.pid or "-"),
        str(seen.restart_count),
        "-" if seen.exit_code is None else str(seen.exit_code),
        seen.observed_spec_hash.removeprefix("sha256:")[:12] or "-",
        (seen.artifact_digest or "-").removeprefix("sha256:")[:12],
        clean_text("; ".join(_messages(seen, wait))).replace("\n", " "),
    )


def _messages(seen: Observation, wait: Mapping[str, str] | None) -> Iterator[str]:
    if wait is not None:
        manual = wait["mode"] == ConfirmMode.MANUAL
        by = f"run: praetor-agent confirm {seen.name}" if manual else "an exchange with the gateway confirms it"
        yield f"rolls back at {wait['deadline']} unless it is confirmed ({by})"
    if seen.rolled_back_reason or seen.rolled_back_message:
        yield f"rolled back: {': '.join(filter(None, (seen.rolled_back_reason, seen.rolled_back_message)))}"
    pending = seen.pending_message if seen.pending_message != seen.error_message else None
    error = seen.error_message if (seen.error_message or "") not in (seen.warning_message or "") else None
    yield from filter(None, (error, pending, seen.warning_message))


def record_of(state: State, state_dir: Path, name: str, namespace: str | None) -> Record:
    """Return the record of the process *name*; AgentError if there is none, or several without *namespace*."""
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise AgentError(f"--state-dir {state_dir} cannot be read; no agent ran there, or it needs root")
    named = [record for record in state.load_memory().values() if record.name == name]
    found = [record for record in named if namespace in (None, record.namespace)]
    if not found:
        raise AgentError(f"there is no process {name!r} on this device; praetor-agent status shows those that are")
    if len(found) > 1:
        namespaces = ", ".join(sorted(record.namespace for record in found))
        raise AgentError(f"several processes are called {name!r}; choose one with --namespace: {namespaces}")
    return found[0]


def confirm(state_dir: Path, name: str, namespace: str | None) -> None:
    """Confirm the pending change of the process *name*; AgentError if there is none, or it cannot be stored."""
    state = State(state_dir)
    record = record_of(state, state_dir, name, namespace)
    if record.confirmation is None or record.spec_hash is None:
        raise AgentError(f"no change of {name!r} waits to be confirmed")
    try:
        state.confirm(record.uid, record.spec_hash)
    except OSError as e:
        raise AgentError(f"--state-dir {state_dir} cannot be written: {e.strerror}; try as root") from e
    sys.stdout.write(f"{record.namespace}/{name}: {record.spec_hash} is confirmed\n")
