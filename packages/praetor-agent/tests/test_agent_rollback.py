# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from praetor_agent.core import reboot, restart, rollback
from praetor_agent.core.backoff import crash_delay
from praetor_agent.core.health import Health
from praetor_agent.core.model import Observed, ObservedDevice, ProcessStage, Record, Revision
from praetor_agent.core.reconcile import Action, Remove, Repair, Start, Stop, reconcile
from praetor_agent.core.report import observation
from praetor_api.conditions import CRASH_LOOP_COUNT, PROVING_SECONDS, STABILITY_WINDOW_SECONDS
from praetor_api.protocol import Desired, DesiredItem, Observation
from praetor_api.spec import (
    Backend,
    Confirm,
    ConfirmMode,
    ExecProbe,
    Execution,
    HealthCheck,
    PostCheck,
    ProcessSpec,
    Reboot,
    RestartPolicy,
)

UID = "uid-1"
PROBE = HealthCheck(exec=ExecProbe(command=("/bin/true",)))
REACHABLE = Confirm(timeout_seconds=120)
MANUAL = Confirm(mode=ConfirmMode.MANUAL, timeout_seconds=120)


def item(
    version: str,
    *,
    policy: RestartPolicy = RestartPolicy.ALWAYS,
    confirm: Confirm | None = None,
    check: HealthCheck | None = None,
    post_check: PostCheck | None = None,
) -> DesiredItem:
    expected = Reboot.EXPECTED if post_check is not None else None
    execution = Execution(backend=Backend.PROCESS, command=("/bin/sleep",), reboot=expected)
    spec = ProcessSpec(
        execution=execution, restart_policy=policy, confirm=confirm, health_check=check, post_check=post_check
    )
    return DesiredItem(uid=UID, namespace="net", name="fw", spec=spec, spec_hash=version)


@dataclass
class RollbackDevice:
    """A device in memory that does what plans say. Versions in *broken* cannot be executed."""

    now: float = 1000.0
    boot: str = "boot-1"
    wanted: DesiredItem | None = None
    memory: dict[str, Record] = field(default_factory=dict)
    process: Observed | None = None
    starts: list[str] = field(default_factory=list)
    at_boot: list[bool] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    freeze: str | None = None
    heard_at: float | None = None
    confirmed: dict[str, str] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    ask_at: float | None = None
    proving: float = PROVING_SECONDS

    def converge(self, desired: DesiredItem | None = None) -> None:
        self.wanted = desired or self.wanted
        for _ in range(6):
            seen = {UID: self.process} if self.process else {}
            observed = ObservedDevice(
                boot_id=self.boot,
                observed=seen,
                freeze=self.freeze,
                heard_at=self.heard_at,
                confirmed=self.confirmed,
                health=self.health,
                proving_seconds=self.proving,
            )
            items = (self.wanted,) if self.wanted else ()
            plan = reconcile(Desired(device_name="leaf-1", items=items), observed, self.memory, self.now)
            self.memory = dict(plan.memory)
            self.ask_at = plan.ask_at
            for action in plan.actions:
                self._act(action)
            if not plan.actions:
                return

    def _act(self, action: object) -> None:
        if isinstance(action, Start):
            version = action.revision.item.spec_hash
            self.starts.append(version)
            self.at_boot.append(action.at_boot)
            if version in self.broken:
                self.memory[UID] = restart.start_failed(self.memory[UID], "no such program", self.now)
                return
            handle = f"h{len(self.starts)}"
            self.process = Observed(uid=UID, backend=Backend.PROCESS, spec_hash=version, running=True, handle=handle)
            self.memory[UID] = restart.started(self.memory[UID], "now")
        elif isinstance(action, Stop):
            self.end(143)
        elif isinstance(action, Remove):
            self.process = None

    def end(self, code: int) -> None:
        assert self.process is not None
        self.process = replace(self.process, running=False, exit_code=code, termination_reason="Error")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.converge()

    def reboot(self, *, by_init: bool = False) -> None:
        """Restart the device, whose init starts the process again if *by_init*."""
        self.boot, self.now, self.heard_at = self.boot + "+", 30.0, None
        self.process = replace(self.process, handle=self.boot) if by_init and self.process else None
        self.converge()

    def probe(self, *, healthy: bool) -> None:
        assert self.process is not None
        handle = self.process.handle or ""
        self.health = {UID: Health(handle=handle, next_at=0, healthy=healthy, message=None if healthy else "exit 1")}

    @property
    def runs(self) -> str | None:
        return self.process.spec_hash if self.process and self.process.running else None

    @property
    def record(self) -> Record:
        return self.memory[UID]

    def waits(self) -> bool:
        return self.record.confirmation is not None and self.ask_at is not None

    @property
    def gave_up(self) -> tuple[str, str] | None:
        given_up = self.record.rollback
        return (given_up.spec_hash, given_up.reason.value) if given_up else None


@pytest.fixture
def device() -> RollbackDevice:
    """A device whose version v1 has proven good."""
    device = RollbackDevice()
    device.converge(item("v1"))
    device.wait(rollback.STABLE_SECONDS)
    device.wait(rollback.GOOD_SECONDS)
    assert device.record.last_good == Revision(item=item("v1"))
    return device


def crash_until_given_up(device: RollbackDevice, code: int = 1) -> None:
    for _ in range(CRASH_LOOP_COUNT):
        device.end(code)
        device.converge()
        device.wait(10)


@pytest.mark.parametrize(("code", "advice"), [(1, ""), (0, f": {restart.BACKGROUND}")])
def test_a_version_that_keeps_ending_is_rolled_back_to_the_good_one(
    device: RollbackDevice, code: int, advice: str
) -> None:
    device.converge(item("v2"))
    crash_until_given_up(device, code)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "CrashLoop"))
    assert device.record.rollback is not None
    assert device.record.rollback.message == f"it ended 3 times in a row, last with exit code {code} (Error){advice}"


def test_a_service_that_ends_with_0_again_and_again_is_reported_as_one_in_the_background() -> None:
    device = RollbackDevice()
    device.converge(item("v1"))
    for ends, advice in ((1, False), (2, True)):
        device.end(0)
        device.converge()
        warning = observation(device.record, device.process, None, None).warning_message
        assert (restart.BACKGROUND in (warning or ""), device.record.failures) == (advice, ends)
        device.wait(10)


def test_a_version_that_cannot_be_started_is_rolled_back_to_the_good_one(device: RollbackDevice) -> None:
    device.broken = {"v2"}
    device.converge(item("v2"))
    assert device.starts == ["v1", "v2"]
    device.wait(1)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "StartFailed"))
    assert device.starts == ["v1", "v2", "v2", "v1"]


def test_a_version_whose_health_check_fails_is_rolled_back_to_the_good_one(device: RollbackDevice) -> None:
    device.converge(item("v2", check=PROBE))
    device.probe(healthy=False)
    device.wait(1)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "HealthCheckFailed"))


def test_a_version_that_was_rolled_back_is_not_retried_before_the_spec_changes(device: RollbackDevice) -> None:
    device.broken = {"v2"}
    device.converge(item("v2"))
    device.wait(1)
    device.wait(100_000)
    device.reboot()
    assert (device.runs, device.gave_up) == ("v1", ("v2", "StartFailed"))
    assert device.starts.count("v2") == rollback.START_FAILURES
    device.converge(item("v3"))
    assert (device.runs, device.gave_up) == ("v3", None)


def test_a_return_to_the_good_version_restarts_nothing(device: RollbackDevice) -> None:
    device.broken = {"v2"}
    device.converge(item("v2"))
    device.wait(1)
    starts = len(device.starts)
    device.converge(item("v1"))
    assert (device.runs, device.gave_up, len(device.starts)) == ("v1", None, starts)


def test_a_good_version_is_restarted_however_often_it_ends(device: RollbackDevice) -> None:
    crash_until_given_up(device)
    crash_until_given_up(device)
    device.wait(1000)
    assert (device.runs, device.gave_up) == ("v1", None)


def test_a_first_version_has_nothing_to_roll_back_to() -> None:
    device = RollbackDevice()
    device.converge(item("v1"))
    crash_until_given_up(device)
    device.wait(1000)
    assert (device.runs, device.gave_up) == ("v1", None)


def test_a_version_that_was_healthy_when_it_was_replaced_is_better_than_nothing() -> None:
    device = RollbackDevice()
    device.converge(item("v1"))
    device.wait(rollback.STABLE_SECONDS)
    device.converge(item("v2"))
    crash_until_given_up(device)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "CrashLoop"))


@pytest.mark.parametrize("policy", [RestartPolicy.NEVER, RestartPolicy.ON_FAILURE])
def test_a_job_is_never_rolled_back_nor_run_again_as_an_old_version(policy: RestartPolicy) -> None:
    device = RollbackDevice()
    device.converge(item("job-1", policy=policy))
    device.end(0)
    device.converge(item("job-2", policy=policy, confirm=REACHABLE))
    device.end(1)
    device.wait(1000)
    device.wait(1000)
    assert device.gave_up is None
    assert device.starts.count("job-1") == 1
    assert device.record.confirmation is None


def test_a_service_is_not_rolled_back_to_a_job_before_it(device: RollbackDevice) -> None:
    device.converge(item("job", policy=RestartPolicy.NEVER))
    device.end(0)
    device.converge(item("v2"))
    crash_until_given_up(device)
    assert (device.record.last_good, device.gave_up) == (None, None)


def test_an_unconfirmed_change_is_rolled_back(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=MANUAL))
    device.wait(119)
    assert device.runs == "v2"
    device.wait(1)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "ConfirmTimedOut"))


@pytest.mark.parametrize("at_device", [True, False])
def test_a_change_may_be_confirmed_at_the_device_or_by_the_annotation(device: RollbackDevice, at_device: bool) -> None:
    wanted = item("v2", confirm=MANUAL)
    device.converge(wanted)
    device.confirmed = {UID: "v2"} if at_device else {}
    device.converge(wanted if at_device else replace(wanted, confirmed_spec_hash="v2"))
    device.wait(1000)
    assert (device.runs, device.gave_up) == ("v2", None)


def test_a_confirmation_of_another_spec_confirms_nothing(device: RollbackDevice) -> None:
    device.confirmed = {UID: "v1"}
    device.converge(replace(item("v2", confirm=MANUAL), confirmed_spec_hash="v1"))
    device.wait(120)
    assert device.gave_up == ("v2", "ConfirmTimedOut")


def test_an_exchange_confirms_only_after_the_change_had_time_to_take_effect(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=REACHABLE))
    began = device.now
    device.wait(rollback.STABLE_SECONDS)
    assert device.ask_at == began + rollback.SETTLE_SECONDS
    device.heard_at = began + rollback.SETTLE_SECONDS - 0.1
    device.wait(10)
    assert device.waits()
    device.heard_at = device.now
    device.wait(1)
    assert not device.waits()
    device.wait(1000)
    assert device.runs == "v2"


def test_an_exchange_does_not_confirm_a_change_with_manual_confirmation(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=MANUAL))
    device.wait(20)
    device.heard_at = device.now
    device.wait(100)
    assert device.gave_up == ("v2", "ConfirmTimedOut")


def test_an_unconfirmed_first_version_is_removed() -> None:
    device = RollbackDevice()
    device.converge(item("v1", confirm=REACHABLE))
    device.wait(120)
    assert (device.process, device.gave_up) == (None, ("v1", "ConfirmTimedOut"))
    device.reboot()
    device.wait(1000)
    assert (device.process, device.starts) == (None, ["v1"])
    device.converge(item("v2"))
    assert device.runs == "v2"


def test_each_reboot_leaves_half_of_the_window(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=REACHABLE))
    device.reboot()
    device.reboot()
    device.wait(29)
    assert device.runs == "v2"
    device.wait(1)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "ConfirmTimedOut"))


def test_a_rollback_that_a_reboot_interrupted_is_completed(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=MANUAL))
    device.now += 120
    seen = ObservedDevice(boot_id=device.boot, observed={UID: device.process} if device.process else {})
    plan = reconcile(
        Desired(device_name="leaf-1", items=(item("v2", confirm=MANUAL),)), seen, device.memory, device.now
    )
    device.memory = dict(plan.memory)  # on disk, and then the power goes
    device.reboot()
    assert (device.runs, device.gave_up) == ("v1", ("v2", "ConfirmTimedOut"))


def cut_before_it_is_proven(device: RollbackDevice, *, by_init: bool = False) -> None:
    device.wait(4)
    device.reboot(by_init=by_init)
    device.wait(4)


@pytest.mark.parametrize("by_init", [False, True])
def test_a_version_that_makes_the_device_reboot_is_rolled_back(device: RollbackDevice, by_init: bool) -> None:
    device.converge(item("v2"))
    for count in range(1, CRASH_LOOP_COUNT):
        cut_before_it_is_proven(device, by_init=by_init)
        assert (device.runs, device.record.failures, device.record.restart_count) == ("v2", count, count)
    cut_before_it_is_proven(device, by_init=by_init)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "CrashLoop"))
    assert device.record.rollback is not None
    assert "3 times in a row, 3 of them because the device rebooted" in device.record.rollback.message
    for _ in range(5):
        device.reboot(by_init=by_init)
    assert (device.runs, device.record.last_good) == ("v1", Revision(item=item("v1")))


@pytest.mark.parametrize("proven", [False, True])
def test_a_version_that_shutting_down_ends_counts_as_cut_once_and_never_when_it_is_proven(
    device: RollbackDevice, proven: bool
) -> None:
    device.converge(item("v2", check=PROBE))
    for count in range(1, 5 if proven else CRASH_LOOP_COUNT):
        device.wait(PROVING_SECONDS if proven else 4)
        assert device.process is not None
        device.process = replace(device.process, running=False, exit_code=143, termination_reason="Signal:SIGTERM")
        device.converge()  # the agent sees the end before it is ended itself
        device.reboot()
        assert (device.record.failures, device.record.reboots) == ((0, 0) if proven else (count, count))
        device.wait(4)
        assert (device.runs, device.gave_up) == ("v2", None)


def test_a_reboot_during_a_start_and_crashes_count_alike(device: RollbackDevice) -> None:
    device.converge(item("v2"))
    device.memory = {UID: replace(device.record, stage=ProcessStage.STARTING)}  # as the disk has it
    device.reboot()
    device.wait(crash_delay(1))
    device.end(1)
    device.wait(1)
    device.reboot()  # while it waits for its next start
    assert (device.runs, device.record.failures) == (None, 2)
    device.wait(crash_delay(2))
    device.wait(1)
    assert device.runs == "v2"
    device.reboot()
    assert (device.runs, device.gave_up) == ("v1", ("v2", "CrashLoop"))


@pytest.mark.parametrize(
    ("confirm", "ready", "seconds"),
    [(None, None, 10), (None, 45, 45), (replace(REACHABLE, timeout_seconds=90), 45, 90), (None, 3, 10)],
)
def test_a_version_that_was_up_long_enough_is_never_rolled_back_for_reboots(
    device: RollbackDevice, confirm: Confirm | None, ready: int | None, seconds: int
) -> None:
    wanted = replace(item("v2", confirm=confirm, check=PROBE), min_ready_seconds=ready)
    device.converge(wanted)
    device.confirmed = {UID: "v2"}
    device.wait(seconds - 1)
    device.reboot()
    device.wait(crash_delay(1))
    device.wait(seconds - 1)
    assert not reboot.is_proven(device.record)
    device.wait(1)
    assert reboot.is_proven(device.record)
    for _ in range(2 * CRASH_LOOP_COUNT):
        device.reboot()
        assert (device.runs, device.record.failures) == ("v2", 0)
    assert device.gave_up is None


@pytest.mark.parametrize(
    ("wanted", "proving", "seconds"),
    [
        (item("v2"), 10, 10),
        (replace(item("v2"), min_ready_seconds=45), 10, 45),
        (replace(item("v2"), min_ready_seconds=3), 10, 10),
        (item("v2"), 30, 30),
        (item("v2", confirm=MANUAL), 10, 60),
    ],
)
def test_a_rollout_relies_on_a_version_that_ran_for_long_enough_and_was_confirmed(
    device: RollbackDevice, wanted: DesiredItem, proving: float, seconds: int
) -> None:
    device.proving = proving

    def waits() -> bool:
        return reboot.is_on_trial(device.record, device.now, proving)

    assert not waits()
    device.converge(wanted)
    device.wait(4)
    device.end(1)
    device.converge()
    device.wait(crash_delay(1))  # each run starts over
    for _ in range(seconds):
        assert (device.runs, waits()) == ("v2", True)
        if device.now >= device.record.started_at + seconds - 1:
            device.confirmed = {UID: "v2"}
        device.wait(1)
    assert (device.runs, waits()) == ("v2", False)
    device.end(1)
    device.converge()
    assert waits() == (wanted.spec.confirm is not None)  # its trial is not over for the device
    device.wait(crash_delay(2))
    device.wait(STABILITY_WINDOW_SECONDS)
    device.reboot()
    assert not waits()
    device.converge(item("v1"))
    assert (device.runs, waits()) == ("v1", False)  # it was good once


def test_what_is_no_service_or_was_never_started_is_not_on_trial() -> None:
    assert not reboot.is_on_trial(Record(uid=UID), 0.0, PROVING_SECONDS)
    job = Revision(item=item("job", policy=RestartPolicy.NEVER))
    assert not reboot.is_on_trial(Record(uid=UID, current=job), 0.0, PROVING_SECONDS)


def test_a_process_is_started_at_boot_only_once_its_version_is_proven(device: RollbackDevice) -> None:
    def repairs(known: Record, now: float, **more: Any) -> tuple[Action, ...]:
        assert process is not None
        seen = ObservedDevice(boot_id=device.boot, observed={UID: replace(process, at_boot=False)}, **more)
        return reconcile(Desired(device_name="leaf-1", items=(item("v2"),)), seen, {UID: known}, now).actions

    device.converge(item("v2"))
    process, began = device.process, device.now
    assert device.at_boot == [False, False]
    assert repairs(device.record, began + 9) == ()
    assert repairs(device.record, began + 10, freeze="held") == ()
    enabled = Repair(revision=Revision(item=item("v2")), at_boot=True, edited=False)
    assert repairs(device.record, began + 10) == (enabled,)
    device.wait(10)
    device.end(1)
    device.converge()
    device.wait(1)
    assert device.at_boot[-1]


def test_a_reboot_counts_against_the_newest_version_on_trial_alone() -> None:
    def process(uid: str, trial: int, **more: Any) -> Record:
        current = Revision(item=replace(item("v2"), uid=uid))
        known = Record(uid=uid, stage=ProcessStage.RUNNING, current=current, boot_id="boot-1", trial=trial)
        return replace(known, **more)

    job = Revision(item=item("job", policy=RestartPolicy.NEVER))
    memory = {
        one.uid: one
        for one in (
            process("older", 1), process("newer", 2), process("as new", 2), process("proven", 3, proven=True),
            process("job", 4, current=job), process("ended", 5, stage=ProcessStage.COMPLETED),
            process("adopted", 6, boot_id=""), Record(uid="never started"),
        )
    }  # fmt: skip
    counted = reboot.counted(memory, "boot-2")
    assert {uid for uid, record in counted.items() if record.failures} == {"newer", "as new"}
    assert reboot.counted(counted, "boot-2") == counted
    assert reboot.counted(memory, "boot-1") == memory


def test_versions_are_numbered_in_the_order_in_which_they_begin() -> None:
    def names(*uids: str) -> Desired:
        return Desired(device_name="leaf-1", items=tuple(replace(item("v1"), uid=uid, name=uid) for uid in uids))

    seen = ObservedDevice(boot_id="boot-1")
    first = reconcile(names("a", "b"), seen, {}, 10.0)
    second = reconcile(names("a", "b", "c"), seen, first.memory, 11.0)
    assert {uid: record.trial for uid, record in second.memory.items()} == {"a": 1, "b": 1, "c": 2}


JOBS = [RestartPolicy.NEVER, RestartPolicy.ON_FAILURE]
FLASHED = PostCheck(command=("/bin/flashed",), period_seconds=7, timeout_seconds=3, failure_threshold=2)


def flashing(policy: RestartPolicy = RestartPolicy.ON_FAILURE) -> RollbackDevice:
    """Return a device that runs a job which reboots it."""
    device = RollbackDevice()
    device.converge(item("flash", policy=policy, post_check=FLASHED))
    assert device.runs == "flash"
    return device


def answer(device: RollbackDevice, healthy: bool | None) -> None:
    """Let the post-check say something."""
    handle = reboot.check_handle(device.record)
    device.health = {UID: Health(handle=handle, next_at=0, healthy=healthy)}
    device.converge()


def reported(device: RollbackDevice) -> Observation:
    return observation(device.record, device.process, device.health.get(UID), None)


@pytest.mark.parametrize("policy", JOBS)
@pytest.mark.parametrize("stage", [ProcessStage.STARTING, ProcessStage.RUNNING])
def test_a_job_that_reboots_the_device_as_expected_is_not_run_again_and_its_post_check_decides(
    policy: RestartPolicy, stage: ProcessStage
) -> None:
    device = flashing(policy)
    device.memory = {UID: replace(device.record, stage=stage)}
    device.reboot()
    seen = reported(device)
    assert (seen.process_started, seen.healthy, seen.exit_code, seen.error_message) == (True, None, None, None)
    assert "postCheck decides" in (seen.warning_message or "")
    check = reboot.check_of(device.record)
    assert check is not None
    assert (check.command, check.period_seconds, check.timeout_seconds) == (("/bin/flashed",), 7, 3)
    assert (check.failure_threshold, device.record.started_at) == (2, device.now)
    answer(device, None)
    assert device.record.checking
    answer(device, healthy=True)
    for _ in range(5):
        device.reboot()
        device.wait(1000)
    seen = reported(device)
    assert (seen.process_started, seen.healthy, seen.exit_code, seen.error_message) == (True, True, 0, None)
    assert (device.starts, reboot.check_of(device.record)) == (["flash"], None)


def test_a_post_check_that_fails_is_final_until_the_spec_changes() -> None:
    device = flashing()
    device.reboot()
    device.health = {UID: Health(handle="an earlier instance", next_at=0, healthy=True)}
    device.converge()
    assert device.record.checking
    answer(device, healthy=False)
    seen = reported(device)
    assert (seen.process_started, seen.healthy, seen.exit_code) == (False, False, None)
    assert (seen.termination_reason, "postCheck.command" in (seen.error_message or "")) == ("PostCheckFailed", True)
    device.reboot()
    device.wait(1000)
    assert device.starts == ["flash"]
    device.converge(item("again", policy=RestartPolicy.ON_FAILURE, post_check=FLASHED))
    assert (device.starts, device.record.attempts, device.record.checking) == (["flash", "again"], 0, False)


def test_a_post_check_that_reboots_cut_again_and_again_fails() -> None:
    device = flashing()
    for _ in range(reboot.MAX_ATTEMPTS):
        device.reboot()
        assert device.record.checking
    device.reboot()
    assert (device.record.checking, reported(device).termination_reason) == (False, "PostCheckFailed")


@pytest.mark.parametrize("policy", JOBS)
def test_a_recorded_success_is_final_even_if_the_agent_did_not_record_it(policy: RestartPolicy) -> None:
    device = flashing(policy)
    device.end(0)  # and the device reboots before the agent sees it
    trace = device.process
    device.boot, device.now = "boot-2", 5.0
    device.converge()
    assert (device.process, device.record.exit_code, device.record.checking) == (trace, 0, False)
    device.reboot()
    assert (device.starts, reported(device).exit_code) == (["flash"], 0)


@pytest.mark.parametrize("policy", JOBS)
def test_a_job_that_was_ended_to_shut_down_the_device_is_cut_by_the_reboot_too(policy: RestartPolicy) -> None:
    device = flashing(policy)
    assert device.process is not None
    device.process = replace(device.process, running=False, exit_code=143, termination_reason="Signal:SIGTERM")
    device.converge()
    device.wait(reboot.JOB_FIRST_SECONDS - 1)
    assert device.starts == ["flash"], "started again while the device shuts down"
    device.reboot()
    assert (device.record.checking, device.starts) == (True, ["flash"])


def test_a_job_that_failed_by_itself_is_not_checked_after_a_later_reboot() -> None:
    device = flashing(RestartPolicy.NEVER)
    device.end(1)
    device.converge()
    device.reboot()
    assert (device.record.checking, device.record.exit_code, device.starts) == (False, 1, ["flash"])


def test_a_job_whose_record_is_lost_is_checked_rather_than_run_again() -> None:
    device = flashing()
    device.end(1)
    device.memory = {}
    device.boot = "boot-2"
    device.converge()
    assert (device.record.checking, device.starts) == (True, ["flash"])


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_that_reboots_cut_runs_again_after_a_while_and_not_without_end(killed: bool) -> None:
    device = RollbackDevice()
    device.converge(item("job", policy=RestartPolicy.ON_FAILURE))
    for attempt, seconds in enumerate((30.0, 60.0), start=1):
        if killed:
            assert device.process is not None
            device.process = replace(device.process, running=False, exit_code=143, termination_reason="Signal:SIGTERM")
            device.converge()
        device.now = 5.0
        device.boot, device.process = device.boot + "+", None
        device.converge()
        assert (device.runs, device.record.attempts, device.record.not_before) == (None, attempt, seconds)
        device.wait(seconds - 5 - 0.1)
        assert device.runs is None
        device.wait(0.1)
        assert device.runs == "job"
    device.reboot()
    for _ in range(3):
        device.wait(10_000)
        device.reboot()
    seen = reported(device)
    assert (device.starts, seen.process_started, seen.termination_reason) == (["job"] * 3, False, "Rebooted")
    assert "rebooted 3 times while it ran" in (seen.error_message or "")


def test_a_job_that_waits_after_a_failure_goes_on_waiting_after_a_reboot_that_counts_for_nothing() -> None:
    device = RollbackDevice()
    device.converge(item("job", policy=RestartPolicy.ON_FAILURE))
    device.end(1)
    device.converge()
    for _ in range(5):
        device.reboot()
        assert (device.record.attempts, device.record.not_before) == (0, device.now + crash_delay(1))
    device.wait(crash_delay(1))
    assert device.runs == "job"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"post_check": None}, "go together"),
        ({"restart_policy": RestartPolicy.ALWAYS}, "only a job may reboot the device"),
    ],
)
def test_what_an_old_api_server_lets_through_is_refused_by_the_device(changed: dict[str, Any], words: str) -> None:
    device, wanted = RollbackDevice(), item("flash", policy=RestartPolicy.NEVER, post_check=FLASHED)
    device.converge(replace(wanted, spec=replace(wanted.spec, **changed)))
    assert device.starts == []
    assert device.record.failure is not None
    assert (device.record.failure.reason, words in device.record.failure.message) == ("InvalidSpec", True)


def test_during_a_freeze_a_failing_version_is_not_rolled_back_but_an_unconfirmed_one_is(device: RollbackDevice) -> None:
    device.converge(item("v2", confirm=MANUAL))
    device.freeze = "held by /run/praetor/hold"
    crash_until_given_up(device)
    assert (device.runs, device.gave_up) == ("v2", None)
    device.wait(120)
    assert (device.runs, device.gave_up) == ("v1", ("v2", "ConfirmTimedOut"))


def test_during_a_freeze_nothing_is_started_changed_or_stopped(device: RollbackDevice) -> None:
    device.freeze = "held"
    device.converge(item("v2"))
    assert device.runs == "v1"
    device.wanted = None
    device.converge()
    assert device.runs == "v1"
    device.end(1)
    device.converge()
    device.wait(10)
    assert device.runs == "v1"
    device.freeze = None
    device.converge()
    assert device.process is None
    fresh = RollbackDevice(freeze="held")
    fresh.converge(item("v1"))
    assert fresh.starts == []
