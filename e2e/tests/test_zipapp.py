# SPDX-License-Identifier: Apache-2.0
"""The agent as a single file: the same bytes each time, and at work with nothing installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_testing import FakeGateway, item, process_spec
from e2e.lab.payload import install_zipapp
from e2e.release.zipapp import write_zip
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend

pytestmark = pytest.mark.timeout(300)  # three seconds on two idle cores
ALONE = (sys.executable, "-I", "-S")


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_zipapp(tmp_path_factory.mktemp("zipapp"))


def test_the_same_tree_gives_the_same_bytes(zipapp: Path, tmp_path: Path) -> None:
    tree = zipapp.parent / "tree"
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
    write_zip(tree, tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == zipapp.read_bytes()


def test_authorities_can_be_read_out_of_the_file(zipapp: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import requests.certs as c; print(len(open(c.where()).read()))"
    done = subprocess.run([*ALONE, "-c", code, str(zipapp)], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000


def test_the_file_runs_processes_which_outlive_it(zipapp: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {"PATH": os.environ["PATH"], "PRAETOR_AGENT_TOKEN": "t"}
    backend = ProcessBackend(state / "processes", procfs.boot_id() or "")
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("sleep", "1000")))
        command = (
            *ALONE, str(zipapp), "run", "--gateway", gateway.url, "--device", "leaf-1", "--state-dir", str(state),
            "--start-splay", "0",
        )  # fmt: skip
        agent = subprocess.Popen(command, env=environment)
        try:
            gateway.wait_for(lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "it runs")
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(300) == 0
            assert [seen.running for seen in backend.observe().values()] == [True]
            status = subprocess.run(
                [*ALONE, str(zipapp), "status", "--state-dir", str(state)],
                capture_output=True, text=True, env=environment, check=True,
            )  # fmt: skip
            assert "Running" in status.stdout
        finally:
            agent.kill()
            agent.wait()
            for uid in backend.observe():
                backend.stop(uid, grace_seconds=0, force=True)
