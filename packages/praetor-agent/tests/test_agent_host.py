# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.host import Backends
from praetor_api.spec import Backend

AGENT = """
import sys
from praetor_agent.cli import main

main(sys.argv[1:])
print(*sys.modules)
"""


@pytest.fixture(autouse=True)
def without_containers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # the agent asks the runtime of a host for what it left there


def test_an_agent_that_has_nothing_to_run_loads_no_backend_and_nothing_that_writes_artifacts(tmp_path: Path) -> None:
    flags = ("--device=leaf-1", "--token=t", "--start-splay=0", f"--state-dir={tmp_path / 'state'}")
    with FakeGateway(token="t") as gateway:
        command = (sys.executable, "-c", AGENT, "run", f"--gateway={gateway.url}", *flags)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            try:
                gateway.wait_for(lambda: len(gateway.requests) > 2, "the agent has connected, polled and reported")
            finally:
                agent.terminate()
            loaded = agent.communicate(timeout=WITHIN_SECONDS)[0].split()
    assert "praetor_agent.loop" in loaded
    parts = {name.removeprefix("praetor_agent.") for name in loaded if "backends." in name or "artifacts." in name}
    readers = {"backends.probes", "backends.procfs"}  # what the loop itself needs
    assert parts - readers == {"backends.protocol", "artifacts.names", "artifacts.fetcher", "artifacts.store"}
    assert {"argparse", "subprocess"}.isdisjoint(loaded)


def test_a_backend_is_loaded_when_it_is_asked_for_and_then_kept(tmp_path: Path) -> None:
    backends = Backends("leaf-1", tmp_path, "boot-1")
    assert Backend.PROCESS not in backends
    assert isinstance(backends[Backend.PROCESS], ProcessBackend)
    assert list(backends) == [Backend.PROCESS]
    assert backends[Backend.PROCESS] is backends[Backend.PROCESS]


def test_a_backend_that_left_something_on_the_device_is_in_use_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    assert list(Backends("leaf-1", tmp_path, "boot-1")) == [Backend.PROCESS]


def test_every_backend_is_there_or_says_why_not(tmp_path: Path) -> None:
    backends = Backends("leaf-1", tmp_path, "boot-1")
    assert {*backends.all(), *backends.unavailable} == set(Backend)
    assert all(backends.unavailable.values())
    assert "docker" in backends.unavailable[Backend.CONTAINER]


def test_a_device_without_a_name_has_only_the_backend_that_needs_none(tmp_path: Path) -> None:
    backends = Backends(None, tmp_path, "boot-1")
    assert list(backends.all()) == [Backend.PROCESS]
    assert backends.unavailable.keys() == set(Backend) - {Backend.PROCESS}
