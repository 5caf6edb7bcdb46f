# SPDX-License-Identifier: Apache-2.0
"""Supervision while the name servers are dead: nothing of the network is waited for in the loop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, end_processes, item, process_spec, running_agent, until
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.state import State

NAME_SERVER = "127.77.0.53"
BLOCKED_SECONDS = 60.0
"""Less than the resolver needs to give up: 30 s, five times."""


@contextmanager
def dead_name_server(place: Path) -> Iterator[tuple[socket.socket, str]]:
    """Yield a name server that never answers, and the shell command that uses no other in its mount namespace."""
    conf, hosts = place / "resolv.conf", place / "hosts"
    conf.write_text(f"nameserver {NAME_SERVER}\noptions timeout:30 attempts:5\n")
    hosts.write_text("127.0.0.1 localhost\n")
    mounts = f"mount --bind {conf} /etc/resolv.conf && mount --bind {hosts} /etc/hosts"
    if subprocess.run(("unshare", "-m", "sh", "-c", mounts), capture_output=True, check=False).returncode:
        pytest.skip("this user cannot change what a program resolves names by")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(WITHIN_SECONDS)
        server.bind((NAME_SERVER, 53))
        yield server, f'{mounts} && exec "$@"'


def test_while_names_are_not_resolved_crashed_processes_restart_changes_are_confirmed_and_the_agent_stops(
    tmp_path: Path,
) -> None:
    state, backend = tmp_path / "state", ProcessBackend(tmp_path / "state" / "processes", procfs.boot_id() or "")
    confirm = {"mode": "Manual", "timeoutSeconds": 3600}

    def pid() -> int | None:
        seen = backend.observe().get("uid-a")
        return seen.pid if seen is not None and seen.running else None

    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("sleep", "1000")))
        with running_agent(gateway, state):
            gateway.wait_for(lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "the process")
            gateway.desire(item("a", process_spec("sleep", "1001", confirm=confirm), generation=2))
            until(lambda: State(state).load_memory()["uid-a"].confirmation is not None, "the change")
            gateway.wait_for(lambda: bool(gateway.observations["a"].pid), "the process")
    with dead_name_server(tmp_path) as (server, prepare):
        command = (
            "unshare", "-m", "sh", "-c", prepare, "sh",
            sys.executable, "-m", "praetor_agent", "run", "--gateway", "http://gateway.test:1", "--device", "leaf-1",
            "--state-dir", str(state), "--start-splay", "0",
        )  # fmt: skip
        agent = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PRAETOR_AGENT_TOKEN": "t"})
        try:
            for _ in range(2):  # the poll and the report
                server.recv(4096)
            killed: list[int | None] = []
            for _ in range(2):
                until(lambda: pid() not in (None, *killed), "the process", BLOCKED_SECONDS)
                killed.append(pid())
                os.kill(killed[-1] or 0, signal.SIGKILL)
            until(lambda: pid() not in (None, *killed), "the restart", BLOCKED_SECONDS)
            words = (sys.executable, "-m", "praetor_agent", "confirm", "a", "--state-dir", str(state))
            subprocess.run(words, check=True, capture_output=True)
            until(lambda: State(state).load_memory()["uid-a"].confirmation is None, "the confirmation", BLOCKED_SECONDS)
            agent.terminate()
            assert agent.wait(BLOCKED_SECONDS) == 0
        finally:
            agent.kill()
            agent.wait(WITHIN_SECONDS)
            end_processes(state)
