# SPDX-License-Identifier: Apache-2.0
"""The whole agent offered what it must not or cannot have: what runs goes on, the status says why, and it waits."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agent_testing import FakeGateway, http_server, item, process_spec, respond, running_agent
from praetor_agent.backends import procfs


def evil() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("../../../escaped")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


EVIL = evil()


def wanted(url: str, content: bytes) -> dict[str, Any]:
    artifact = {"type": "http", "url": url, "checksumSHA256": hashlib.sha256(content).hexdigest()}
    return process_spec("./app", artifact=artifact)


@pytest.mark.parametrize(
    ("answer", "content", "reason"),
    [
        pytest.param(respond(200, EVIL), EVIL, "UnsafeArchive", id="malicious"),
        pytest.param(respond(200, b"wrong"), EVIL, "DigestMismatch", id="lying"),
        pytest.param(respond(200, EVIL[:900]), EVIL[:900], "UnsafeArchive", id="truncated"),
        pytest.param(respond(200, b"x", {"Content-Length": "99"}), EVIL, "DownloadFailed", id="cut off"),
        pytest.param(respond(503), EVIL, "DownloadFailed", id="down"),
        pytest.param(respond(401), EVIL, "Unauthorized", id="refusing"),
        pytest.param(respond(404), EVIL, "NotFound", id="empty"),
        pytest.param(respond(302, b"", {"Location": "http://169.254.169.254/"}), EVIL, None, id="to metadata"),
    ],
)
def test_what_runs_goes_on_and_the_status_says_why(
    tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None], content: bytes, reason: str | None
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    times: list[float] = []

    def timed(handler: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        answer(handler)

    with (
        FakeGateway(token="t", heartbeat_seconds=1) as gateway,
        http_server(timed) as host,
        running_agent(gateway, tmp_path / "state"),
    ):
        gateway.desire(item("a", process_spec("sleep", "1000")))
        gateway.wait_for(lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "the old process")
        pid = gateway.observations["a"].pid
        assert pid is not None
        ticks = procfs.start_ticks(pid)
        gateway.desire(item("a", wanted(f"http://{host}/app.tar", content), generation=2))
        gateway.wait_for(lambda: bool(gateway.observations["a"].artifact_reason), "a reason")
        seen = gateway.observations["a"]
        reports = len(gateway.reports)
        gateway.wait_for(lambda: len(gateway.reports) >= reports + 3, "heartbeats")
        assert (seen.pid, procfs.start_ticks(pid)) == (pid, ticks)
        assert seen.artifact_reason == reason if reason else seen.artifact_reason in ("NotAllowed", "Unreachable")
        assert (seen.artifact_verified, bool(seen.artifact_attempts)) == (False, True)
        assert all(later - earlier > 0.7 for earlier, later in zip(times, times[1:]))
    assert {path.name for path in tmp_path.iterdir()} == before | {"state"}
    assert not list((tmp_path / "state").rglob("escaped"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("options", ["size=18m", "ro"])
def test_a_store_that_is_full_or_read_only_stops_nothing(tmp_path: Path, options: str) -> None:
    store = tmp_path / "state" / "artifacts"
    store.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount")
    content = os.urandom(4 * 1024**2)
    try:
        with (
            FakeGateway(token="t", heartbeat_seconds=1) as gateway,
            http_server(respond(200, content)) as host,
            running_agent(gateway, tmp_path / "state"),
        ):
            gateway.desire(item("a", process_spec("sleep", "1000")))
            gateway.wait_for(lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "the process")
            pid = gateway.observations["a"].pid
            gateway.desire(item("a", wanted(f"http://{host}/app", content), generation=2))
            gateway.wait_for(lambda: bool(gateway.observations["a"].artifact_reason), "a reason")
            seen = gateway.observations["a"]
            assert (seen.pid, seen.artifact_reason) == (pid, "DiskFull")
            assert [path for path in store.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", str(store)], check=True)
