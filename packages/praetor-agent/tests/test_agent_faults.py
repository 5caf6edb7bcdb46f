# SPDX-License-Identifier: Apache-2.0
"""What the agent does when the device or the way to the gateway fails: the rows of the table in docs/agent.md."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from agent_testing import (
    WITHIN_SECONDS,
    FakeClock,
    FakeGateway,
    Fault,
    item,
    mounted,
    process_spec,
    running_agent,
    until,
)
from praetor_agent.backends import procfs
from praetor_agent.core import report
from praetor_agent.core.model import ObservedDevice, Record
from praetor_agent.core.report import ReportState
from praetor_agent.link.client import Address, GatewayClient
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.service.doctor import checks
from praetor_agent.service.status import status
from praetor_agent.settings import RunSettings
from praetor_api.protocol import Desired, Observation, Report, ReportAck

HOUR = 3600.0


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("sleep", "1000")))
        yield gateway


def started(gateway: FakeGateway, other_than: int | None = None) -> int:
    def pid() -> int | None:
        return gateway.observations["a"].pid if "a" in gateway.observations else None

    gateway.wait_for(lambda: pid() not in (None, other_than), "the process", 40)
    found = pid()
    assert found is not None
    return found


def heartbeats(gateway: FakeGateway) -> None:
    count = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) > count + 1, "heartbeats")


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no room on *disk*."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    try:
        yield
    finally:
        (disk / "filler").unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Do as a kernel does that met an error on *disk*: what is open stays open, nothing more is opened to write."""
    subprocess.run(("mount", "--bind", str(disk), str(disk)), check=True)
    try:
        subprocess.run(("mount", "-o", "remount,ro,bind", str(disk)), check=True)
        yield
    finally:
        subprocess.run(("umount", "-l", str(disk)), check=True)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [pytest.param(full, "No space left", id="full"), pytest.param(read_only, "Read-only file system", id="read-only")],
)
def test_a_changed_spec_waits_for_the_disk_while_the_old_version_runs_on_and_what_is_withdrawn_ends(
    gateway: FakeGateway, tmp_path: Path, fault: Callable[[Path], AbstractContextManager[None]], reason: str
) -> None:
    disk, other = tmp_path / "disk", item("b", process_spec("sleep", "1000"))
    old, new = item("a", process_spec("sleep", "1000")), item("a", process_spec("sleep", "1001"), generation=2)
    gateway.desire(old, other)
    with mounted(disk, "-t", "tmpfs", "-o", "size=512k", "tmpfs"), running_agent(gateway, disk / "state"):
        pid = started(gateway)
        gateway.wait_for(lambda: "b" in gateway.observations and bool(gateway.observations["b"].pid), "the other")
        withdrawn = gateway.observations["b"].pid
        assert withdrawn is not None
        with fault(disk):
            gateway.desire(new)
            gateway.wait_for(lambda: reason in (gateway.observations["a"].error_message or ""), "the reason")
            until(lambda: procfs.start_ticks(withdrawn) is None, "the end of what was withdrawn")
            heartbeats(gateway)
            reported = gateway.observations["a"]
            assert (reported.pid, reported.process_started, reported.observed_spec_hash) == (pid, True, old["specHash"])
            assert procfs.start_ticks(pid) is not None
        started(gateway, other_than=pid)
        reported = gateway.observations["a"]
        assert (reported.observed_spec_hash, reported.error_message) == (new["specHash"], None)
        assert procfs.start_ticks(pid) is None


def test_a_full_disk_stops_nothing_and_what_it_kept_from_starting_starts_when_there_is_space(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=512k", "tmpfs"), running_agent(gateway, disk / "state"):
        first = started(gateway)
        with full(disk):
            heartbeats(gateway)
            assert procfs.start_ticks(first) is not None
            os.kill(first, signal.SIGKILL)
            gateway.wait_for(lambda: gateway.observations["a"].pid != first, "the end is reported")
            heartbeats(gateway)
        second = started(gateway, other_than=first)
        assert procfs.start_ticks(second) is not None


def test_a_read_only_file_system_stops_nothing_and_a_new_agent_takes_over(gateway: FakeGateway, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "tmpfs"), running_agent(gateway, disk / "state") as agent:
        pid = started(gateway)
        with read_only(disk):
            heartbeats(gateway)
            agent.kill()
            agent.wait(WITHIN_SECONDS)
            gateway.observations.clear()
            with running_agent(gateway, disk / "state"):
                assert started(gateway) == pid
                os.kill(pid, signal.SIGKILL)
                gateway.wait_for(lambda: "Read-only" in (gateway.observations["a"].error_message or ""), "the reason")
        with running_agent(gateway, disk / "state"):
            assert started(gateway, other_than=pid)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reporter(gateway: FakeGateway, clock: FakeClock) -> Iterator[Reporter]:
    client = GatewayClient(Address(url=gateway.url, device="leaf-1", token=lambda: "t"))
    yield Reporter(client, Inbox(lambda: None), clock, Report(), lambda: None, dict)
    client.close()


@pytest.mark.parametrize(
    ("jump", "after"),
    [(timedelta(hours=1), "2025-01-31T13:00:00Z"), (timedelta(hours=-1), "2025-01-31T11:00:00Z")],
    ids=["forward", "back"],
)
def test_a_clock_that_jumps_moves_no_report_and_no_order_of_reports(
    gateway: FakeGateway, clock: FakeClock, reporter: Reporter, jump: timedelta, after: str
) -> None:
    reporter.offer(None, {}, ObservedDevice(boot_id="b"), {}, clock.seconds)
    next_at = reporter.step()
    clock.time += jump
    assert reporter.step() == next_at
    assert len(gateway.reports) == 1
    clock.seconds = next_at
    reporter.step()
    first, second = gateway.reports
    assert (first.timestamp, second.timestamp) == ("2025-01-31T12:00:00Z", after)
    assert (second.seq or 0) > (first.seq or 0)


def test_a_rejected_report_is_sent_again_in_full(gateway: FakeGateway, clock: FakeClock, reporter: Reporter) -> None:
    seen = {"uid-a": Record(uid="uid-a", name="a")}
    desired = Desired(device_name="leaf-1")
    gateway.fail(Fault(path="/report", status=200, body=b'{"ack": false, "heartbeatIntervalSeconds": 3600}'))
    reporter.offer(desired, seen, ObservedDevice(boot_id="b"), {}, clock.seconds)
    again_at = reporter.step()
    heard_at = reporter.heard_at
    assert 0 < again_at - clock.seconds <= 1.25
    clock.seconds = again_at
    reporter.step()
    assert (heard_at, reporter.heard_at) == (None, again_at)
    assert gateway.observations.keys() == {"a"}


def test_until_a_report_is_answered_the_desired_state_says_how_often_to_send(
    gateway: FakeGateway, clock: FakeClock, reporter: Reporter
) -> None:
    kept = Desired(device_name="leaf-1", heartbeat_interval_seconds=600)
    gateway.fail(Fault(path="/report", status=500, times=4))
    reporter.offer(kept, {}, ObservedDevice(boot_id="b"), {}, clock.seconds)
    for _ in range(3):
        clock.seconds = reporter.step()
    assert 540 <= reporter.step() - clock.seconds <= 660
    clock.seconds += 660
    assert reporter.step() - clock.seconds <= 1.1  # the answer wins: it is newer
    gateway.fail(Fault(path="/report", status=500, times=4))
    for _ in range(5):
        clock.seconds, before = reporter.step(), clock.seconds
        assert clock.seconds - before <= 1.25


def test_a_gateway_that_is_away_for_an_hour_is_tried_within_each_interval_and_then_gets_everything() -> None:
    reporter = ReportState(base=1, next_at=0.0)
    changed = {"u": Observation(name="a", restart_count=7)}
    now, asked = 0.0, 0
    while now < HOUR:
        reporter = reporter.failed(now, 0.5)
        assert reporter.next_at - now <= reporter.interval * 1.2
        now, asked = reporter.due_at(changed, now), asked + 1
    assert HOUR / 20 < asked < HOUR / 5
    due = reporter.due(changed)
    assert due == tuple(changed.values())
    reporter = reporter.acked(ReportAck(ack=True), changed, due, now, 0.5)
    assert (reporter.lost, reporter.due(changed)) == (0, ())
    assert report.report(Report(), reporter, (), "").seq == asked + 2


IMAGE = {"type": "oci", "url": f"registry.example/app@sha256:{'0' * 64}"}


@pytest.mark.parametrize(
    ("backend", "more", "reason"),
    [
        pytest.param("systemd", {}, "systemd is not the init system here", id="systemd"),
        pytest.param("container", {"artifact": IMAGE}, "none of docker, podman and nerdctl is found", id="container"),
    ],
)
def test_a_device_without_systemd_or_a_container_runtime_says_so_and_runs_the_rest(
    gateway: FakeGateway, tmp_path: Path, backend: str, more: dict[str, object], reason: str
) -> None:
    if backend == "systemd" and os.path.isdir("/run/systemd/system"):
        pytest.skip("this machine has systemd")
    gateway.desire(
        item("a", process_spec("sleep", "1000")),
        item("other", process_spec("sleep", "1", execution={"backend": backend}, **more)),
    )
    with running_agent(gateway, tmp_path / "state", PATH=str(tmp_path)):
        pid = started(gateway)
        gateway.wait_for(lambda: "other" in gateway.observations, "what is reported of the other")
        reported = gateway.observations["other"]
        assert reported.process_started is False
        assert reason in (reported.error_message or "")
        gateway.desire(
            item("a", process_spec("sleep", "1000")),
            item("other", process_spec("sleep", "1000"), generation=2),
        )
        gateway.wait_for(lambda: bool(gateway.observations["other"].pid), "another backend, which is here")
        assert procfs.start_ticks(pid) is not None


def test_a_process_is_not_stopped_for_a_backend_that_is_not_available(gateway: FakeGateway, tmp_path: Path) -> None:
    with running_agent(gateway, tmp_path / "state", PATH=str(tmp_path)):
        pid = started(gateway)
        into_a_container = process_spec("sleep", "1", execution={"backend": "container"}, artifact=IMAGE)
        gateway.desire(item("a", into_a_container, generation=2))
        gateway.wait_for(lambda: "nerdctl" in (gateway.observations["a"].error_message or ""), "the reason")
        assert gateway.observations["a"].pid == pid
        assert procfs.start_ticks(pid) is not None


def test_a_report_is_about_the_latest_pass_however_many_there_were_while_another_was_on_its_way(
    gateway: FakeGateway, clock: FakeClock, reporter: Reporter
) -> None:
    desired, device = Desired(device_name="leaf-1"), ObservedDevice(boot_id="b")
    for count in range(3):
        reporter.offer(
            desired, {"uid-a": Record(uid="uid-a", name="a", restart_count=count)}, device, {}, clock.seconds
        )
    reporter.step()
    assert [seen.restart_count for seen in gateway.history] == [2]


def test_what_a_device_cannot_run_is_named_with_its_remedy(gateway: FakeGateway, tmp_path: Path) -> None:
    script, app = tmp_path / "crlf", tmp_path / "app"
    script.write_bytes(b"#!/bin/sh\r\nexec sleep 1000\r\n")
    app.write_bytes(b"#!/bin/sh\nexec sleep 1000\n")
    for file in (script, app):
        file.chmod(0o755)
    artifact = {"type": "file", "url": str(app), "checksumSHA256": hashlib.sha256(app.read_bytes()).hexdigest()}
    down = ["sh", "-c", "date +%N; echo eth0 is down >&2; exit 3"]
    check = {"exec": {"command": down}, "periodSeconds": 1, "timeoutSeconds": 60}
    gateway.desire(
        item("crlf", process_spec(str(script))),
        item("noexec", process_spec("./app", artifact=artifact)),
        item("unhealthy", process_spec("sleep", "1000", healthCheck=check)),
        item("background", process_spec("sh", "-c", "setsid sleep 1000 &")),
    )
    expected = {
        "crlf": "has Windows line ends (CRLF), so that its interpreter is not found; convert it, as with dos2unix",
        "noexec": "is on a file system that is mounted noexec; mount it with exec, or keep the agent's state elsewhere",
        "unhealthy": "health check failed: exit status 3: eth0 is down",
        "background": "if it goes to the background, tell it to stay in the foreground",
    }

    def named(name: str, words: str) -> bool:
        seen = gateway.observations.get(name)
        return seen is not None and words in f"{seen.error_message} {seen.warning_message}"

    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=64m,noexec", "tmpfs"), running_agent(gateway, disk / "state"):
        for name, words in expected.items():
            gateway.wait_for(partial(named, name, words), words)

        def listed() -> str:
            with redirect_stdout(io.StringIO()) as shown:
                status(disk / "state", tmp_path / "hold", "json")
            return shown.getvalue()

        # the state is written beside the report
        until(lambda: all(words in listed() for words in expected.values()), "all of them in the status")
        settings = RunSettings(gateway=gateway.url, device="leaf-1", state_dir=disk / "state", token="t")
        found = [(check.name, f"{check.message}; {check.remedy}") for check in checks(settings)]
        for name, words in expected.items():
            assert any(what == "processes" and f"default/{name}: " in said and words in said for what, said in found)
        assert any(
            what == "state" and "mounted noexec" in said and "mount it with exec" in said for what, said in found
        )
