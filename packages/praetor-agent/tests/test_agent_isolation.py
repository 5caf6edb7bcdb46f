# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with one process is said of that one, and the others are supervised all the same."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent_testing import FakeClock, item, process_spec, until
from praetor_agent.artifacts.fetcher import Fetcher
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends.command import Command, Probe
from praetor_agent.backends.probes import Prober, Probes
from praetor_agent.backends.process import ProcessBackend, Run
from praetor_agent.backends.protocol import Backend
from praetor_agent.clock import Waker
from praetor_agent.core.health import Health
from praetor_agent.core.model import Memory, Observed, ObservedDevice, Revision
from praetor_agent.core.report import observations
from praetor_agent.errors import unforeseen
from praetor_agent.files.store import FileStore
from praetor_agent.host import Host
from praetor_agent.link.client import Address, GatewayClient
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.loop import RETRY_SECONDS, Dependencies, Loop
from praetor_agent.state import Received, State
from praetor_api.protocol import Desired, Observation, PendingReason, Report, read_desired
from praetor_api.spec import Backend as BackendName
from praetor_api.spec import HealthCheck

SECRET = "hunter2-5up3rs3cr3t"
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO), "/some/place")


class Troubled(ProcessBackend):
    """The real backend, but what *trouble* names by method and uid fails."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "boot-1")
        self.trouble: dict[tuple[str, str], Exception] = {}
        self.started: list[str] = []

    def observe(self) -> Mapping[str, Observed]:
        self._fail("observe", "")
        return super().observe()

    def _seen(self, place: Path, run: Run) -> Observed:
        self._fail("see", run.uid)
        return super()._seen(place, run)

    def start(self, command: Command) -> None:
        self._fail("start", command.uid)
        self.started.append(command.uid)
        super().start(command)

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        self._fail("stop", uid)
        super().stop(uid, grace_seconds=grace_seconds, force=force)

    def remove(self, uid: str) -> None:
        self._fail("remove", uid)
        super().remove(uid)

    def tail(self, uid: str, limit: int) -> str:
        self._fail("tail", uid)
        return super().tail(uid, limit)

    def _fail(self, what: str, uid: str) -> None:
        if (what, uid) in self.trouble:
            raise self.trouble[what, uid].with_traceback(None)


class TroubledFiles(FileStore):
    """The real files, but those of a process fail."""

    def __init__(self, directory: Path, uid: str) -> None:
        super().__init__(directory / "files", directory / "files.json")
        self._uid: str | None = uid

    def edited(self, uid: str) -> bool:
        if uid == self._uid:
            raise ValueError(SECRET)
        return super().edited(uid)

    def write(self, item: Any, *, running: bool = False) -> tuple[str, ...]:
        if item.uid == self._uid and running:
            raise ValueError(SECRET)
        return super().write(item, running=running)

    def problem(self, item: Any) -> Any:
        if item.uid == self._uid and item.spec_hash == "unwritable":
            raise ValueError(SECRET)
        return super().problem(item)


class RecordingReporter(Reporter):
    """Keeps the latest observations by name instead of sending them."""

    def __init__(self, inbox: Inbox, clock: FakeClock) -> None:
        client = GatewayClient(Address(url="http://127.0.0.1:9", device="leaf-1", token=lambda: "t"))
        super().__init__(client, inbox, clock, Report(), lambda: None, dict)
        self.seen: dict[str, Observation] = {}

    def offer(
        self,
        desired: Desired | None,
        memory: Memory,
        device: ObservedDevice,
        health: Mapping[str, Health],
        now: float,
        ask_at: float | None = None,
    ) -> None:
        self.seen = {one.name: one for one in observations(desired, memory, device, health, 0.0).values()}


class Device:
    """An agent's loop, pass by pass, with real processes: `good`, which must not notice, and `bad`."""

    def __init__(self, place: Path, waker: Waker) -> None:
        self.place, self._waker = place, waker
        self.clock = FakeClock()
        self.backend = Troubled(place / "processes")
        self.probe: Callable[..., Probe] | None = None
        self.files: FileStore | None = None
        self.crashes = 0

    def boot(self) -> None:
        self.inbox = Inbox(lambda: None)
        self.reporter = RecordingReporter(self.inbox, self.clock)
        store = ArtifactStore(self.place / "artifacts")
        backends: dict[BackendName, Backend] = {BackendName.PROCESS: self.backend}
        fetcher = Fetcher(store, {}, self.clock, self._waker.wake)
        self.loop = Loop(
            "leaf-1",
            Dependencies(
                state=State(self.place),
                inbox=self.inbox,
                host=Host(backends, {}, fetcher, "boot-1", files=self.files),
                probes=Probes(self.clock, self.probe),
                reporter=self.reporter,
                waker=self._waker,
                clock=self.clock,
                freeze_file=self.place / "hold",
            ),
        )

    def desire(self, bad: Mapping[str, Any] | None, **more: Any) -> None:
        items = [item("good", process_spec("sleep", "1000"))]
        if bad is not None:
            items.append(item("bad", bad) | more)
        body = {"deviceName": "leaf-1", "heartbeatIntervalSeconds": 15, "items": items}
        self.inbox.put(Received(etag=str(body), body=body, desired=read_desired(body)))

    def step(self) -> None:
        """Make a pass; the test fails where it ends with an error, which would stop the supervision of all."""
        self.loop.step()
        self.clock.seconds += RETRY_SECONDS

    def step_until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            self.step()
            return condition()

        until(holds, what)

    def seen(self, name: str) -> Observation:
        return self.reporter.seen.get(name) or Observation(name=name)

    def pid(self, name: str) -> int:
        self.step_until(lambda: self.seen(name).pid is not None, f"{name} runs")
        pid = self.seen(name).pid
        assert pid is not None
        return pid

    def good_is_supervised(self) -> None:
        """Kill the process `good`, and wait until it is back."""
        before = self.pid("good")
        os.kill(before, signal.SIGKILL)
        self.step_until(lambda: self.seen("good").pid not in (None, before), "good runs again")


SLEEP = process_spec("sleep", "1000")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    waker = Waker()
    device = Device(tmp_path, waker)
    yield device
    device.backend.trouble.clear()
    for uid in device.backend.observe():
        device.backend.stop(uid, grace_seconds=0, force=True)
    waker.close()


def test_a_process_that_cannot_be_observed_is_left_alone_and_says_so(device: Device) -> None:
    device.boot()
    device.desire(SLEEP)
    pid = device.pid("bad")
    device.backend.trouble["see", "uid-bad"] = BROKEN
    device.step()
    said = device.seen("bad").warning_message or ""
    assert "not known whether it runs: the agent cannot handle it: OSError: Input/output error" in said
    assert device.seen("bad").error_message is None
    device.good_is_supervised()
    device.desire(process_spec("sleep", "1001"))
    device.step()
    assert device.seen("bad").pending_reason == PendingReason.BACKEND_UNAVAILABLE
    device.desire(None)
    device.step()
    device.backend.trouble.clear()
    device.desire(SLEEP)
    device.step_until(lambda: device.seen("bad").pid == pid, "it is seen again")
    assert device.backend.started.count("uid-bad") == 1


def test_without_memory_of_it_a_process_that_cannot_be_observed_is_not_started_beside_itself(device: Device) -> None:
    device.boot()
    device.desire(SLEEP)
    device.pid("bad")
    for name in ("memory.json", "memory.json.previous"):
        (device.place / name).unlink(missing_ok=True)
    device.backend.trouble["see", "uid-bad"] = BROKEN
    device.boot()
    device.desire(SLEEP)
    device.good_is_supervised()
    assert "not known whether it runs" in (device.seen("bad").error_message or "")
    assert device.backend.started.count("uid-bad") == 1


@pytest.mark.parametrize("trouble", [BROKEN, ValueError(SECRET), RuntimeError(SECRET)], ids=repr)
def test_a_process_that_cannot_be_started_says_so_and_is_tried_again(device: Device, trouble: Exception) -> None:
    device.backend.trouble["start", "uid-bad"] = trouble
    device.boot()
    device.desire(SLEEP)
    device.good_is_supervised()
    said = device.seen("bad").error_message or ""
    assert f"the agent cannot handle it: {type(trouble).__name__}" in said
    assert "test_agent_isolation.py:" in said
    assert SECRET not in said
    device.backend.trouble.clear()
    device.pid("bad")


@pytest.mark.parametrize("what", ["stop", "remove"])
def test_a_process_that_cannot_be_ended_holds_up_no_other(device: Device, what: str) -> None:
    device.boot()
    device.desire(SLEEP)
    device.pid("bad")
    device.backend.trouble[what, "uid-bad"] = ValueError(SECRET)
    if what == "stop":
        device.desire(process_spec("sleep", "1001"))
        device.step_until(lambda: "ValueError" in (device.seen("bad").error_message or ""), "it is said")
    device.desire(None)
    device.good_is_supervised()
    device.backend.trouble.clear()
    device.step_until(lambda: "uid-bad" not in device.backend.observe(), "it is gone")


def test_output_that_cannot_be_read_is_left_out(device: Device) -> None:
    device.boot()
    device.backend.trouble["tail", "uid-bad"] = ValueError(SECRET)
    device.desire(process_spec("/bin/sh", execution={"args": ["-c", "exit 3"]}))
    device.step_until(lambda: device.seen("bad").exit_code == 3, "its end")
    assert device.seen("bad").output_tail is None
    device.good_is_supervised()


def test_a_backend_that_fails_in_an_unknown_way_does_not_answer(device: Device) -> None:
    device.boot()
    device.desire(SLEEP)
    device.pid("bad")
    device.backend.trouble["observe", ""] = ValueError(SECRET)
    device.step()
    assert "does not answer: the agent cannot handle it: ValueError" in (device.seen("bad").warning_message or "")
    device.backend.trouble.clear()
    device.good_is_supervised()


def test_files_that_fail_in_an_unknown_way_are_their_own_processs_trouble(device: Device) -> None:
    device.files = TroubledFiles(device.place, "uid-bad")
    device.boot()
    wanted = process_spec("sleep", "1000", execution={"files": [{"path": "a", "content": "one"}]})
    device.desire(wanted)
    pid = device.pid("bad")
    device.good_is_supervised()
    assert "the agent cannot handle it: ValueError" in (device.seen("bad").error_message or "")
    assert SECRET not in (device.seen("bad").error_message or "")
    assert device.seen("bad").pid == pid
    device.desire(wanted, specHash="unwritable")
    device.step()
    assert device.seen("bad").pending_reason == PendingReason.FILES_NOT_WRITTEN
    device.good_is_supervised()


def test_an_artifact_whose_url_makes_no_sense_is_its_own_processs_trouble(device: Device) -> None:
    device.boot()
    artifact = {"type": "http", "url": "http://[", "checksumSHA256": "a" * 64}
    device.desire(process_spec("./a", artifact=artifact))
    device.step_until(lambda: "artifact: " in (device.seen("bad").error_message or ""), "the reason")
    device.good_is_supervised()


def test_a_probe_that_cannot_be_made_is_a_failed_one(device: Device) -> None:
    def probe(revision: Revision, check: HealthCheck, files: str) -> Probe:
        raise KeyError(SECRET)

    device.probe = probe
    device.boot()
    device.desire(process_spec("sleep", "1000", healthCheck={"exec": {"command": ["true"]}, "failureThreshold": 1}))
    device.step_until(lambda: "cannot handle it: KeyError" in (device.seen("bad").error_message or ""), "the reason")
    device.good_is_supervised()


def test_a_probe_is_a_failed_one_where_no_thread_can_be_started() -> None:
    prober = Prober()
    probe = Probe(argv=("/bin/sleep", "1000"), env={}, working_dir="/", user=None, timeout_seconds=60)
    before = threading.stack_size(1 << 47)  # no address space has room for it
    try:
        assert "can't start new thread" in (prober.start("u1", "h1", probe, 0.0) or "")
    finally:
        threading.stack_size(before)
    assert prober.pids() == ()


@pytest.mark.parametrize("said", ["code", "signal", "code x", "signal ", "code " + "9" * 5000, "oom -1"])
def test_an_end_that_was_written_by_halves_is_a_lost_one(tmp_path: Path, said: str) -> None:
    backend = ProcessBackend(tmp_path, "boot-1")
    place = backend.place("u1")
    place.mkdir()
    (place / "run").write_text("u1\nv1\nboot-0\n1 1\n1 1\n")
    (place / "exit").write_text(said)
    seen = backend.observe()["u1"]
    assert (seen.running, seen.exit_code, seen.termination_reason, seen.unseen) == (False, None, "Lost", "")


def test_what_is_said_of_an_error_names_its_place_and_not_its_text() -> None:
    assert unforeseen(ValueError(SECRET)) == "the agent cannot handle it: ValueError"
    with pytest.raises(ValueError, match=SECRET) as raised:
        int(SECRET)
    assert unforeseen(raised.value).startswith("the agent cannot handle it: ValueError (test_agent_isolation.py:")
    assert (
        unforeseen(OSError(errno.EIO, os.strerror(errno.EIO), SECRET))
        == "the agent cannot handle it: OSError: Input/output error"
    )
