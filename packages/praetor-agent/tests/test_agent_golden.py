# SPDX-License-Identifier: Apache-2.0
"""The files on a device keep their names and formats, or an upgrade of the agent would restart processes.

The files in `golden/` were written by 0.1.0.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.core.health import Health
from praetor_agent.core.model import (
    Confirmation,
    Exchange,
    Failure,
    ProcessStage,
    Record,
    Revision,
    Rollback,
    View,
)
from praetor_agent.state import State
from praetor_api.protocol import RollbackReason, read_desired

GOLDEN = Path(__file__).with_name("golden")
SPEC = {
    "confirm": {"mode": "Manual", "timeoutSeconds": 60},
    "execution": {"backend": "process", "command": ["sleep", "1"], "terminationGracePeriodSeconds": 5},
}
ITEM = read_desired(
    {
        "deviceName": "leaf-1",
        "items": [
            {
                "uid": "uid-a",
                "namespace": "default",
                "name": "a",
                "generation": 1,
                "spec": SPEC,
                "specHash": "sha256:9480d9bb7813369895ffff188134eda7d4d05b7e263ae0b706b46630130f8e11",
            }
        ],
    }
).items[0]
RECORD = Record(
    uid="uid-a",
    namespace="default",
    name="a",
    stage=ProcessStage.RUNNING,
    current=Revision(item=ITEM, artifact_path="/x", artifact_digest="sha256:d"),
    last_good=Revision(item=ITEM),
    boot_id="boot-1",
    handle="h",
    started_at=1.5,
    start_time="2026-01-01T00:00:00Z",
    restart_count=2,
    failures=1,
    not_before=3.0,
    exit_code=1,
    termination_reason="Error",
    failure=Failure(reason="StartError", message="m", artifact_downloaded=True, artifact_verified=False),
    healthy_since=2.5,
    rollback=Rollback(spec_hash="sha256:b", reason=RollbackReason.CRASH_LOOP, message="x"),
    confirmation=Confirmation(boot_id="boot-1", seconds=60.0, deadline=99.0),
    drift_count=4,
    output_tail="t",
)
VIEW = View(
    exchange=Exchange(at="2026-01-01T00:00:00Z", answer="acknowledged", acknowledged_at="2026-01-01T00:00:00Z"),
    health={"uid-a": Health(handle="h", next_at=0.0, healthy=True)},
)


def test_the_state_of_0_1_0_is_read(tmp_path: Path) -> None:
    state = State(Path(shutil.copytree(GOLDEN, tmp_path / "state")))
    received = state.load_desired("leaf-1")
    assert received is not None
    assert (state.device(), received.etag) == ("leaf-1", '"e1"')
    assert [wanted.spec.execution.command for wanted in received.desired.items] == [("sleep", "2")]
    assert state.load_memory() == {"uid-a": RECORD}
    assert state.load_view() == VIEW
    assert state.confirmed({"uid-a": RECORD}) == {"uid-a": ITEM.spec_hash}


def test_state_is_written_as_0_1_0_does(tmp_path: Path) -> None:
    golden, state = State(GOLDEN), State(tmp_path)
    received = golden.load_desired("leaf-1")
    assert received is not None
    state.save_desired("leaf-1", received)
    state.save_memory({"uid-a": RECORD})
    state.save_view(VIEW)
    state.confirm("uid-a", ITEM.spec_hash)
    assert contents(tmp_path) == contents(GOLDEN)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_process_that_0_1_0_started_is_adopted(tmp_path: Path) -> None:
    """The directory and the record of the process are as the shim of 0.1.0 writes them."""
    process = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        place = tmp_path / "c1b41cff14418523db5f7fca27e33dbe"
        place.mkdir()
        ticks = procfs.start_ticks(process.pid)
        (place / "run").write_text(f"uid-a\nsha256:x\nboot-1\n{process.pid} {ticks}\n1 0\ncpu\n")
        seen = ProcessBackend(tmp_path, "boot-1").observe()["uid-a"]
        assert (seen.spec_hash, seen.running, seen.pid) == ("sha256:x", True, process.pid)
        assert (seen.handle, seen.unlimited) == (f"boot-1/{process.pid}/{ticks}", ("cpu",))
    finally:
        process.kill()
        process.wait()
    (place / "exit").write_text("code 3")
    seen = ProcessBackend(tmp_path, "boot-1").observe()["uid-a"]
    assert (seen.running, seen.exit_code, seen.termination_reason) == (False, 3, "Error")
