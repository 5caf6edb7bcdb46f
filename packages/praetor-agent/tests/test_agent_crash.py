# SPDX-License-Identifier: Apache-2.0
"""A kill of the agent, or a power cut, at every single step, and what the next agent does then.

The loop, its state and the code that writes files are real. The disk keeps real files and models which of them survive
a power cut; processes are in memory, and their traces are safe before they run, as those of real backends are.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agent_testing import FakeClock, item, process_spec, until
from praetor_agent.artifacts.fetcher import Fetcher, Sources, device_sources
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends.command import Command
from praetor_agent.backends.probes import Probes
from praetor_agent.clock import Waker
from praetor_agent.core.health import Health
from praetor_agent.core.model import Memory, Observed, ObservedDevice, ProcessStage, Record, Revision, TerminationReason
from praetor_agent.core.report import observations
from praetor_agent.errors import StartError
from praetor_agent.host import Host
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.loop import Dependencies, Loop
from praetor_agent.state import JsonFile, Received, State
from praetor_api.protocol import Desired, Observation, RollbackReason, read_desired
from praetor_api.spec import Backend

Item = dict[str, Any]
STORE_BYTES = 40_000


class Killed(BaseException):
    """Ends the agent; nothing catches it."""


class Violation(BaseException):
    """Ends the test: what an agent may never do."""


class Steps:
    """Counts what the agent does to the device, and kills it at the step *at*."""

    def __init__(self) -> None:
        self.at: int | None = None

    def __call__(self, what: str) -> None:
        if self.at is not None:
            self.at -= 1
            if self.at == 0:
                self.at = None
                raise Killed(what)


class Disk:
    """Replaces `os` in `praetor_agent.state`: real files, and a model of what a power cut leaves of them.

    Files named in *full* cannot be written.

    The bytes of a file are safe when it was flushed; its name is when its directory was. Names that were not are
    lost from the last one on, for a file system writes them in their order.
    """

    def __init__(self, step: Callable[[str], None]) -> None:
        self.full: tuple[str, ...] = ()
        self.flushes = 0
        self._step = step
        self._ids = count()
        self._open: dict[int, int] = {}
        self._bytes: dict[int, bytes] = {}
        self._now: dict[Path, int] = {}
        self._safe: dict[Path, int] = {}
        self._unsafe: list[dict[Path, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @property
    def unsafe(self) -> int:
        """How many changes of names are not on disk yet."""
        return len(self._unsafe)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self._step(f"before open {path.name}")
        if flags & os.O_CREAT and path.name.removesuffix(".new") in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        descriptor = os.open(path, flags, mode)
        self._open.pop(descriptor, None)
        if flags & os.O_CREAT:
            known = path in self._now
            identity = self._open[descriptor] = self._now[path] if known else next(self._ids)
            self._bytes.pop(identity, None)
            self._now[path] = identity
            if not known:
                self._unsafe.append(dict(self._now))
        elif path in self._now:
            self._open[descriptor] = self._now[path]
        return descriptor

    def fsync(self, descriptor: int) -> None:
        self._step("before fsync")
        self.flushes += 1
        if descriptor in self._open:
            self._bytes[self._open[descriptor]] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        else:
            self._safe, self._unsafe = dict(self._now), []
        self._step("after fsync")

    def replace(self, source: Path, target: Path) -> None:
        self._step(f"before replace {target.name}")
        os.replace(source, target)
        self._now[target] = self._now.pop(source)
        self._unsafe.append(dict(self._now))
        self._step(f"after replace {target.name}")

    def lose_power(self, kept: int) -> None:
        """Leave what is safe, and the first *kept* changes of names that are not."""
        names = self._unsafe[kept - 1] if kept else self._safe
        for path in {*self._now, *self._safe}:
            path.unlink(missing_ok=True)
        for path, identity in names.items():
            path.write_bytes(self._bytes.get(identity, b"never flushed"))
        self._now, self._safe, self._unsafe = dict(names), dict(names), []


@dataclass
class Processes:
    """A backend whose processes and their traces outlive the agent; *ran* is all that was ever executed.

    Jobs end at once with *code*, or run on if that is None. A backend that *remembers* reports the end of the previous
    run while the next is being started, as systemd does.
    """

    step: Steps
    boot_id: str = "boot-1"
    traces: dict[str, Observed] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)
    code: int | None = 0
    remembers: bool = False

    def observe(self) -> Mapping[str, Observed]:
        self.step("before observe")
        return dict(self.traces)

    def start(self, launch: Command) -> None:
        self.step("before start")
        if self.running(launch.uid):
            raise Violation(f"a second instance of {launch.uid}")
        before = self.traces.pop(launch.uid, None)
        if before is not None and self.remembers:
            self.traces[launch.uid] = replace(before, spec_hash=launch.spec_hash)
        self.step("before the trace of the start")
        if launch.argv[0] == "/no/such":
            raise StartError("No such file or directory")
        self.ran.append((launch.uid, launch.spec_hash))
        handle = f"{self.boot_id}/{len(self.ran)}"
        seen = Observed(
            uid=launch.uid, backend=Backend.PROCESS, spec_hash=launch.spec_hash, running=True, handle=handle
        )
        self.traces[launch.uid] = seen
        if launch.name == "job":
            self.jobs.add(launch.uid)
        self.step("after start")

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        self.step("before stop")
        self._end(uid, 143)
        self.step("after stop")

    def signal(self, uid: str, number: Signals) -> None:
        raise NotImplementedError

    def remove(self, uid: str) -> None:
        self.step("before remove")
        if self.running(uid):
            raise Violation(f"{uid} runs and is removed")
        self.traces.pop(uid, None)
        self.step("after remove")

    def running(self, uid: str) -> bool:
        return uid in self.traces and self.traces[uid].running

    def end_jobs(self) -> None:
        if self.code is not None:
            for uid in self.jobs:
                self._end(uid, self.code)
            self.jobs.clear()

    def crash(self, uid: str) -> None:
        self._end(uid, 1)

    def lose_power(self) -> None:
        self.boot_id = f"boot-{int(self.boot_id.removeprefix('boot-')) + 1}"
        self.jobs.clear()
        for uid in self.traces:
            self._end(uid, None)

    def _end(self, uid: str, code: int | None) -> None:
        if self.running(uid):
            reason = TerminationReason.LOST if code is None else "Completed" if code == 0 else "Error"
            self.traces[uid] = replace(self.traces[uid], running=False, exit_code=code, termination_reason=reason)


class RecordingReporter(Reporter):
    """Keeps the observations that would be reported."""

    def __init__(self) -> None:
        self.heard_at = self.exchange = None
        self.reported: dict[str, Observation] = {}

    def offer(
        self,
        desired: Desired | None,
        memory: Memory,
        device: ObservedDevice,
        health: Mapping[str, Health],
        now: float,
        ask_at: float | None = None,
    ) -> None:
        self.reported = observations(desired, memory, device, health, 0.0)


class CrashingDevice:
    """A device whose disk, processes and clock outlive its agents."""

    def __init__(
        self, directory: Path, waker: Waker, patch: pytest.MonkeyPatch, sources: Sources, remembers: bool
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self.steps = Steps()
        self.disk = Disk(self.steps)
        self.processes = Processes(self.steps, remembers=remembers)
        self.reporter = RecordingReporter()
        self.clock = FakeClock()
        self._waker = waker
        self._sources = sources
        patch.setattr("praetor_agent.state.os", self.disk)
        self.boot()

    def boot(self) -> None:
        """Let an agent begin with what there is."""
        state = State(self.directory)
        self._inbox = Inbox(lambda: None, state.load_desired("leaf-1"))
        store = ArtifactStore(self.directory / "artifacts", max_bytes=STORE_BYTES)
        fetcher = Fetcher(store, self._sources, self.clock, lambda: None)
        dependencies = Dependencies(
            state=state,
            inbox=self._inbox,
            host=Host({Backend.PROCESS: self.processes}, {}, fetcher, self.processes.boot_id),
            probes=Probes(self.clock),
            reporter=self.reporter,
            waker=self._waker,
            clock=self.clock,
            freeze_file=self.directory / "hold",
        )
        self._loop = Loop("leaf-1", dependencies)

    def desire(self, items: tuple[Item, ...]) -> None:
        body = {"deviceName": "leaf-1", "heartbeatIntervalSeconds": 15, "items": list(items)}
        etag = " ".join(str(item["specHash"]) for item in items)
        self._inbox.put(Received(etag=etag, body=body, desired=read_desired(body)))

    def settle(self, seconds: float) -> None:
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            wake_at, _ = self._loop.step()
            self.processes.end_jobs()
            self.clock.seconds = min(max(wake_at, self.clock.seconds + 0.5), self.clock.seconds + 5)

    def settle_until(self, condition: Callable[[], bool]) -> None:
        """Go on until *condition* holds, for artifacts are fetched beside the loop."""

        def settled() -> bool:
            self.settle(0.5)
            return condition()

        until(settled, "the condition")

    def lose_power(self, kept: int) -> None:
        self.disk.lose_power(kept)
        self.processes.lose_power()

    def memory(self) -> Memory:
        return State(self.directory).load_memory()

    def times(self, wanted: Item) -> int:
        return self.processes.ran.count((wanted["uid"], wanted["specHash"]))


SIDE = item("side", process_spec("/bin/sleep", "1"))
OLD, NEW = (item("service", process_spec("/bin/sleep", str(seconds))) for seconds in (2, 3))
BAD = item("service", process_spec("/no/such"))
JOB, NEXT = (item("job", process_spec("/bin/true", word, restartPolicy="Never")) for word in ("1", "2"))

ALL = ("desired.json", "memory.json")

Change = tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]
CHANGES: dict[str, Change] = {
    "first install": ((SIDE,), (SIDE, OLD, JOB), (SIDE, OLD)),
    "changed specs": ((SIDE, OLD, JOB), (SIDE, NEW, NEXT), (SIDE, NEW)),
    "removal": ((SIDE, OLD, JOB), (SIDE,), (SIDE,)),
    "restore": ((SIDE, OLD, JOB), (SIDE, BAD, JOB), (SIDE, OLD)),
}
"""What is desired before, then, and what runs in the end."""


@pytest.fixture
def new_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    waker, number = Waker(), count()

    def new(sources: Sources | None = None, *, remembers: bool = False) -> CrashingDevice:
        return CrashingDevice(tmp_path / str(next(number)), waker, monkeypatch, sources or {}, remembers)

    yield new
    waker.close()


def test_a_record_that_could_not_be_flushed_is_not_found_once_the_one_before_is_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory_fails = False

    def step(what: str) -> None:
        if directory_fails and what == "before fsync" and disk.flushes == 3:  # of the content, then of the name
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = Disk(step)
    monkeypatch.setattr("praetor_agent.state.os", disk)
    job = read_desired({"deviceName": "leaf-1", "items": [JOB]}).items[0]
    before = Record(uid=job.uid)
    starting = Record(uid=job.uid, stage=ProcessStage.STARTING, current=Revision(item=job), boot_id="boot-1")
    state = State(tmp_path)
    state.save_memory({job.uid: before})
    directory_fails = True
    with pytest.raises(OSError, match="Input/output error"):
        state.save_memory({job.uid: starting})
    directory_fails = False
    state.save_memory({job.uid: before})
    disk.lose_power(disk.unsafe)
    assert State(tmp_path).load_memory() == {job.uid: before}


def killed_at(device: CrashingDevice, change: Change, point: int) -> str | None:
    """Make *change*, with the agent killed at step *point*; return which step that was, None when there are fewer."""
    before, after, _ = change
    device.desire(before)
    device.settle(90)
    device.steps.at = point
    try:
        device.desire(after)
        device.settle(40)
    except Killed as e:
        return str(e)
    device.steps.at = None
    return None


def recover(device: CrashingDevice, change: Change) -> None:
    """Let a new agent begin without network, and then learn what is desired; check what comes of it."""
    for name in ("desired.json", "memory.json"):
        assert JsonFile(device.directory / name).load() is not None, f"{name} cannot be read"
    device.boot()
    device.settle(20)
    _, after, running = change
    device.desire(after)
    device.settle(60)
    runs = {(seen.uid, seen.spec_hash) for seen in device.processes.traces.values() if seen.running}
    assert runs == {(wanted["uid"], wanted["specHash"]) for wanted in running}
    wanted = {str(wanted["uid"]) for wanted in after}
    assert set(device.memory()) == wanted
    assert set(device.processes.traces) <= wanted, "what was removed left something"
    if BAD in after:
        given_up = device.memory()[BAD["uid"]].rollback
        assert given_up is not None
        assert given_up.spec_hash == BAD["specHash"]


@pytest.mark.parametrize(
    ("change", "remembers"),
    [*((change, False) for change in CHANGES.values()), (CHANGES["changed specs"], True)],
    ids=[*CHANGES, "changed specs, remembered"],
)
def test_after_a_kill_at_any_step_the_next_agent_completes_the_change(
    new_device: Any, change: Change, remembers: bool
) -> None:
    before, after, _ = change
    for point in count(1):
        device = new_device(remembers=remembers)
        step = killed_at(device, change, point)
        if step is None:
            break
        side = device.processes.traces[SIDE["uid"]]
        recover(device, change)
        where = f"killed at step {point}, {step}"
        assert device.processes.traces[SIDE["uid"]] == side, where
        for once in {job["specHash"]: job for job in (JOB, NEXT) if job in (*before, *after)}.values():
            assert device.times(once) == 1, where
        assert device.times(NEW) == (NEW in after), where
        assert device.times(OLD) == 1 + (BAD in after), where
    assert point > 20, "so few steps cannot be all"


def test_a_secret_of_a_deleted_process_is_gone_after_a_kill_at_any_step(new_device: Any) -> None:
    source = {"secretKeyRef": {"name": "login", "key": "password"}}
    execution = {"env": [{"name": "PASSWORD", "valueFrom": source}]}
    given = {"values": {"PASSWORD": "hunter2-5up3r"}, "valuesHash": "hmac-sha256:1"}
    secretive = item("secretive", process_spec("/bin/sleep", "4", execution=execution)) | given
    change = (SIDE, secretive), (SIDE,), (SIDE,)
    for point in count(1):
        device = new_device()
        step = killed_at(device, change, point)
        if step is None:
            break
        recover(device, change)
        left = [file.name for file in device.directory.iterdir() if file.is_file() and b"5up3r" in file.read_bytes()]
        assert left == [], f"killed at step {point}, {step}"
    assert point > 20, "so few steps cannot be all"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_power_cut_at_any_step_the_next_agent_completes_the_change(new_device: Any, change: Change) -> None:
    """For every step, all that the disk may hold then: of the names that were not flushed none, some or all."""
    before, after, _ = change
    unknown = 0
    for point in count(1):
        step, kept, unsafe = None, 0, 0
        while kept <= unsafe:
            device = new_device()
            step = killed_at(device, change, point)
            if step is None:
                break
            unsafe = device.disk.unsafe
            device.lose_power(kept)
            begun = {record.spec_hash for record in device.memory().values() if record.stage is ProcessStage.STARTING}
            recover(device, change)
            where = f"power lost at step {point}, {step}, with {kept} of {unsafe}"
            assert device.times(SIDE) == 2, where
            for once in {job["specHash"]: job for job in (JOB, NEXT) if job in (*before, *after)}.values():
                reported = device.memory()[once["uid"]].termination_reason if once in after else None
                lost = device.times(once) == 0 and reported == TerminationReason.LOST and once["specHash"] in begun
                unknown += lost
                assert lost or device.times(once) == 1, where
            kept += 1
        if step is None:
            break
    assert point > 20, "so few steps cannot be all"
    starts_a_job = any(job in after and job not in before for job in (JOB, NEXT))
    assert bool(unknown) == starts_a_job, "no power cut hit the moment when the result is unknown"


def test_a_change_of_version_flushes_the_disk_four_times(new_device: Any) -> None:
    """Twice each, for a file and its name: the desired state, and the record of the start; later, that it is proven."""
    device = new_device()
    device.desire((SIDE, OLD))
    device.settle(90)
    device.disk.flushes = 0
    device.desire((SIDE, NEW))
    device.settle(5)
    assert device.processes.traces[NEW["uid"]].spec_hash == NEW["specHash"]
    assert device.disk.flushes == 4
    device.settle(25)
    assert device.disk.flushes == 6


def test_a_power_cut_soon_after_a_start_loses_neither_the_start_nor_the_last_good_version(
    new_device: Any,
) -> None:
    kept, unsafe = 0, 0
    while kept <= unsafe:
        device = new_device()
        device.desire((SIDE, OLD))
        device.settle(90)
        device.desire((SIDE, NEW))
        device.settle(1)
        unsafe = device.disk.unsafe
        assert unsafe, "that the process runs is stored without a flush"
        device.lose_power(kept)
        record = device.memory()[NEW["uid"]]
        assert record.spec_hash == NEW["specHash"]
        assert record.last_good.item.spec_hash == OLD["specHash"]
        kept += 1


def test_an_agent_that_was_restarted_makes_no_room_at_the_cost_of_what_runs(new_device: Any, tmp_path: Path) -> None:
    versions = []
    for number in range(3):
        content = b"%d" % number * (STORE_BYTES // 4)
        (tmp_path / f"v{number}").write_bytes(content)
        pinned = {"type": "file", "url": f"{tmp_path}/v{number}", "checksumSHA256": hashlib.sha256(content).hexdigest()}
        versions.append(pinned)
    device = new_device(device_sources())
    side, old, new = (
        item(name, process_spec("/bin/sleep", "1", artifact=artifact))
        for name, artifact in zip(("side", "main", "main"), versions)
    )
    for wanted in ((side,), (side, old)):
        device.desire(wanted)
        device.settle_until(lambda wanted=wanted: device.times(wanted[-1]) == 1)
    device.boot()
    device.desire((side, new))
    device.settle_until(lambda: device.times(new) == 1)
    kept = [record.current.artifact_path for record in device.memory().values() if record.current is not None]
    assert len(kept) == 2
    assert all(Path(path).exists() for path in kept)
    assert (device.times(side), device.times(old)) == (1, 1)


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_no_job_is_started_while_its_start_cannot_be_stored(new_device: Any, policy: str) -> None:
    device = new_device()
    job = item("job", process_spec("/bin/true", restartPolicy=policy))
    device.disk.full = ALL
    device.desire((OLD, job))
    device.settle(30)
    assert (device.times(OLD), device.times(job)) == (1, 0)
    reported = device.reporter.reported[job["uid"]]
    assert (reported.process_started, reported.exit_code, reported.healthy) == (False, None, None)
    assert (reported.error_message or "").endswith("the state directory cannot be written: No space left on device")
    device.disk.full = ()
    device.settle(30)
    assert (device.times(OLD), device.times(job)) == (1, 1)
    reported = device.reporter.reported[job["uid"]]
    assert (reported.process_started, reported.exit_code, reported.error_message) == (True, 0, None)
    device.boot()
    device.settle(30)
    assert (device.times(OLD), device.times(job)) == (1, 1)


def test_a_job_that_failed_waits_for_the_disk_before_it_runs_again(new_device: Any) -> None:
    device = new_device()
    job = item("job", process_spec("/bin/true", restartPolicy="OnFailure"))
    device.processes.code = 3
    device.desire((job,))
    device.settle(0.5)
    device.disk.full = ALL
    device.settle(30)
    assert device.times(job) == 1
    reported = device.reporter.reported[job["uid"]]
    assert (reported.exit_code, reported.restart_count) == (3, 0)
    assert "it might run twice" in (reported.error_message or "")
    device.processes.code = 0
    device.disk.full = ()
    device.settle(30)
    reported = device.reporter.reported[job["uid"]]
    assert (device.times(job), reported.exit_code, reported.restart_count, reported.error_message) == (2, 0, 1, None)


@pytest.mark.parametrize("reboots", [False, True], ids=["agent restarts", "device restarts"])
@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
@pytest.mark.parametrize("full", [("desired.json",), ALL], ids=["memory is kept", "nothing is kept"])
@pytest.mark.parametrize("ended", [True, False], ids=["it had ended", "it runs"])
def test_a_removed_job_never_runs_again_though_its_removal_could_not_be_stored(
    new_device: Any, policy: str, full: tuple[str, ...], ended: bool, reboots: bool
) -> None:
    device = new_device()
    job = item("job", process_spec("/bin/true", restartPolicy=policy))
    device.processes.code = 0 if ended else None
    device.desire((OLD, job))
    device.settle(30)
    device.disk.full = full
    device.desire((OLD,))
    device.settle(30)
    assert job["uid"] not in device.processes.traces
    if reboots:
        device.lose_power(0)
    device.processes.code = 0
    device.boot()
    device.settle(60)
    if ended or policy == "Never" or full != ALL:  # else it was interrupted for all that is on disk
        assert device.times(job) == 1
    device.disk.full = ()
    device.desire((OLD,))
    device.settle(30)
    assert set(device.memory()) == {OLD["uid"]}
    assert device.processes.running(OLD["uid"])


@pytest.mark.parametrize("full", [("desired.json",), ("memory.json",), ALL], ids=" ".join)
def test_a_job_that_was_replaced_never_runs_again_and_its_successor_waits_for_the_disk(
    new_device: Any, full: tuple[str, ...]
) -> None:
    device = new_device()
    device.desire((OLD, JOB))
    device.settle(30)
    device.disk.full = full
    device.desire((OLD, NEXT))
    device.settle(30)
    assert (device.times(JOB), device.times(NEXT)) == (1, 0)
    assert "cannot be written" in (device.reporter.reported[JOB["uid"]].error_message or "")
    device.boot()
    device.settle(30)
    assert (device.times(JOB), device.times(NEXT)) == (1, 0)
    device.disk.full = ()
    device.desire((OLD, NEXT))
    device.settle(30)
    assert (device.times(JOB), device.times(NEXT)) == (1, 1)
    assert device.reporter.reported[JOB["uid"]].error_message is None


TURNED = item("service", process_spec("/bin/true", restartPolicy="Never"))


@pytest.mark.parametrize("after", [NEW, TURNED], ids=["a service", "a job"])
@pytest.mark.parametrize("full", [("desired.json",), ("memory.json",), ALL], ids=" ".join)
def test_a_service_is_kept_running_until_its_successor_can_be_stored(
    new_device: Any, full: tuple[str, ...], after: Item
) -> None:
    device = new_device()
    device.desire((OLD,))
    device.settle(90)
    instance = device.processes.traces[OLD["uid"]]
    device.disk.full = full
    device.desire((after,))
    device.settle(30)
    assert device.processes.traces[OLD["uid"]] == instance
    reported = device.reporter.reported[OLD["uid"]]
    assert (reported.observed_spec_hash, reported.process_started) == (OLD["specHash"], True)
    assert "No space left on device" in (reported.error_message or "")
    device.processes.crash(OLD["uid"])
    device.settle(30)
    assert device.processes.running(OLD["uid"])
    assert (device.times(OLD), device.times(after)) == (2, 0)
    device.disk.full = ()
    device.settle(30)
    reported = device.reporter.reported[OLD["uid"]]
    assert (device.times(OLD), device.times(after)) == (2, 1)
    assert (reported.observed_spec_hash, reported.error_message) == (after["specHash"], None)


UNCONFIRMED = item("service", process_spec("/bin/sleep", "4", confirm={"mode": "Manual", "timeoutSeconds": 60}))


@pytest.mark.parametrize("confirmed", [False, True], ids=["not confirmed", "confirmed"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_unconfirmed_change_is_rolled_back_however_often_the_device_restarts_meanwhile(
    new_device: Any, times: int, confirmed: bool
) -> None:
    device = new_device()
    device.desire((OLD,))
    device.settle(90)
    device.desire((UNCONFIRMED,))
    device.settle(5)
    for _ in range(times):
        device.lose_power(0)
        device.boot()
        device.settle(5)
        assert device.processes.traces[OLD["uid"]].spec_hash == UNCONFIRMED["specHash"]
        assert device.processes.running(OLD["uid"])
    if confirmed:
        State(device.directory).confirm(OLD["uid"], UNCONFIRMED["specHash"])
    device.settle(35)
    device.boot()
    device.settle(60)
    reported = device.reporter.reported[OLD["uid"]]
    assert device.processes.running(OLD["uid"])
    wanted = (
        (UNCONFIRMED["specHash"], None, None)
        if confirmed
        else (OLD["specHash"], UNCONFIRMED["specHash"], RollbackReason.CONFIRM_TIMED_OUT)
    )
    assert (reported.observed_spec_hash, reported.failed_spec_hash, reported.rolled_back_reason) == wanted


OTHER = item("service", process_spec("/bin/sleep", "4"), uid="uid-restored")  # declared again, under another uid
DECLARED = ((), (SIDE,), (SIDE, OLD), (SIDE, NEW), (SIDE, OTHER), (SIDE, BAD), (SIDE, NEW, JOB), (NEXT,))


class DeviceHistory(RuleBasedStateMachine):
    """What a device lives through in any order: kills, reboots, clocks that are set, declarations that come back.

    Two instances of a process, and one that a record says is gone, are refused where processes are started and removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        place = Path(self.opened.enter_context(TemporaryDirectory()))
        waker = Waker()
        self.opened.callback(waker.close)
        patch = self.opened.enter_context(pytest.MonkeyPatch.context())
        self.device = CrashingDevice(place / "device", waker, patch, {}, remembers=False)
        self.wanted: tuple[Item, ...] = ()
        self.asked: Counter[str] = Counter()

    @rule(wanted=st.sampled_from(DECLARED))
    def declare(self, wanted: tuple[Item, ...]) -> None:
        """Declare other processes, or those of before, as a restored backup of the cluster does."""
        self.asked.update(each["specHash"] for each in wanted if each not in self.wanted)
        self.wanted = wanted
        self.device.desire(wanted)

    @rule(seconds=st.sampled_from([1, 20, 120]))
    def go_on(self, seconds: int) -> None:
        try:
            self.device.settle(seconds)
        except Killed:
            self.begin()

    @rule(point=st.integers(1, 60))
    def will_be_killed(self, point: int) -> None:
        self.device.steps.at = point

    @rule(
        kept=st.integers(0, 3), seconds=st.sampled_from([0.0, 5.0, 10**6]), hours=st.sampled_from([-(10**5), 0, 10**5])
    )
    def reboot(self, kept: int, seconds: float, hours: int) -> None:
        """Cut the power; the clock of the next boot begins at zero, and the time of day may be anything."""
        self.device.lose_power(min(kept, self.device.disk.unsafe))
        self.device.clock.seconds = seconds
        self.set_clock(hours)
        self.begin()

    @rule(hours=st.sampled_from([-5, 5, -(10**5), 10**5]))
    def set_clock(self, hours: int) -> None:
        self.device.clock.time = datetime(2025, 1, 31, 12, tzinfo=timezone.utc) + timedelta(hours=hours)

    @rule(each=st.sampled_from([SIDE, OLD, OTHER]))
    def a_process_ends(self, each: Item) -> None:
        self.device.processes.crash(each["uid"])

    @rule(hours=st.sampled_from([-(10**5), 10**5]))
    def nothing_is_started_because_a_clock_is_set(self, hours: int) -> None:
        self.declare((SIDE, NEW))
        self.converge()
        before = list(self.device.processes.ran)
        self.set_clock(hours)
        self.begin()
        self.device.settle(120)
        assert self.device.processes.ran == before

    def begin(self) -> None:
        """Let the next agent begin, and hear what is desired."""
        self.device.steps.at = None
        self.device.boot()
        self.device.desire(self.wanted)

    def converge(self) -> None:
        self.device.steps.at = None
        self.device.settle(1000)
        runs = {(seen.uid, seen.spec_hash) for seen in self.device.processes.traces.values() if seen.running}
        assert runs == {(each["uid"], each["specHash"]) for each in self.wanted}
        assert set(self.device.memory()) == set(self.device.processes.traces) == {each["uid"] for each in self.wanted}

    @invariant()
    def a_job_runs_once_each_time_that_it_is_declared(self) -> None:
        for job in (JOB, NEXT):
            assert self.device.times(job) <= self.asked[job["specHash"]]

    def teardown(self) -> None:
        try:
            self.begin()
            self.declare((SIDE, NEW))
            self.converge()
        finally:
            self.opened.close()


def test_whatever_a_device_lives_through_what_is_declared_runs_once() -> None:
    factor = int(os.environ.get("PRAETOR_PROPERTY_FACTOR", "1"))
    steps = settings(max_examples=25 * factor, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(DeviceHistory, settings=steps)
