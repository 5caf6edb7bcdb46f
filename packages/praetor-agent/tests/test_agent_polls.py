# SPDX-License-Identifier: Apache-2.0
"""An agent with nothing to report polls, and that is its heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread

import pytest

from agent_testing import FakeClock, FakeGateway, Fault, item, process_spec, running_agent, until
from praetor_agent import app
from praetor_agent.backends.container import Runtime
from praetor_agent.backends.protocol import CALL_SECONDS, call
from praetor_agent.clock import HANG_SECONDS, PROGRESS, Pulse, SystemClock, Waker
from praetor_agent.core.model import ObservedDevice, Record
from praetor_agent.core.polls import CUT_MEMORY_SECONDS, PollPath, poll_retry, poll_wait
from praetor_agent.core.report import ReportState
from praetor_agent.errors import BackendError, UsageError
from praetor_agent.link.client import Address, GatewayClient, Poll, PollAnswer
from praetor_agent.link.poller import Heartbeats, Inbox, Poller
from praetor_agent.link.reporter import FACTS_SECONDS, Reporter
from praetor_agent.settings import RunSettings, poll_wait_of
from praetor_agent.state import Received
from praetor_api.protocol import Desired, DesiredItem, InvalidItem, Observation, Report, ReportAck
from praetor_api.spec import Backend, Execution, ProcessSpec
from test_agent_drift import EditedDevice

HELD = PollAnswer(interval=15)


@pytest.mark.parametrize(
    ("interval", "quiet", "configured", "most", "wait"),
    [
        (15, True, None, 55, 15),
        (25, True, None, 55, 25),
        (40, True, None, 55, 40),
        (60, True, None, 55, 50),
        (60, True, None, 24, 24),
        (60, True, 55, 55, 55),
        (60, True, 40, 55, 40),
        (15, True, 40, 55, 15),
        (1, True, None, 55, 1),
        (15, False, None, 55, 50),
        (15, False, 20, 55, 20),
        (15, True, None, 8, 8),
        (15, False, None, 8, 8),
        (3600, True, 55, 70, 55),
    ],
)
def test_how_long_a_poll_is_held(interval: float, quiet: bool, configured: int | None, most: float, wait: int) -> None:
    assert poll_wait(interval, 0.0, quiet=quiet, configured=configured, most=most) == wait


@pytest.mark.parametrize(
    ("failures", "interval", "seconds"),
    [
        (0, 15, 0),
        (1, 1, 2),
        (2, 1, 4),
        (1, 15, 3.75),
        (3, 15, 15),
        (1, 60, 15),
        (3, 60, 60),
        (9, 15, 60),
        (1, 3600, 60),
    ],
)
def test_within_how_many_seconds_a_failed_poll_is_tried_again(failures: int, interval: float, seconds: float) -> None:
    assert poll_retry(failures, interval, 1.0) == seconds
    assert poll_retry(failures, interval, 0.5) == seconds / 2


def test_a_quiet_poll_comes_back_within_the_interval_and_a_fleet_does_not_poll_in_step() -> None:
    waits = {poll_wait(20, number / 10, quiet=True, configured=None, most=55) for number in range(10)}
    assert waits == {19, 20}


def test_a_way_that_cuts_polls_is_asked_for_shorter_ones_and_tried_again_later() -> None:
    path = PollPath().failed(50, 30.0, 100.0)
    assert path.most == 55  # it may have been a gateway that restarts
    path = path.failed(50, 30.5, 130.0)
    assert path.most == 24
    assert path.answered(200.0).most == 24
    path = path.failed(24, 11.0, 300.0).failed(24, 11.0, 311.0)
    assert path.most == 10  # and never less
    assert path.answered(310.0).answered(311.0 + CUT_MEMORY_SECONDS) == PollPath()


@pytest.mark.parametrize("took", [0.1, 2.1, 20.0, 50.0, 65.0], ids=["refused", "soon", "else", "late", "never"])
def test_a_failure_that_is_no_cut_says_nothing_of_the_way(took: float) -> None:
    path = PollPath().failed(50, 30.0, 100.0).failed(50, took, 110.0)
    assert path.failed(50, 30.0, 120.0).most == 55


def test_a_gateway_that_struggles_is_not_polled_more_often() -> None:
    path = PollPath()
    for number in range(20):
        path = path.failed(15, 2.1, 100.0 + number)
    assert path.most == 55


@pytest.mark.parametrize("text", ["0", "56", "-1", "x", "1.5", "99999", "\u0665"])
def test_a_wait_that_no_gateway_grants_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--poll-wait"):
        poll_wait_of(text)
    assert (poll_wait_of(None), poll_wait_of(""), poll_wait_of("55")) == (None, None, 55)


CURRENT = {"u": Observation(name="a", revision=7), "v": Observation(name="b", revision=8)}


def acknowledged(now: float = 100.0) -> ReportState:
    state = replace(ReportState(base=1, next_at=0.0), latest=CURRENT)
    return state.acked(ReportAck(ack=True), CURRENT, tuple(CURRENT.values()), now, 0.5)


def test_a_device_says_what_was_acknowledged_once_that_is_all() -> None:
    assert ReportState(base=1, next_at=0.0).standing((), None) is None
    state = acknowledged()
    assert state.standing(("u", "v"), 5) == "15.5"
    assert state.standing(("u",), None) == "7"
    assert replace(state, facts_known=False).standing(("u",), 5) is None
    assert state.failed(101.0, 0.5).standing(("u",), 5) is None
    assert state.revised({"u": Observation(name="a", pid=9)}, 101.0).standing(("u",), 5) is None


def test_an_answered_poll_takes_the_place_of_a_report() -> None:
    state = acknowledged().polled(15.0, 110.0)
    assert state.due_at(CURRENT, 110.0) == 128.0  # after the next poll came back, and not after two were lost
    assert state.polled(60.0, 120.0).interval == 60.0
    assert state.due_at({"u": Observation(name="a", pid=9)}, 111.0) == 111.0
    lost = acknowledged().failed(110.0, 0.5)
    assert lost.polled(15.0, 110.5).next_at == lost.next_at


def test_facts_that_changed_are_reported_at_once() -> None:
    assert replace(acknowledged(), facts_known=False).due_at(CURRENT, 101.0) == 101.0


def test_a_poll_may_ask_for_everything_and_gets_it_once_in_an_interval() -> None:
    asked = acknowledged().resync(110.0)
    assert (len(asked.due(CURRENT)), asked.facts_known, asked.due_at(CURRENT, 110.0)) == (2, False, 110.0)
    assert asked.resync(111.0) is asked  # it is not answered yet
    again = asked.acked(ReportAck(ack=True), CURRENT, tuple(CURRENT.values()), 111.0, 0.5).resync(112.0)
    assert (again.standing(("u",), 5), again.due_at(CURRENT, 112.0)) == (None, 125.0)
    lost = acknowledged().failed(110.0, 0.5)
    assert lost.resync(110.5).next_at == lost.next_at


@dataclass
class Device:
    """A reporter of leaf-1 at a gateway, its clock and what it knows."""

    gateway: FakeGateway
    clock: FakeClock = field(default_factory=FakeClock)
    facts: dict[str, str] = field(default_factory=lambda: {"os": "x"})
    asked: int = 0

    def __post_init__(self) -> None:
        execution = Execution(backend=Backend.PROCESS, command=("x",))
        one = DesiredItem(uid="u", namespace="n", name="a", spec=ProcessSpec(execution=execution), spec_hash="h")
        self.desired = Desired(device_name="leaf-1", items=(one,))
        self.inbox = Inbox(lambda: None, Received(etag=self.gateway.etag, body={}, desired=self.desired))
        self.client = GatewayClient(Address(url=self.gateway.url, device="leaf-1", token=lambda: None))
        identity = Report(boot_id="boot-1")
        self.reporter = Reporter(
            self.client, self.inbox, self.clock, identity, lambda: None, lambda: dict(self.facts), alive=self.alive
        )
        self.offer()

    def alive(self) -> None:
        self.asked += 1

    def offer(self, restarts: int = 0, **more: Record) -> None:
        memory = {"u": Record(uid="u", name="a", namespace="n", restart_count=restarts), **more}
        self.reporter.offer(self.desired, memory, ObservedDevice(boot_id="boot-1"), {}, self.clock.seconds)

    def after(self, seconds: float) -> int:
        """Let time pass, and return how many reports were sent so far."""
        self.clock.seconds += seconds
        self.reporter.step()
        return len(self.gateway.reports)

    def poll(self, answer: PollAnswer = HELD) -> int:
        """Let a poll be answered after an interval; return how many reports were sent so far."""
        self.clock.seconds += 15.0
        self.reporter.polled(answer)
        return self.after(0.0)


@pytest.fixture
def device() -> Iterator[Device]:
    with FakeGateway() as gateway:
        gateway.quiet = True
        device = Device(gateway)
        assert device.after(0.0) == 1
        yield device
        device.client.close()


def test_a_device_whose_polls_are_answered_reports_what_is_new_and_nothing_else(device: Device) -> None:
    assert [device.poll() for _ in range(10)] == [1] * 10
    assert device.reporter.exchange is not None
    assert device.reporter.exchange.acknowledged_at == "2025-01-31T12:00:00Z"
    device.offer(restarts=1)
    assert device.after(0.0) == 2
    assert device.gateway.observations["a"].restart_count == 1
    device.facts["os"] = "y"
    assert device.after(FACTS_SECONDS - 300.0) == 2
    device.reporter.polled(HELD)
    for _ in range(25):
        device.poll()
    assert len(device.gateway.reports) == 3
    assert device.gateway.reports[-1].facts == {"os": "y"}


def test_a_device_whose_polls_are_no_heartbeats_reports(device: Device) -> None:
    device.poll()
    device.gateway.quiet = False
    sent = [device.poll(PollAnswer()) for _ in range(4)]
    assert sent[0] == 1
    assert sent[-1] >= 3
    assert not device.reporter.heartbeats().quiet
    device.poll()
    assert device.reporter.heartbeats().quiet


def test_a_device_whose_polls_are_lost_reports_before_it_is_missed(device: Device) -> None:
    device.poll()
    assert device.after(17.9) == 1
    assert device.after(0.2) == 2


def test_a_device_vouches_for_what_was_acknowledged_of_what_it_has_to_run(device: Device) -> None:
    said = device.reporter.heartbeats()
    (seen,) = device.gateway.history
    assert said == Heartbeats(
        boot_id="boot-1", interval=15.0, quiet=True, standing=f"{seen.revision}.{device.gateway.reports[0].revision}"
    )
    device.inbox.put(Received(etag='"new"', body={"new": 1}, desired=Desired(device_name="leaf-1")))
    assert device.reporter.heartbeats().standing is None  # the loop has not seen that yet


def test_a_device_vouches_for_a_process_whose_spec_it_cannot_decode_too(device: Device) -> None:
    bad = InvalidItem(uid="v", namespace="n", name="b", spec_hash="h", faults=())
    device.desired = replace(device.desired, invalid=(bad,))
    device.inbox.put(Received(etag='"bad"', body={"bad": 1}, desired=device.desired))
    device.clock.seconds += 1.0
    device.offer(v=Record(uid="v", name="b", namespace="n"))
    assert device.after(0.0) == 2
    kept = sum(seen.revision or 0 for seen in device.gateway.observations.values())
    assert len(device.gateway.observations) == 2
    assert (device.reporter.heartbeats().standing or "").split(".")[0] == str(kept)
    assert device.after(100.0) == 3
    assert device.gateway.reports[-1].reported == kept


def test_a_device_reports_everything_when_the_answer_to_a_poll_asks_for_it(device: Device) -> None:
    assert device.poll(PollAnswer(interval=15, resync=True)) == 2
    assert device.gateway.reports[-1].facts == {"os": "x"}
    assert len(device.gateway.history) == 2


def test_an_agent_that_starts_goes_by_what_its_gateway_said_before() -> None:
    with FakeGateway() as gateway:
        device = Device(gateway)
        assert not device.reporter.heartbeats().quiet
        quiet = replace(device.desired, poll_is_heartbeat=True, heartbeat_interval_seconds=40)
        device.inbox.put(Received(etag='"q"', body={"q": 1}, desired=quiet))
        assert device.reporter.heartbeats() == Heartbeats(boot_id="boot-1", interval=40.0, quiet=True)
        device.after(0.0)
        assert not device.reporter.heartbeats().quiet  # an older gateway answered
        device.client.close()


def test_the_loop_is_asked_for_a_pass_before_each_report(device: Device) -> None:
    assert device.asked == len(device.gateway.reports)


def test_no_thread_gets_past_a_loop_that_makes_no_progress() -> None:
    clock, asked, passed = FakeClock(), Event(), Event()
    pulse = Pulse(clock, asked.set)
    clock.seconds += HANG_SECONDS
    pulse.wait()
    assert not asked.is_set()
    clock.seconds += 0.1

    def wait() -> None:
        pulse.wait()
        passed.set()

    Thread(target=wait, daemon=True).start()
    assert asked.wait(60)  # a device that was suspended needs no more
    clock.seconds += 1000.0
    assert not passed.wait(0.2)
    pulse.beat()
    assert passed.wait(60)


def test_a_pass_that_starts_many_processes_slowly_is_no_hang(tmp_path: Path) -> None:
    with FakeGateway() as gateway:
        device = EditedDevice(tmp_path, gateway)

        def slow() -> None:
            device.clock.seconds += CALL_SECONDS
            if device.backend.instance == 5:
                device.loop.stop()

        device.backend.slow = slow
        device.desire("a", "b", "c", "d", "e", "f")
        device.beats.append(device.clock.seconds)
        device.loop.run()
        gaps = [after - before for before, after in zip(device.beats, device.beats[1:])]
        assert sum(gaps) == 6 * CALL_SECONDS
        assert max(gaps) < HANG_SECONDS


@pytest.mark.parametrize("runs", [call, lambda name: Runtime((name,))("ps")], ids=["call", "runtime"])
@pytest.mark.parametrize("name", ["true", "false", "/no/such"])
def test_each_command_of_the_loop_is_progress_and_that_of_another_thread_is_none(
    runs: Callable[[str], str], name: str
) -> None:
    beats: list[str] = []

    def run() -> None:
        try:
            runs(name)
        except BackendError:
            beats.append("failed")

    def loop() -> None:
        PROGRESS.set(lambda: beats.append("progress"))
        run()

    Context().run(loop)
    assert beats == (["progress"] if name == "true" else ["progress", "failed"])
    beats.clear()
    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert "progress" not in beats


def test_a_loop_that_crashes_in_every_pass_makes_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGateway() as gateway:
        device, passes = EditedDevice(tmp_path, gateway), 0

        def crash(*_: object) -> None:
            nonlocal passes
            passes += 1
            device.clock.seconds += 10.0
            device.waker.wake()
            if passes < 9:
                raise ZeroDivisionError
            device.loop.stop()

        monkeypatch.setattr(device.reporter, "offer", crash)  # which is common to all processes
        device.desire("a")
        began = device.clock.seconds
        device.loop.run()
        assert set(device.beats) == {began, began + 90.0}


class Keeper:
    """Says what a test wants, and keeps the answers to polls."""

    def __init__(self, said: Heartbeats) -> None:
        self.said = said
        self.answers: list[PollAnswer] = []

    def heartbeats(self) -> Heartbeats:
        return self.said

    def polled(self, answer: PollAnswer) -> None:
        self.answers.append(answer)


def assert_(holds: bool) -> None:
    assert holds


def polls(gateway: FakeGateway) -> list[Mapping[str, str]]:
    return [headers for method, _, headers in gateway.requests if method == "GET"]


def test_each_poll_has_a_number_of_its_own_and_the_loop_is_waited_for() -> None:
    keeper, loop = Keeper(Heartbeats(boot_id="b", interval=1, quiet=True, standing="7.5")), Event()
    with FakeGateway(heartbeat_seconds=1) as gateway:
        gateway.quiet = True
        client = GatewayClient(Address(url=gateway.url, device="leaf-1", token=lambda: None))
        inbox = Inbox(lambda: None)
        poller = Poller(client, inbox, SystemClock(), keeper, alive=lambda: assert_(loop.wait(60)))
        poller.start()
        gateway.wait_for(lambda: bool(gateway.requests), "connect")
        assert not polls(gateway)
        loop.set()
        gateway.wait_for(lambda: len(gateway.numbers) >= 4, "polls")
        poller.stop()
    numbers = [int(number.removeprefix("b/")) for number in gateway.numbers]
    assert numbers == sorted(set(numbers))
    assert polls(gateway)[1]["Praetor-Reported"] == "b/7.5"
    assert polls(gateway)[1]["Prefer"] == "wait=1"
    assert keeper.answers[0].interval == 1


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({}, PollAnswer()),
        ({"Praetor-Heartbeat-Interval": "30", "Praetor-Resync": "1"}, PollAnswer(interval=30, resync=True)),
        ({"Praetor-Heartbeat-Interval": "0"}, PollAnswer()),
        ({"Praetor-Heartbeat-Interval": "86401"}, PollAnswer()),
        ({"Praetor-Heartbeat-Interval": "1e3", "Praetor-Resync": "yes"}, PollAnswer()),
    ],
)
def test_what_the_answer_to_a_poll_says(headers: dict[str, str], answer: PollAnswer) -> None:
    with FakeGateway() as gateway:
        gateway.fail(Fault(path="/desired", status=304, headers=headers))
        client = GatewayClient(Address(url=gateway.url, device="leaf-1", token=lambda: None))
        assert client.poll('"x"', 1, Poll(boot_id="b", number=1)) == answer
        client.close()


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "an-older-gateway"])
def test_an_agent_whose_loop_hangs_goes_silent_until_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    clock, waker, hangs, hung, on = FakeClock(), Waker(), Event(), Event(), Event()

    def read_freeze(_: Path) -> None:
        if hangs.is_set():
            hung.set()
            assert on.wait(300)

    def silenced() -> bool:
        clock.seconds += 1.0
        return sum("the loop hangs" in record.message for record in caplog.records) == 2

    monkeypatch.setattr("praetor_agent.app.SystemClock", lambda: clock)
    monkeypatch.setattr("praetor_agent.loop.read_freeze", read_freeze)
    with FakeGateway(heartbeat_seconds=1) as gateway:
        gateway.quiet = quiet
        settings = RunSettings(gateway=gateway.url, device="leaf-1", state_dir=tmp_path)
        poller, reporter, loop = app._build(settings, waker)
        thread = Thread(target=loop.run)
        for part in (thread, poller, reporter):
            part.start()
        gateway.wait_for(lambda: bool(gateway.reports), "a report")
        hangs.set()
        waker.wake()
        assert hung.wait(300)
        clock.seconds += HANG_SECONDS
        gateway.desire(item("a", process_spec("/no/such")))  # ends a poll
        until(silenced, "neither a poll nor a report")
        before = len(gateway.requests)
        clock.seconds += 1000.0
        assert len(gateway.requests) == before
        hangs.clear()
        on.set()
        gateway.wait_for(lambda: len(gateway.requests) > before, "a sign of life")
        poller.stop()
        reporter.stop()
        loop.stop()
        thread.join(300)


def test_an_agent_whose_polls_are_heartbeats_keeps_no_second_connection(tmp_path: Path) -> None:
    with FakeGateway(token="t", heartbeat_seconds=10) as gateway:
        gateway.quiet = True
        gateway.desire(item("a", process_spec("sleep", "1000")))
        with running_agent(gateway, tmp_path / "state"):
            gateway.wait_for(lambda: any(seen.pid for seen in gateway.history), "the process")
            assert len(next(iter(gateway.sources.values()))) >= 2
            gateway.wait_for(lambda: gateway.connections == 1 and bool(gateway.numbers), "only the poll is left")
