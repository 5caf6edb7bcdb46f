# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent_testing import command, until
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.backends.resources import ROOT, limits
from praetor_api.spec import Resources

ALL = Resources(memory="64Mi", cpu="500m", tasks=20)
COMMAND = command("/bin/sleep", "1000", resources=Resources())


def test_version_2_is_delegated_to_and_limited(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    lines = list(limits(ALL, Path("/p"), tmp_path))
    assert f"memory {tmp_path}/cgroup.subtree_control +memory" in lines
    values = [line.rpartition("/")[2] for line in lines if "subtree" not in line]
    assert values == ["memory.max 67108864", "cpu.max 50000 100000", "pids.max 20"]


def test_version_1_is_limited_where_its_controller_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "cgroup.procs").touch()
    memory, cpu, tasks = limits(ALL, Path("/p"), tmp_path)
    assert (memory, cpu) == ("memory", "cpu")
    assert tasks.startswith(f"tasks {tmp_path}/pids/praetor/")
    assert tasks.endswith("/pids.max 20")


def test_what_is_not_named_is_not_limited() -> None:
    assert list(limits(None, Path("/p"))) == []
    assert list(limits(Resources(), Path("/p"))) == []


def test_a_control_group_that_cannot_be_created_is_reported_and_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ProcessBackend(tmp_path / "p", "b")
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    monkeypatch.setattr("praetor_agent.backends.resources.limits.__defaults__", (tmp_path,))
    backend.start(replace(COMMAND, resources=ALL))
    seen = backend.observe()["u1"]
    backend.stop("u1", grace_seconds=0, force=True)
    assert (seen.running, set(seen.unlimited)) == (True, {"memory", "cpu", "tasks"})


@pytest.mark.skipif(
    os.geteuid() != 0 or not (ROOT / "pids" / "cgroup.procs").exists(), reason="no pids controller to write to"
)
def test_a_process_runs_in_its_control_groups_and_an_out_of_memory_kill_is_reported(tmp_path: Path) -> None:
    backend = ProcessBackend(tmp_path / "p", "b")
    hungry = "x=a; while :; do x=$x$x$x; done"
    backend.start(replace(COMMAND, argv=("/bin/sh", "-c", hungry), resources=ALL))
    until(lambda: not backend.observe()["u1"].running, "its end")
    seen = backend.observe()["u1"]
    assert (seen.termination_reason, seen.exit_code) == ("OOMKilled", 137)
    backend.start(replace(COMMAND, resources=ALL))
    seen = backend.observe()["u1"]
    groups = dict(line.split(":")[1:] for line in Path(f"/proc/{seen.pid}/cgroup").read_text().splitlines())
    values = {
        name: (Path(f"{ROOT}/{name}{groups[name]}") / file).read_text().strip()
        for name, file in (("memory", "memory.limit_in_bytes"), ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"))
    }
    backend.stop("u1", grace_seconds=0, force=True)
    assert values == {"memory": str(64 * 2**20), "cpu": "50000", "pids": "20"}
    until(lambda: not backend.observe()["u1"].running, "its end")
