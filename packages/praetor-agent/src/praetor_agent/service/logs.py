# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent logs`: the output of a process, without network, even if the agent does not run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from praetor_agent.backends import procfs
from praetor_agent.backends.protocol import KeepsOutput
from praetor_agent.errors import AgentError, BackendError
from praetor_agent.host import Backends
from praetor_agent.service.status import record_of
from praetor_agent.state import State

FOLLOWED_LINES = 10
"""How many lines `-f` begins with unless `-n` says so, as journalctl and tail have it."""


def logs(state_dir: Path, name: str, namespace: str | None, *, follow: bool, lines: int | None) -> None:
    """Write the output of the process *name* to standard output, or its last *lines*.

    With *follow*, also what comes later, until the process is deleted; it begins with FOLLOWED_LINES by default.
    AgentError if there is no such process, or its output cannot be read.
    """
    state = State(state_dir)
    record = record_of(state, state_dir, name, namespace)
    if record.current is None:
        raise AgentError(f"{name!r} was never started on this device; praetor-agent status says why")
    backends = Backends(state.device(), state_dir, procfs.boot_id() or "")
    kind = record.current.item.spec.execution.backend
    if kind in backends.unavailable:
        raise AgentError(f"backend {kind} is not available here: {backends.unavailable[kind]}")
    backend: object = backends[kind]
    try:
        if isinstance(backend, KeepsOutput):
            lines = FOLLOWED_LINES if follow and lines is None else lines
            backend.show(record.uid, lines, (lambda: record.uid in state.load_memory()) if follow else None)
    except BackendError as e:
        raise AgentError(f"the output of {name!r} cannot be read: {e}; try as root") from e
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
