"""`praetor-agent status`: what the device thinks, without network, whether the agent runs or not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from praetor_agent import procfs
from praetor_agent.backends.available import backends_of
from praetor_agent.errors import AgentError, BackendError
from praetor_agent.records import Observed, World
from praetor_agent.state import State, is_locked
from praetor_agent.telling import observations
from praetor_api.protocol import Observation
from praetor_api.wire import clean_text, write

COLUMNS = ("NAMESPACE", "NAME", "STATE", "PID", "RESTARTS", "EXIT", "SPEC", "ARTIFACT", "MESSAGE")


def status(state_dir: Path, output: str) -> None:
    """Print the processes of *state_dir* as a table, or as JSON; AgentError when it cannot be read."""
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise AgentError(f"--state-dir {state_dir} cannot be read; no agent ran there, or you may not (try as root)")
    state = State(state_dir)
    device = state.device()
    received = state.load_desired(device) if device else None
    memory = state.load_memory()
    world = World(boot_id=procfs.boot_id() or "", observed=_observed(state_dir, device))
    told = observations(received.desired if received else None, memory, world, {})
    rows = [_row(seen, {uid: record.stage.value for uid, record in memory.items()}) for seen in told.values()]
    if output == "json":
        document = {
            "device": device,
            "agentRuns": is_locked(state_dir),
            "desiredETag": received.etag if received else None,
            "processes": [write(seen) for seen in told.values()],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    known = f"{len(rows)} processes" if received else "it was never told what to run"
    agent = "runs" if is_locked(state_dir) else "does not run"
    sys.stdout.write(f"Device {device or '-'}: {known}; the agent {agent}\n")
    if rows:
        sys.stdout.write(table([COLUMNS, *rows]))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(line + "\n" for line in lines)


def _observed(state_dir: Path, device: str | None) -> Mapping[str, Observed]:
    observed: dict[str, Observed] = {}
    for backend in backends_of(device, state_dir, procfs.boot_id() or "")[0].values():
        try:
            observed |= backend.observe()
        except BackendError as e:
            raise AgentError(str(e)) from e
    return observed


def _row(seen: Observation, stages: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        seen.namespace or "-",
        seen.name,
        stages.get(seen.uid, "-"),
        str(seen.pid or "-"),
        str(seen.restart_count),
        "-" if seen.exit_code is None else str(seen.exit_code),
        seen.observed_spec_hash.removeprefix("sha256:")[:12] or "-",
        (seen.artifact_digest or "-").removeprefix("sha256:")[:12],
        clean_text("; ".join(_messages(seen))).replace("\n", " "),
    )


def _messages(seen: Observation) -> Iterator[str]:
    if seen.rolled_back_reason or seen.rolled_back_message:
        yield f"rolled back: {seen.rolled_back_reason or ''} {seen.rolled_back_message or ''}".strip()
    if seen.update_held_message is not None:
        yield seen.update_held_message
    yield from (said for said in (seen.error_message, seen.warning_message) if said)
