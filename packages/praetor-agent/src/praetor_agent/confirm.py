"""`praetor-agent confirm`: somebody at the device lets a change stay that waits for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from praetor_agent.errors import AgentError
from praetor_agent.state import State


def confirm(state_dir: Path, name: str, namespace: str | None) -> None:
    """Confirm the pending change of the process *name*; AgentError when there is none or it cannot be."""
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise AgentError(f"--state-dir {state_dir} cannot be read; no agent ran there, or you may not (try as root)")
    state = State(state_dir)
    named = [record for record in state.load_memory().values() if record.name == name]
    found = [record for record in named if namespace in (None, record.namespace)]
    if not found:
        raise AgentError(f"there is no process {name!r} on this device; praetor-agent status shows those that are")
    if len(found) > 1:
        namespaces = ", ".join(sorted(record.namespace for record in found))
        raise AgentError(f"several processes are called {name!r}; choose one with --namespace: {namespaces}")
    record = found[0]
    if record.confirmation is None or record.spec_hash is None:
        raise AgentError(f"no change of {name!r} waits to be confirmed")
    try:
        state.confirm(record.uid, record.spec_hash)
    except OSError as e:
        raise AgentError(f"--state-dir {state_dir} cannot be written: {e.strerror}; try as root") from e
    sys.stdout.write(f"{record.namespace}/{name}: {record.spec_hash} is confirmed\n")
