# SPDX-License-Identifier: Apache-2.0
"""The loop with a backend that keeps definitions and output: edits are rewritten, the output tail is kept."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from typing import Any, cast

import pytest

from agent_testing import FakeClock, FakeGateway, item, process_spec
from praetor_agent.artifacts.fetcher import Fetcher
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends.command import Command
from praetor_agent.backends.probes import Probes
from praetor_agent.clock import Waker
from praetor_agent.core.model import Observed
from praetor_agent.errors import BackendError
from praetor_agent.host import OUTPUT_CHARACTERS, Host
from praetor_agent.link.client import Address, GatewayClient
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.loop import RETRY_SECONDS, Dependencies, Loop
from praetor_agent.service.doctor import checks
from praetor_agent.service.status import status
from praetor_agent.settings import RunSettings
from praetor_agent.state import JsonFile, Received, State
from praetor_api.conditions import PROVING_SECONDS
from praetor_api.protocol import Observation, Report, read_desired
from praetor_api.spec import Backend

UID = "uid-a"


@dataclass
class Scripts:
    """A backend in memory: definitions that may be edited, processes that may end, and their output.

    Each start calls *slow*. *stubborn* undoes each repair at once; *broken* is why nothing can be written or read,
    *failure* what the disk says.
    """

    definitions: dict[str, Command | str] = field(default_factory=dict)
    written: dict[str, Command] = field(default_factory=dict)
    processes: dict[str, Observed] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    instance: int = 0
    repairs: int = 0
    asked: int = 0
    slow: Callable[[], None] = lambda: None
    stubborn: bool = False
    broken: str | None = None
    failure: OSError | None = None

    def observe(self) -> Mapping[str, Observed]:
        return {
            uid: replace(seen, edited=self.definitions[uid] != self.written[uid], at_boot=self.written[uid].at_boot)
            for uid, seen in self.processes.items()
        }

    def start(self, launch: Command) -> None:
        self.slow()
        self.definitions[launch.uid] = self.written[launch.uid] = launch
        self.output[launch.uid] = ""
        self.again(launch.uid, launch.spec_hash)

    def again(self, uid: str, spec_hash: str) -> None:
        self.instance += 1
        self.processes[uid] = Observed(
            uid=uid, backend=Backend.PROCESS, spec_hash=spec_hash, running=True, handle=f"h{self.instance}", pid=7
        )

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        self.end(uid, 143)

    def end(self, uid: str, code: int) -> None:
        reason = "Completed" if code == 0 else "Error"
        self.processes[uid] = replace(
            self.processes[uid], running=False, exit_code=code, termination_reason=reason, pid=None
        )

    def signal(self, uid: str, number: Signals) -> None:
        raise NotImplementedError

    def remove(self, uid: str) -> None:
        del self.processes[uid], self.definitions[uid]

    def repair(self, launch: Command) -> None:
        self.repairs += 1
        if self.failure is not None:
            raise self.failure
        if self.broken is not None:
            raise BackendError(self.broken)
        if not self.stubborn:
            self.definitions[launch.uid] = self.written[launch.uid] = launch

    def show(self, uid: str, lines: int | None, follow: Callable[[], bool] | None) -> None:
        raise NotImplementedError

    def tail(self, uid: str, limit: int) -> str:
        self.asked += 1
        if self.broken is not None:
            raise BackendError(self.broken)
        return self.output[uid][-limit:]


class EditedDevice:
    """An agent's loop, pass by pass."""

    def __init__(self, directory: Path, gateway: FakeGateway) -> None:
        self.directory = directory
        self.gateway = gateway
        self.clock = FakeClock()
        self.backend = Scripts()
        self.hold = directory / "hold"
        self.waker = Waker()
        self.beats: list[float] = []
        self.client = GatewayClient(Address(url=gateway.url, device="leaf-1", token=lambda: "t"))
        self.inbox = Inbox(lambda: None)
        self.loop = self.new_loop()

    def new_loop(self) -> Loop:
        self.reporter = Reporter(self.client, self.inbox, self.clock, Report(), lambda: None, dict)
        fetcher = Fetcher(ArtifactStore(self.directory / "artifacts"), {}, self.clock, self.waker.wake)
        dependencies = Dependencies(
            state=State(self.directory),
            inbox=self.inbox,
            host=Host({Backend.PROCESS: self.backend}, {}, fetcher, "boot-1"),
            probes=Probes(self.clock),
            reporter=self.reporter,
            waker=self.waker,
            clock=self.clock,
            freeze_file=self.hold,
            beat=lambda: self.beats.append(self.clock.seconds),
        )
        return Loop("leaf-1", dependencies)

    def desire(self, *names: str, **spec: Any) -> None:
        wanted = [item(name, process_spec("sleep", "1000", **spec)) for name in names or ("a",)]
        body = {"deviceName": "leaf-1", "heartbeatIntervalSeconds": 10, "items": wanted}
        self.gateway.desire(*wanted)
        self.inbox.put(Received(etag=self.gateway.etag, body=body, desired=read_desired(body)))

    def step(self, seconds: float = 1.0) -> float:
        self.clock.seconds += seconds
        wake_at = self.loop.step()[0]
        self.reporter.step()
        return wake_at - self.clock.seconds

    def reported(self) -> Observation:
        return self.gateway.observations["a"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[EditedDevice]:
    """A device that runs a service."""
    with FakeGateway() as gateway:
        device = EditedDevice(tmp_path, gateway)
        device.desire()
        device.step()
        yield device
        device.client.close()


def test_an_edited_definition_is_rewritten_and_counted_while_the_process_runs_on(device: EditedDevice) -> None:
    assert device.reported().drift_count is None
    assert device.step(PROVING_SECONDS) > 0
    assert (device.backend.repairs, device.backend.written[UID].at_boot) == (1, True)  # which is no drift
    device.backend.repairs = 0
    for edits in (1, 2):
        device.backend.definitions[UID] = "by hand"
        device.step()
        assert device.backend.definitions == device.backend.written
        assert (device.reported().drift_count, device.reported().restart_count, device.reported().pid) == (edits, 0, 7)
    device.step()
    assert (device.backend.repairs, device.backend.instance) == (2, 1)
    device.loop = device.new_loop()
    device.gateway.observations.clear()
    device.step()
    assert device.reported().drift_count == 2


def test_a_failed_repair_is_retried_after_a_while_and_not_counted(device: EditedDevice) -> None:
    device.backend.definitions[UID], device.backend.broken = "by hand", "read-only file system"
    assert device.step() <= RETRY_SECONDS
    assert (device.backend.repairs, device.reported().drift_count, device.reported().healthy) == (1, None, None)
    device.backend.broken = None
    device.step(RETRY_SECONDS)
    assert (device.backend.repairs, device.reported().drift_count) == (2, 1)


def test_a_definition_that_is_edited_again_at_once_is_repaired_once_per_pass(device: EditedDevice) -> None:
    device.backend.definitions[UID], device.backend.stubborn = "by hand", True
    device.step()
    assert device.backend.repairs == 1
    device.step()
    assert (device.backend.repairs, device.reported().drift_count) == (2, 2)


def test_a_definition_edited_during_a_freeze_is_repaired_after_the_freeze(device: EditedDevice) -> None:
    device.hold.write_text("maintenance")
    device.backend.definitions[UID] = "by hand"
    device.step()
    assert (device.backend.repairs, device.reported().update_held_message is None) == (0, False)
    device.hold.unlink()
    device.step()
    assert (device.backend.repairs, device.reported().drift_count) == (1, 1)


def test_an_instance_that_replaced_ours_is_counted_as_drift(device: EditedDevice) -> None:
    device.step()
    device.backend.again(UID, device.reported().observed_spec_hash)
    device.step()
    assert (device.reported().drift_count, device.reported().restart_count) == (1, 1)


def test_the_output_tail_is_read_once_cleaned_and_kept(device: EditedDevice) -> None:
    device.desire(restartPolicy="Never")
    device.step()
    assert device.reported().output_tail is None
    device.backend.output[UID] = "x" * 9000 + "\x1b[1m€uro\tbye\n"
    device.backend.end(UID, 3)
    device.step()
    tail = device.reported().output_tail
    assert tail is not None
    assert (len(tail), tail[-15:]) == (OUTPUT_CHARACTERS, "xxx\ufffd[1m€uro\tbye\n"[-15:])
    device.loop = device.new_loop()
    device.gateway.observations.clear()
    device.step()
    assert (device.backend.asked, device.reported().output_tail) == (1, tail)


def test_each_crash_reports_its_own_output_and_a_new_version_begins_without_any(
    device: EditedDevice,
) -> None:
    for words in ("no config\n", "no memory\n"):
        device.backend.output[UID] = words
        device.backend.end(UID, 1)
        device.step()
        assert device.reported().output_tail == words
        device.step(60)
        assert (device.reported().pid, device.reported().output_tail) == (7, words)
    device.desire(restartedAt="2026-01-01T00:00:00Z")
    device.step()
    device.step()
    assert device.reported().output_tail is None


def test_output_that_cannot_be_read_is_omitted_and_delays_nothing(device: EditedDevice) -> None:
    device.desire(restartPolicy="Never")
    device.step()
    device.backend.broken = "the journal is gone"
    device.backend.end(UID, 0)
    device.step()
    device.step()
    assert (device.reported().exit_code, device.reported().output_tail, device.backend.asked) == (0, None, 1)


def test_an_action_that_fails_on_disk_delays_neither_reports_nor_other_processes(
    device: EditedDevice,
) -> None:
    device.backend.definitions[UID], device.backend.failure = "by hand", OSError(errno.ENOSPC, "No space left")
    reports = len(device.gateway.reports)
    assert device.step(20) <= RETRY_SECONDS
    assert (device.backend.repairs, len(device.gateway.reports)) == (1, reports + 1)
    device.backend.failure = None
    device.step(RETRY_SECONDS)
    assert (device.backend.definitions, device.reported().drift_count) == (device.backend.written, 1)


def test_what_a_newer_agent_stored_is_left_alone_and_its_processes_run_on(device: EditedDevice) -> None:
    file = device.directory / "memory.json"
    known = file.read_bytes()
    stored = cast("dict[str, Any]", JsonFile(file).load())
    stored["records"][0]["stage"] = "Hibernating"
    JsonFile(file).save(stored)
    newer = file.read_bytes()
    device.loop = device.new_loop()
    device.step()
    assert device.reported().process_started
    device.desire(env=[{"name": "A", "value": "2"}])
    device.step()
    assert "memory.json is of a newer agent (1 of its records: stage" in (device.reported().pending_message or "")
    assert (device.reported().pending_reason, device.backend.instance) == ("StateNotWritable", 1)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status(device.directory, device.hold, "table")
    assert f"Nothing is changed: {file} is of a newer agent" in said.getvalue()
    settings = RunSettings(gateway=device.gateway.url, device="leaf-1", state_dir=device.directory)
    remedies = [check.remedy for check in checks(settings) if check.name == "memory"]
    assert remedies == ["upgrade this agent again, or remove the file and restart this agent"]
    assert file.read_bytes() == newer
    file.write_bytes(known)  # as an agent reads it that knows more
    device.loop = device.new_loop()
    device.step()
    assert device.backend.instance == 2
