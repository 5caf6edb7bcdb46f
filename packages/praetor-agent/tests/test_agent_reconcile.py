# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_agent.core import files, reboot, refresh, restart, rollback
from praetor_agent.core.allowances import Allowances
from praetor_agent.core.faults import fault, known_faults
from praetor_agent.core.health import Health
from praetor_agent.core.model import (
    ArtifactState,
    Failure,
    FailureReason,
    Memory,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
    Rollback,
    TerminationReason,
)
from praetor_agent.core.reconcile import Decision, Fetch, Refresh, Remove, Repair, Start, Stop, reconcile
from praetor_agent.core.report import observations
from praetor_agent.state import durable
from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_api.files import File, OnChange, ReloadSignal
from praetor_api.keyrefs import ConfigMapKeyRef, SecretKeyRef
from praetor_api.protocol import (
    Desired,
    DesiredItem,
    FileValue,
    InvalidItem,
    Observation,
    PendingReason,
    RollbackReason,
)
from praetor_api.spec import (
    Artifact,
    ArtifactType,
    Backend,
    Capabilities,
    Container,
    ContainerDevice,
    ContainerVolume,
    ExecProbe,
    Execution,
    HealthCheck,
    ProcessSpec,
    RestartPolicy,
)
from praetor_api.wire import Fault, read, write

UID = "uid-1"
BOOT = "boot-1"


def item(
    version: str = "v1",
    *,
    policy: RestartPolicy = RestartPolicy.ALWAYS,
    artifact: bool = False,
    backend: Backend = Backend.PROCESS,
    uid: str = UID,
) -> DesiredItem:
    fetched = Artifact(type=ArtifactType.FILE, url=f"/srv/{version}") if artifact else None
    execution = Execution(backend=backend, command=("/bin/sleep",), termination_grace_period_seconds=30)
    spec = ProcessSpec(artifact=fetched, execution=execution, restart_policy=policy)
    return DesiredItem(uid=uid, namespace="net", name="fw", spec=spec, spec_hash=version)


def wanted(*items: DesiredItem, invalid: tuple[InvalidItem, ...] = ()) -> Desired:
    return Desired(device_name="leaf-1", items=items, invalid=invalid)


def running(version: str = "v1", handle: str = "h1", backend: Backend = Backend.PROCESS) -> Observed:
    return Observed(uid=UID, backend=backend, spec_hash=version, running=True, handle=handle, pid=7)


def dead(code: int | None = 0, version: str = "v1", backend: Backend = Backend.PROCESS) -> Observed:
    reason = None if code is None else "Completed" if code == 0 else "Error"
    return Observed(
        uid=UID,
        backend=backend,
        spec_hash=version,
        running=False,
        handle="h1",
        exit_code=code,
        termination_reason=reason,
    )


def observed(*seen: Observed, boot: str = BOOT, artifacts: dict[str, ArtifactState] | None = None) -> ObservedDevice:
    return ObservedDevice(boot_id=boot, observed={one.uid: one for one in seen}, artifacts=artifacts or {})


def record(given_item: DesiredItem | None = None, **more: object) -> Record:
    given_item = given_item or item()
    known = Record(
        uid=UID,
        namespace="net",
        name="fw",
        stage=ProcessStage.RUNNING,
        current=Revision(item=given_item, artifact_path="/store/fw" if given_item.spec.artifact else None),
        boot_id=BOOT,
        handle="h1",
    )
    return replace(known, **more)  # type: ignore[arg-type]


def plan_of(desired: Desired, seen: ObservedDevice, known: Record | None = None, now: float = 100.0) -> Decision:
    return reconcile(desired, seen, {known.uid: known} if known else {}, now)


def test_a_new_process_is_written_down_and_started() -> None:
    plan = plan_of(wanted(item()), observed())
    assert plan.actions == (Start(revision=Revision(item=item())),)
    assert plan.memory[UID].stage is ProcessStage.STARTING
    assert plan.memory[UID].boot_id == BOOT


def test_a_process_that_runs_as_desired_is_left_alone() -> None:
    plan = plan_of(wanted(item()), observed(running()), record())
    assert plan.actions == ()
    assert plan.memory == {UID: record(healthy_since=100.0, proven=True)}
    assert plan.wake_at == 100 + rollback.GOOD_SECONDS
    good = plan_of(wanted(item()), observed(running()), plan.memory[UID], 100 + rollback.GOOD_SECONDS)
    assert good.memory[UID].last_good == Revision(item=item())
    assert plan_of(wanted(item()), observed(running()), good.memory[UID], 200) == Decision(memory=good.memory)


def test_a_changed_spec_stops_the_old_process_then_starts_the_new_one() -> None:
    stopping = plan_of(wanted(item("v2")), observed(running()), record())
    assert stopping.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    assert stopping.wake_at == 130
    ended = reconcile(wanted(item("v2")), observed(dead(143)), stopping.memory, 101)
    assert ended.actions == (Start(revision=Revision(item=item("v2"))),)
    assert ended.memory[UID].restart_count == 0
    assert ended.memory[UID].stop_deadline is None


def test_a_process_that_does_not_end_within_its_grace_is_ended_by_force_again_and_again() -> None:
    known = record(stop_deadline=130.0)
    waiting = plan_of(wanted(), observed(running()), known, 129)
    assert (waiting.actions, waiting.wake_at) == ((), 130)
    forced = plan_of(wanted(), observed(running()), known, 130)
    assert forced.actions == (Stop(uid=UID, backend=Backend.PROCESS, force=True),)
    assert forced.wake_at == 130 + restart.KILL_AGAIN_SECONDS


def test_a_spec_that_returns_while_its_process_is_being_stopped_is_started_again_with_new_counters() -> None:
    known = record(stop_deadline=130.0, restart_count=3)
    assert plan_of(wanted(item()), observed(running()), known).actions == ()
    plan = plan_of(wanted(item()), observed(dead(143)), known)
    assert plan.actions == (Start(revision=Revision(item=item())),)
    assert plan.memory[UID].restart_count == 0


def test_a_process_that_is_no_longer_desired_is_stopped_and_removed() -> None:
    assert plan_of(wanted(), observed(running()), record()).actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    gone = plan_of(wanted(), observed(dead()), record())
    assert gone.actions == (Remove(uid=UID, backend=Backend.PROCESS),)
    assert gone.memory == {}
    assert plan_of(wanted(), observed(), record()) == Decision(memory={})


def test_a_process_that_memory_does_not_know_is_stopped_without_grace_when_not_desired() -> None:
    plan = plan_of(wanted(), observed(running()))
    assert plan.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    assert plan.memory[UID].stop_deadline == 100


@pytest.mark.parametrize("known", [True, False], ids=["in-memory", "memory-lost"])
def test_what_another_name_of_this_device_started_ends_once_the_new_name_has_a_process(known: bool) -> None:
    seen, kept = observed(replace(running(), renamed=True)), record() if known else None
    waits = plan_of(wanted(), seen, kept)
    assert (waits.actions, UID in waits.memory) == ((), True)
    other = replace(item(uid="uid-2"), name="other")
    plan = plan_of(wanted(other), seen, kept)
    assert Stop(uid=UID, backend=Backend.PROCESS) in plan.actions
    ended = plan_of(wanted(other), observed(replace(dead(), renamed=True)), plan.memory[UID])
    assert Remove(uid=UID, backend=Backend.PROCESS) in ended.actions
    broken = InvalidItem(uid="uid-2", namespace="net", name="other", spec_hash="v", faults=())
    assert plan_of(wanted(invalid=(broken,)), seen, kept).actions != ()


@pytest.mark.parametrize("renamed", [False, True])
def test_what_another_installation_started_is_never_stopped_but_adopted_if_it_is_desired(renamed: bool) -> None:
    unit = replace(running(backend=Backend.SYSTEMD), unknown=True, renamed=renamed, at_boot=False)
    for desired in (wanted(), wanted(replace(item(uid="uid-2"), name="other"))):
        plan = plan_of(desired, observed(unit))
        assert not [action for action in plan.actions if not isinstance(action, Start)]
        assert UID not in plan.memory
    adopted = plan_of(wanted(item(backend=Backend.SYSTEMD)), observed(unit))
    assert adopted.actions == (Repair(revision=Revision(item=item(backend=Backend.SYSTEMD)), edited=False),)
    container = replace(running(backend=Backend.CONTAINER), unknown=True)  # whose labels cannot be written again
    assert plan_of(wanted(item(backend=Backend.CONTAINER)), observed(container)).actions == ()


def test_what_an_older_agent_started_without_an_id_is_known_by_memory() -> None:
    assert plan_of(wanted(), observed(replace(running(), unknown=True)), record()).actions == (
        Stop(uid=UID, backend=Backend.PROCESS),
    )


def test_a_process_missing_from_memory_is_adopted() -> None:
    plan = plan_of(wanted(item()), observed(running()))
    assert plan.actions == ()
    assert plan.memory[UID].stage is ProcessStage.RUNNING


def test_a_version_that_runs_is_kept_though_memory_of_before_its_start_was_restored() -> None:
    plan = plan_of(wanted(item("v2")), observed(running("v2")), record(item("v1")))
    assert plan.actions == ()
    current = plan.memory[UID].current
    assert current is not None
    assert (current.spec_hash, plan.memory[UID].stage) == ("v2", ProcessStage.RUNNING)


def test_a_run_that_memory_lost_is_not_repeated() -> None:
    plan = plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(dead(0)))
    assert plan.actions == ()
    assert plan.memory[UID].stage is ProcessStage.COMPLETED


def test_an_old_version_that_memory_lost_gives_way_to_the_new_one() -> None:
    assert plan_of(wanted(item("v2")), observed(running("v1"))).actions == (Stop(uid=UID, backend=Backend.PROCESS),)


def test_a_crash_is_restarted_after_its_backoff_and_counted() -> None:
    crashed = plan_of(wanted(item()), observed(dead(1)), record())
    assert (crashed.actions, crashed.wake_at) == ((), 101)
    again = reconcile(wanted(item()), observed(dead(1)), crashed.memory, 101)
    assert again.actions == (Start(revision=Revision(item=item())),)
    assert again.memory[UID].restart_count == 1
    assert again.memory[UID].exit_code == 1


def test_crashes_in_a_row_wait_longer_until_one_was_up_for_long() -> None:
    soon = record(failures=3, started_at=90.0)
    assert plan_of(wanted(item()), observed(dead(1)), soon).wake_at == 108
    late = record(failures=3, started_at=100.0 - STABILITY_WINDOW_SECONDS)
    assert plan_of(wanted(item()), observed(dead(1)), late).wake_at == 101


def test_failures_are_forgotten_while_a_process_is_up() -> None:
    known = record(failures=3, started_at=90.0)
    early = plan_of(wanted(item()), observed(running()), replace(known, last_good=known.current, healthy_since=92.0))
    assert early.wake_at == 90 + STABILITY_WINDOW_SECONDS
    late = plan_of(wanted(item()), observed(running()), known, 90 + STABILITY_WINDOW_SECONDS)
    assert late.memory[UID].failures == 0


def test_an_instance_that_the_agent_did_not_start_counts_as_a_restart() -> None:
    plan = plan_of(wanted(item()), observed(running(handle="h2")), record())
    assert plan.actions == ()
    assert (plan.memory[UID].restart_count, plan.memory[UID].handle, plan.memory[UID].started_at) == (1, "h2", 100)
    assert plan.memory[UID].drift_count == 1


def test_an_instance_that_came_up_at_boot_or_that_we_started_is_no_drift() -> None:
    booted = plan_of(wanted(item()), observed(running(handle="h2"), boot="boot-2"), record())
    assert booted.memory[UID].drift_count == 0
    ours = record(stage=ProcessStage.STARTING, handle=None)
    assert plan_of(wanted(item()), observed(running(handle="h2")), ours).memory[UID].drift_count == 0


def test_an_edited_definition_is_written_again_and_the_process_runs_on() -> None:
    edited = replace(running(), edited=True)
    plan = plan_of(wanted(item()), observed(edited), record())
    assert plan.actions == (Repair(revision=Revision(item=item()), at_boot=True),)
    assert plan.memory == plan_of(wanted(item()), observed(running()), record()).memory
    assert restart.repaired(plan.memory[UID]).drift_count == 1


def test_nothing_is_repaired_during_a_freeze_or_unless_the_process_keeps_running() -> None:
    edited = replace(running(), edited=True)
    assert plan_of(wanted(item()), replace(observed(edited), freeze="by x"), record()).actions == ()
    ended = replace(dead(1), edited=True)
    assert plan_of(wanted(item()), observed(ended), record(stage=ProcessStage.WAITING, not_before=200.0)).actions == ()
    stop = (Stop(uid=UID, backend=Backend.PROCESS),)
    assert plan_of(wanted(item("v2")), observed(edited), record()).actions == stop
    assert plan_of(wanted(), observed(edited), record()).actions == stop


def test_the_old_version_is_repaired_as_what_it_is_while_the_artifact_of_the_new_one_is_missing() -> None:
    new = item("v2", artifact=True)
    plan = plan_of(wanted(new), observed(replace(running(), edited=True)), record())
    assert plan.actions == (Fetch(item=new), Repair(revision=Revision(item=item()), at_boot=True))


def test_an_edited_process_that_memory_lost_is_repaired_when_its_artifact_is_there_to_be_named() -> None:
    used, edited = item(artifact=True), replace(running(), edited=True)
    lost = plan_of(wanted(used), observed(edited))
    assert lost.actions == (Fetch(item=used),)
    state = ArtifactState(path="/store/fw", digest="sha256:1")
    found = reconcile(wanted(used), observed(edited, artifacts={"v1": state}), lost.memory, 101)
    revision = Revision(item=used, artifact_path="/store/fw", artifact_digest="sha256:1")
    assert found.actions == (Repair(revision=revision),)


def test_the_output_is_wanted_once_after_each_end_and_not_of_what_never_ran() -> None:
    never = item(policy=RestartPolicy.NEVER)
    assert not restart.wants_output(record())
    done = plan_of(wanted(never), observed(dead(3)), record(never)).memory[UID]
    assert restart.wants_output(done)
    assert not restart.wants_output(replace(done, output_tail=""))
    crashed = plan_of(wanted(item()), observed(dead(1)), record(output_tail="of the run before")).memory[UID]
    assert restart.wants_output(crashed)
    again = reconcile(wanted(item()), observed(dead(1)), {UID: replace(crashed, output_tail="last words")}, 200).memory
    assert again[UID].output_tail == "last words"
    assert not restart.wants_output(restart.start_failed(record(never), "no such file", 100))
    assert not restart.wants_output(
        plan_of(wanted(item("v2")), observed(dead(143)), record(stop_deadline=130.0)).memory[UID]
    )


def test_after_a_reboot_the_output_is_wanted_before_the_next_run_begins() -> None:
    plan = plan_of(wanted(item()), observed(boot="boot-2"), record(proven=True))
    assert plan.actions == (Start(revision=Revision(item=item()), at_boot=True),)
    assert restart.wants_output(plan.memory[UID])


@pytest.mark.parametrize(
    ("policy", "code", "stage"),
    [
        (RestartPolicy.ALWAYS, 0, ProcessStage.WAITING),
        (RestartPolicy.ALWAYS, 1, ProcessStage.WAITING),
        (RestartPolicy.ON_FAILURE, 0, ProcessStage.COMPLETED),
        (RestartPolicy.ON_FAILURE, 1, ProcessStage.WAITING),
        (RestartPolicy.ON_FAILURE, None, ProcessStage.WAITING),
        (RestartPolicy.NEVER, 0, ProcessStage.COMPLETED),
        (RestartPolicy.NEVER, 1, ProcessStage.COMPLETED),
        (RestartPolicy.NEVER, None, ProcessStage.COMPLETED),
    ],
)
def test_the_restart_policy_decides_what_becomes_of_a_process_that_ended(
    policy: RestartPolicy, code: int | None, stage: ProcessStage
) -> None:
    wanted_item = item(policy=policy)
    ended = plan_of(wanted(wanted_item), observed(dead(code)), record(wanted_item)).memory[UID]
    assert (ended.stage, ended.exit_code) == (stage, code)


def test_what_ran_to_completion_is_not_run_again_before_its_spec_changes() -> None:
    done = record(item(policy=RestartPolicy.NEVER), stage=ProcessStage.COMPLETED, exit_code=0)
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(dead(0)), done).actions == ()
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(boot="boot-2"), done).actions == ()
    changed = plan_of(wanted(item("v2", policy=RestartPolicy.NEVER)), observed(dead(0)), done)
    assert changed.actions == (Start(revision=Revision(item=item("v2", policy=RestartPolicy.NEVER))),)
    assert changed.memory[UID].exit_code is None


def test_after_a_reboot_a_process_is_started_at_once_and_nothing_counts_against_it() -> None:
    plan = plan_of(wanted(item()), observed(boot="boot-2"), record(failures=5, not_before=9000.0, proven=True))
    assert plan.actions == (Start(revision=Revision(item=item()), at_boot=True),)
    assert (plan.memory[UID].failures, plan.memory[UID].boot_id) == (0, "boot-2")


def test_a_process_that_came_up_by_itself_after_a_reboot_is_kept() -> None:
    plan = plan_of(wanted(item()), observed(running(handle="h2"), boot="boot-2"), record(started_at=9000.0))
    assert plan.actions == ()
    assert (plan.memory[UID].boot_id, plan.memory[UID].started_at) == ("boot-2", 100)


def test_a_process_that_came_up_by_itself_after_a_power_cut_during_its_start_is_kept_and_counted_as_restarted() -> None:
    cut = record(stage=ProcessStage.STARTING, started_at=9000.0, handle=None)
    plan = plan_of(wanted(item()), observed(running(handle="h2"), boot="boot-2"), cut)
    known = plan.memory[UID]
    assert (plan.actions, known.stage, known.handle) == ((), ProcessStage.RUNNING, "h2")
    assert (known.boot_id, known.started_at, known.restart_count) == ("boot-2", 100, 1)
    assert known.drift_count == 0


def test_a_run_that_a_reboot_cut_short_is_repeated_only_on_failure() -> None:
    never, on_failure = item(policy=RestartPolicy.NEVER), item(policy=RestartPolicy.ON_FAILURE)
    cut = plan_of(wanted(never), observed(boot="boot-2"), record(never))
    assert cut.actions == ()
    assert cut.memory[UID].termination_reason == TerminationReason.LOST
    assert plan_of(wanted(on_failure), observed(boot="boot-2"), record(on_failure)).actions


def test_a_start_that_was_written_down_but_never_made_is_made() -> None:
    known = record(item(policy=RestartPolicy.NEVER), stage=ProcessStage.STARTING, handle=None)
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(), known).actions
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(dead(0)), known).actions == ()
    never_ran = replace(dead(None), handle=None)
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(never_ran), known).actions


def test_a_start_that_a_reboot_hides_is_not_repeated_for_never() -> None:
    known = record(item(policy=RestartPolicy.NEVER), stage=ProcessStage.STARTING)
    assert plan_of(wanted(item(policy=RestartPolicy.NEVER)), observed(boot="boot-2"), known).actions == ()


def test_the_trace_of_an_earlier_run_is_not_mistaken_for_the_end_of_a_job_that_never_ran() -> None:
    """As with systemd: the unit has the new spec already, but its last run is still that of the old one."""
    job = item("v2", policy=RestartPolicy.NEVER)
    completed = record(item(policy=RestartPolicy.NEVER), stage=ProcessStage.COMPLETED)
    written = plan_of(wanted(job), observed(dead()), completed).memory[UID]
    assert plan_of(wanted(job), observed(dead(version="v2")), written).actions == (Start(revision=Revision(item=job)),)
    ran = observed(replace(dead(version="v2"), handle="h2"))
    plan = plan_of(wanted(job), ran, written)
    assert (plan.actions, plan.memory[UID].stage) == ((), ProcessStage.COMPLETED)


def test_a_process_that_was_deleted_and_made_again_waits_for_the_end_of_the_one_before() -> None:
    again = item(uid="uid-2")
    first = plan_of(wanted(again), observed(running()), record())
    assert first.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    after = reconcile(wanted(again), observed(dead(143)), first.memory, 101.0)
    assert after.actions == (Start(revision=Revision(item=again)), Remove(uid=UID, backend=Backend.PROCESS))


GREEN = replace(item("g1", uid="uid-g"), name="green")
NEXT_GREEN = replace(GREEN, spec_hash="g2")


def of_green(seen: Observed) -> Observed:
    return replace(seen, uid="uid-g")


@pytest.mark.parametrize("backend", list(Backend))
def test_a_start_waits_for_what_left_the_desired_state_at_most_its_grace_period(backend: Backend) -> None:
    blue, runs = item(backend=backend), running(backend=backend)
    first = plan_of(wanted(GREEN), observed(runs), record(blue))
    assert first.actions == (Stop(uid=UID, backend=backend),)
    why = first.memory["uid-g"].failure
    assert why == Failure(reason="WaitingForOthersToEnd", message="waits for net/fw to end")
    assert (first.memory["uid-g"].stage, first.memory["uid-g"].failures) == (ProcessStage.PENDING, 0)
    seen = observations(wanted(GREEN), first.memory, observed(runs), {}, 0.0)["uid-g"]
    assert (seen.error_message, seen.observed_spec_hash, seen.process_started) == (None, "", False)
    assert (seen.pending_reason, seen.pending_message) == ("WaitingForOthersToEnd", "waits for net/fw to end")
    waiting = reconcile(wanted(GREEN), observed(runs), first.memory, 129.0)
    assert (waiting.actions, waiting.wake_at) == ((), 130)
    ended = reconcile(wanted(GREEN), observed(dead(143, backend=backend)), waiting.memory, 129.5)
    assert Start(revision=Revision(item=GREEN)) in ended.actions
    assert ended.memory["uid-g"].failure is None
    forced = reconcile(wanted(GREEN), observed(runs), waiting.memory, 130.0)
    assert set(forced.actions) == {Start(revision=Revision(item=GREEN)), Stop(uid=UID, backend=backend, force=True)}


def test_an_old_version_runs_on_while_its_successor_waits_for_others() -> None:
    green = record(GREEN, uid="uid-g", name="green", proven=True)
    memory = {UID: record(stop_deadline=130.0), "uid-g": green}
    seen = observed(running(), of_green(running("g1")))
    held = reconcile(wanted(NEXT_GREEN), seen, memory, 110.0)
    assert held.actions == ()
    said = observations(wanted(NEXT_GREEN), held.memory, seen, {}, 0.0)["uid-g"]
    assert (said.observed_spec_hash, said.process_started, said.error_message) == ("g1", True, None)
    assert said.pending_reason == "WaitingForOthersToEnd"
    free = reconcile(wanted(NEXT_GREEN), observed(dead(143), of_green(running("g1"))), held.memory, 111.0)
    assert Stop(uid="uid-g", backend=Backend.PROCESS) in free.actions
    going = {**memory, "uid-g": replace(green, stop_deadline=120.0)}
    ended = observed(running(), of_green(dead(143, "g1")))
    assert reconcile(wanted(NEXT_GREEN), ended, going, 110.0).actions == (), "stopped already, so that nothing runs"


def test_a_restart_waits_for_others_only_while_its_version_is_on_trial() -> None:
    def actions(freeze: str | None = None, **more: object) -> tuple[object, ...]:
        green = record(GREEN, uid="uid-g", name="green", stage=ProcessStage.WAITING, failures=2, **more)
        seen = replace(observed(running(), of_green(dead(1, "g1"))), freeze=freeze)
        plan = reconcile(wanted(GREEN), seen, {UID: record(stop_deadline=130.0), "uid-g": green}, 110.0)
        assert plan.memory["uid-g"].failures == 2
        return plan.actions

    start = Start(revision=Revision(item=GREEN))
    assert actions() == ()
    assert actions(proven=True) == (replace(start, at_boot=True),)
    assert start in actions(freeze="held")  # which lets nothing end


def test_a_process_just_started_keeps_the_time_of_its_start() -> None:
    known = record(stage=ProcessStage.STARTING, handle=None, started_at=99.0)
    plan = plan_of(wanted(item()), observed(running()), known)
    assert (plan.memory[UID].stage, plan.memory[UID].started_at) == (ProcessStage.RUNNING, 99)
    assert plan.memory[UID].restart_count == 0


def test_the_old_version_runs_on_until_the_artifact_is_there() -> None:
    new = item("v2", artifact=True)
    waiting = plan_of(wanted(new), observed(running()), record())
    assert waiting.actions == (Fetch(item=new),)
    assert waiting.memory[UID].spec_hash == "v1"
    failure = Failure(reason="DownloadFailed", message="no", artifact_downloaded=False)
    failed = plan_of(wanted(new), observed(running(), artifacts={"v2": ArtifactState(failure=failure)}), record())
    assert failed.actions == (Fetch(item=new),)
    assert failed.memory[UID].failure == failure
    state = ArtifactState(path="/store/v2", digest="sha256:2")
    ready = plan_of(wanted(new), observed(running(), artifacts={"v2": state}), failed.memory[UID])
    assert ready.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    assert ready.memory[UID].failure is None
    revision = Revision(item=new, artifact_path="/store/v2", artifact_digest="sha256:2")
    started = plan_of(wanted(new), observed(dead(), artifacts={"v2": state}), ready.memory[UID])
    assert started.actions == (Start(revision=revision),)


def test_the_old_version_is_even_restarted_while_the_artifact_is_missing() -> None:
    plan = plan_of(wanted(item("v2", artifact=True)), observed(), record(stage=ProcessStage.WAITING))
    assert plan.actions == (Fetch(item=item("v2", artifact=True)), Start(revision=Revision(item=item("v1"))))


def test_a_first_version_waits_for_its_artifact() -> None:
    plan = plan_of(wanted(item(artifact=True)), observed())
    assert plan.actions == (Fetch(item=item(artifact=True)),)
    assert plan.memory[UID].current is None


def test_an_artifact_that_was_used_needs_no_fetching() -> None:
    used = item(artifact=True)
    plan = plan_of(wanted(used), observed(), record(used, stage=ProcessStage.WAITING))
    assert plan.actions == (Start(revision=Revision(item=used, artifact_path="/store/fw")),)


def test_the_artifact_of_an_adopted_process_is_fetched_when_it_must_be_restarted() -> None:
    used = item(artifact=True)
    assert plan_of(wanted(used), observed(running())).actions == ()
    lost = record(used, current=Revision(item=used), stage=ProcessStage.WAITING)
    assert Fetch(item=used) in plan_of(wanted(used), observed(), lost).actions


def test_a_missing_artifact_is_fetched_again_and_does_not_count_as_a_start() -> None:
    used = item(artifact=True)
    starting = restart.starting(
        record(used, stage=ProcessStage.PENDING), record(used).current or Revision(item=used), BOOT, 1
    )
    gone = restart.artifact_gone(replace(starting, last_good=starting.current))
    missing = plan_of(wanted(used), observed(), gone)
    assert Fetch(item=used) in missing.actions
    assert not [action for action in missing.actions if isinstance(action, Start)]
    again = observed(artifacts={"v1": ArtifactState(path="/store/new", digest="sha256:1")})
    assert plan_of(wanted(used), again, missing.memory[UID]).actions == (
        Start(revision=Revision(item=used, artifact_path="/store/new", artifact_digest="sha256:1"), at_boot=True),
    )
    assert missing.memory[UID].restart_count == 0


def test_a_missing_artifact_of_the_good_version_is_fetched_before_the_running_one_is_stopped() -> None:
    old, bad = item(artifact=True), item("v2")
    given_up = Rollback(spec_hash="v2", reason=RollbackReason.HEALTH_CHECK_FAILED, message="no")
    known = record(bad, last_good=Revision(item=old), rollback=given_up)
    assert plan_of(wanted(bad), observed(running("v2")), known).actions == (Fetch(item=old),)
    there = observed(running("v2"), artifacts={"v1": ArtifactState(path="/store/v1")})
    assert plan_of(wanted(bad), there, known).actions == (Stop(uid=UID, backend=Backend.PROCESS),)


def test_an_item_that_cannot_be_understood_keeps_the_good_version_running() -> None:
    bad = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="v2", faults=(Fault("items[0].spec", "is bad"),))
    kept = plan_of(wanted(invalid=(bad,)), observed(running()), record())
    assert kept.actions == ()
    assert kept.memory[UID].failure == Failure(reason="InvalidSpec", message="items[0].spec: is bad")
    crashed = plan_of(wanted(invalid=(bad,)), observed(), record(stage=ProcessStage.WAITING))
    assert crashed.actions == (Start(revision=Revision(item=item())),)
    alone = plan_of(wanted(invalid=(bad,)), observed())
    assert (alone.actions, alone.memory[UID].name) == ((), "fw")


def test_an_item_without_uid_is_known_by_its_name() -> None:
    bad = InvalidItem(uid="", namespace="net", name="fw", spec_hash="", faults=(Fault("items[0].uid", "is required"),))
    assert plan_of(wanted(invalid=(bad,)), observed(running()), record()).memory.keys() == {UID}
    assert plan_of(wanted(invalid=(bad,)), observed()).memory.keys() == {"net/fw"}


def test_a_missing_backend_is_reported_and_affects_no_other_process() -> None:
    new = item("v2", backend=Backend.CONTAINER)
    other = item(uid="uid-2")
    seen = replace(observed(running()), unavailable={Backend.CONTAINER: "no containers here"})
    plan = plan_of(wanted(new, other), seen, record())
    assert plan.actions == (Start(revision=Revision(item=other)),)
    assert plan.memory[UID].failure == Failure(reason="BackendUnavailable", message="no containers here")


VOLUME = ContainerVolume(host_path="/var/lib/app/../fw", mount_path="/x")
NODE = ContainerDevice(host_path="/dev/ipmi0")


@pytest.mark.parametrize(
    ("asked", "flag", "allowances"),
    [
        (Container(volumes=(VOLUME,)), "--allow-volumes", Allowances(volumes=("/var/lib/fw",))),
        (Container(volumes=(VOLUME,)), "--allow-volumes", Allowances(volumes=("/",))),
        (Container(devices=(NODE,)), "--allow-devices", Allowances(devices=("/dev",))),
        (
            Container(capabilities=Capabilities(add=("CAP_BPF",))),
            "--allow-cap",
            Allowances(capabilities=frozenset({"BPF"})),
        ),
        (
            Container(capabilities=Capabilities(add=("BPF",))),
            "--allow-cap",
            Allowances(capabilities=frozenset({"ALL"})),
        ),
        (Container(network="lab"), "--allow-networks", Allowances(networks=frozenset({"lab"}))),
        (Container(privileged=True), "--allow-privileged", Allowances(privileged=True)),
    ],
)
def test_what_a_container_may_not_have_is_refused_and_the_old_version_runs_on(
    asked: Container, flag: str, allowances: Allowances
) -> None:
    new = item("v2", backend=Backend.CONTAINER)
    new = replace(new, spec=replace(new.spec, execution=replace(new.spec.execution, container=asked)))
    seen = observed(running())
    near = Allowances(volumes=("/var/lib/app", "/var/lib/f"), devices=("/dev/ipmi",), capabilities=frozenset({"BP"}))
    for lacking in (Allowances(), near):
        plan = plan_of(wanted(new), replace(seen, allowances=lacking), record())
        failure = plan.memory[UID].failure
        assert plan.actions == ()
        assert failure is not None
        assert (failure.reason, flag in failure.message) == ("NotAllowed", True)
        said = observations(wanted(new), plan.memory, seen, {}, 0.0)[UID]
        assert (said.pending_reason, said.pending_message) == ("NotAllowed", failure.message)
    assert plan_of(wanted(new), replace(seen, allowances=allowances), record()).memory[UID].failure is None


@pytest.mark.parametrize("asked", [Container(), Container(network="none", capabilities=Capabilities(drop=("ALL",)))])
def test_less_than_the_default_is_never_refused_and_another_backend_always(asked: Container) -> None:
    new = item("v2", backend=Backend.CONTAINER)
    new = replace(new, spec=replace(new.spec, execution=replace(new.spec.execution, container=asked)))
    assert plan_of(wanted(new), observed(running()), record()).memory[UID].failure is None
    wrong = replace(new, spec=replace(new.spec, execution=replace(new.spec.execution, backend=Backend.PROCESS)))
    failure = plan_of(wanted(wrong), observed(running()), record()).memory[UID].failure
    assert failure == Failure(
        reason="InvalidSpec", message="execution.container needs execution.backend: container; write both or none"
    )


def test_nothing_is_restarted_through_a_backend_that_does_not_answer() -> None:
    seen = replace(observed(), unavailable={Backend.PROCESS: "gone"})
    assert plan_of(wanted(item()), seen, record()).actions == ()


def test_a_failure_ends_with_its_cause_but_a_failed_start_is_reported_until_one_succeeds() -> None:
    bad, failed = Failure(reason="InvalidSpec", message="x"), Failure(reason=FailureReason.START_ERROR, message="y")
    assert plan_of(wanted(item()), observed(running()), record(failure=bad)).memory[UID].failure is None
    waiting = record(failure=failed, stage=ProcessStage.WAITING, not_before=200.0)
    assert plan_of(wanted(item()), observed(), waiting).memory[UID].failure == failed


def test_a_changed_backend_removes_what_the_old_one_left() -> None:
    new = item("v2", backend=Backend.SYSTEMD)
    plan = plan_of(wanted(new), observed(dead()), record())
    assert plan.actions == (Remove(uid=UID, backend=Backend.PROCESS), Start(revision=Revision(item=new)))


def test_a_start_that_fails_is_tried_again_but_not_for_never() -> None:
    starting = restart.starting(record(), Revision(item=item()), BOOT, 100)
    failed = restart.start_failed(starting, "no such file", 100)
    assert (failed.stage, failed.not_before) == (ProcessStage.WAITING, 101)
    never = Revision(item=item(policy=RestartPolicy.NEVER))
    given_up = restart.start_failed(restart.starting(record(), never, BOOT, 100), "no such file", 100)
    assert (given_up.stage, given_up.exit_code) == (ProcessStage.COMPLETED, restart.START_ERROR_EXIT_CODE)
    assert restart.start_failed(Record(uid=UID), "x", 0).stage is ProcessStage.WAITING


@pytest.mark.parametrize(
    ("code", "signalled", "out_of_memory", "reason"),
    [
        (0, False, False, "Completed"),
        (3, False, False, "Error"),
        (137, True, False, "Signal:SIGKILL"),
        (137, True, True, "OOMKilled"),
        (255, True, False, "Signal:127"),  # no signal of this platform
    ],
)
def test_the_termination_reason_names_the_signal(code: int, signalled: bool, out_of_memory: bool, reason: str) -> None:
    assert restart.reason_of(code, signalled=signalled, out_of_memory=out_of_memory) == reason


def test_what_a_restart_of_the_device_makes_void_needs_no_flush_for_a_service() -> None:
    service, job = record(), record(item(policy=RestartPolicy.NEVER))
    for known, void in ((service, True), (job, False)):
        starting = replace(known, stage=ProcessStage.STARTING, handle="h2", started_at=9.0, start_time="now")
        assert (durable(starting) == durable(known)) is void
    waiting = replace(service, stage=ProcessStage.WAITING)
    assert durable(waiting) != durable(service)


def test_a_process_that_memory_lost_is_adopted_once_its_item_is_valid_again() -> None:
    bad = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="v1", faults=(Fault("items[0].spec", "is bad"),))
    seen = ObservedDevice(boot_id=BOOT, observed={UID: running()})
    lost = plan_of(wanted(invalid=(bad,)), seen)
    assert (lost.actions, lost.memory[UID].stage) == ((), ProcessStage.PENDING)
    plan = reconcile(wanted(item()), seen, lost.memory, 101.0)
    assert (plan.actions, plan.memory[UID].stage, plan.memory[UID].handle) == ((), ProcessStage.RUNNING, "h1")


def test_a_process_of_another_spec_than_memory_knows_is_stopped_and_not_counted_as_current() -> None:
    seen = ObservedDevice(boot_id=BOOT, observed={UID: running("v0", handle="h9")})
    plan = plan_of(wanted(item()), seen, record())
    assert plan.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    assert (plan.memory[UID].handle, plan.memory[UID].restart_count) == ("h1", 0)


def test_a_stop_that_has_begun_is_not_forced_while_the_device_is_frozen() -> None:
    seen = ObservedDevice(boot_id=BOOT, observed={UID: running()}, freeze="by x")
    stopping = record(stop_deadline=130.0)
    assert plan_of(wanted(item()), seen, stopping, now=200.0) == Decision(memory={UID: stopping})


def test_while_memory_cannot_be_stored_no_job_is_started_and_no_process_is_replaced() -> None:
    why = "the state directory cannot be written: disk full"
    full = ObservedDevice(boot_id=BOOT, persistence_error="disk full")
    job = plan_of(wanted(item(policy=RestartPolicy.NEVER)), full)
    twice = Failure(reason="MemoryNotKept", message=f"not started, because it might run twice: {why}")
    assert (job.actions, job.memory[UID].failure) == ((), twice)
    assert plan_of(wanted(item()), full).actions == (Start(revision=Revision(item=item())),)
    change = plan_of(wanted(item("v2")), replace(full, observed={UID: running()}), record())
    unchanged = Failure(reason="MemoryNotKept", message=f"not changed: {why}")
    assert (change.actions, change.memory[UID].failure) == ((), unchanged)


def test_a_withdrawn_job_stays_in_memory_as_completed_while_memory_cannot_be_stored() -> None:
    job = item(policy=RestartPolicy.NEVER)
    full = ObservedDevice(boot_id=BOOT, observed={UID: dead()}, persistence_error="disk full")
    plan = plan_of(wanted(), full, record(job, stop_deadline=130.0))
    assert plan.actions == (Remove(uid=UID, backend=Backend.PROCESS),)
    assert plan.memory[UID].stage is ProcessStage.COMPLETED
    assert plan_of(wanted(), full, record()).memory == {}  # a service may run again
    assert plan_of(wanted(job), full, plan.memory[UID]).actions == ()


def test_nothing_is_reported_of_a_process_without_a_name_or_before_the_desired_state_is_known() -> None:
    unknown = {UID: Record(uid=UID)}
    seen = ObservedDevice(boot_id=BOOT, observed={UID: running()})
    assert observations(wanted(item()), unknown, seen, {}, 0.0) == {}
    assert observations(None, {UID: record()}, seen, {}, 0.0) == {}
    assert observations(wanted(), {UID: record()}, seen, {}, 0.0).keys() == {UID}


def test_a_start_that_works_clears_the_failure() -> None:
    failed = restart.start_failed(record(), "no such file", 100)
    assert restart.started(failed, "2026-01-01T00:00:00Z").failure is None


def test_why_a_process_could_not_be_executed_is_reported() -> None:
    seen = replace(dead(128), error="cannot be executed")
    plan = plan_of(wanted(item()), observed(seen), record())
    assert plan.memory[UID].failure == Failure(reason=FailureReason.START_ERROR, message="cannot be executed")


@dataclass
class ModelDevice:
    """A device on which actions work at once, and which life happens to."""

    now: float = 1000.0
    boot: int = 1
    desired: Desired = field(default_factory=wanted)
    memory: Memory = field(default_factory=dict)
    process: Observed | None = None
    persistence_error: str | None = None
    artifacts: dict[str, ArtifactState] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    files: Mapping[str, bytes] = field(default_factory=dict)
    adopted: bool = False
    instance: int = 0

    @property
    def observed(self) -> ObservedDevice:
        seen = {UID: self.process} if self.process else {}
        boot = f"boot-{self.boot}"
        return ObservedDevice(
            boot_id=boot, observed=seen, artifacts=self.artifacts, persistence_error=self.persistence_error
        )

    def converge(self) -> Decision:
        for _ in range(6):
            plan = reconcile(self.desired, self.observed, self.memory, self.now)
            self.memory = plan.memory
            actions = [action for action in plan.actions if not isinstance(action, Fetch)]
            if not actions:
                return plan
            for action in actions:
                self.act(action)
        raise AssertionError(f"does not come to rest: {plan}")

    def act(self, action: object) -> None:
        if isinstance(action, Start):
            assert self.process is None or not self.process.running, "two instances"
            assert self.persistence_error is None or reboot.is_kept(action.revision), "a job that no later agent knows"
            self.instance += 1
            self.process = replace(running(action.revision.item.spec_hash), handle=f"h{self.instance}")
            self.starts.append(action.revision.item.spec_hash)
            self.files, self.adopted = files.contents(action.revision.item), False
            self.memory = {**self.memory, UID: restart.started(self.memory[UID], "now")}
        elif isinstance(action, Stop):
            assert self.process is not None
            self.may_be_stopped(self.process)
            self.process = replace(self.process, running=False, exit_code=143, termination_reason="Signal:SIGTERM")
        elif isinstance(action, Remove):
            self.process = None
        elif isinstance(action, Refresh):
            written, record = files.contents(action.revision.item), self.memory[UID]
            assert self.adopted or written["r"] == self.files["r"], "changed under a process that reads it at its start"
            self.files, self.adopted = written, False
            same = record.spec_hash == action.revision.spec_hash
            now = refresh.refreshed(self.memory, action.revision, f"boot-{self.boot}", self.now)
            self.memory = {**self.memory, UID: replace(record, current=action.revision) if same else now}
        elif isinstance(action, Repair):
            assert self.process is not None
            assert self.process.running
            self.process = replace(self.process, edited=False)
            self.memory = {**self.memory, UID: restart.repaired(self.memory[UID])}

    def may_be_stopped(self, process: Observed) -> None:
        for one in self.desired.items:
            assert one.spec_hash != process.spec_hash, "stopped though desired"
            assert self.persistence_error is None, "stopped for a successor that no later agent knows"
            assert one.spec.artifact is None or one.spec_hash in self.artifacts, "stopped before its successor is there"
        assert not self.desired.invalid, "stopped for a successor that is invalid"


BAD = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="v9", faults=(Fault("spec", "is bad"),))
EVENTS = st.one_of(
    st.tuples(st.just("want"), st.sampled_from(["v1", "v2", "v3"]), st.sampled_from(list(RestartPolicy))),
    st.tuples(st.just("fetched"), st.sampled_from(["v1a", "v2a"]), st.none()),
    st.tuples(st.just("want artifact"), st.sampled_from(["v1a", "v2a"]), st.sampled_from(list(RestartPolicy))),
    st.tuples(st.just("want files"), st.sampled_from(["f1", "f2"]), st.sampled_from(["1", "2", None])),
    st.tuples(st.sampled_from(["want nothing", "want nonsense", "agent restarts", "memory lost", "reboot", "edited"])),
    st.tuples(st.just("disk"), st.sampled_from(["full", None])),
    st.tuples(st.just("ends"), st.sampled_from([0, 1, None])),
    st.tuples(st.just("time"), st.floats(0.1, 2000)),
)


def referring(version: str, content: str | None) -> DesiredItem:
    """Return a service whose spec refers to two files, with the *content* of both; None leaves the first one out."""
    told = File(path="told", config_map_key_ref=ConfigMapKeyRef("conf", "a", True), on_change=OnChange.SIGNAL)
    start = File(path="r", config_map_key_ref=ConfigMapKeyRef("conf", "b"), mode=f"06{version[1]}0")
    contents = {"r": content or "none"} | ({} if content is None else {"told": content})
    return given_contents(with_files(version, told, start), **contents)


def happen(device: ModelDevice, event: tuple[Any, ...]) -> None:
    name, *given = event
    process = device.process if device.process is not None and device.process.running else None
    if name == "want":
        version, policy = given
        device.desired = wanted(item(f"{version}{policy}", policy=policy))
    elif name == "want artifact":
        version, policy = given
        device.desired = wanted(replace(item(version, policy=policy, artifact=True), spec_hash=version))
    elif name == "want files":
        version, content = given
        device.desired = wanted(referring(version, content))
    elif name == "want nothing":
        device.desired = wanted()
    elif name == "want nonsense":
        device.desired = wanted(invalid=(BAD,))
    elif name == "fetched":
        device.artifacts[given[0]] = ArtifactState(path=f"/store/{given[0]}", digest="sha256:1")
    elif name == "agent restarts":
        device.memory = {uid: read(Record, write(known)) for uid, known in device.memory.items()}
    elif name == "memory lost":
        device.memory, device.adopted = {}, True
    elif name == "reboot":
        device.boot, device.now = device.boot + 1, 1.0
        if process is not None:
            device.process = replace(process, running=False, exit_code=None, termination_reason="Lost")
    elif name == "disk":
        device.persistence_error = given[0]
    elif name == "time":
        device.now += given[0]
    elif process is not None:
        edited = name == "edited"
        ended = None if edited else replace(dead(given[0], process.spec_hash), handle=process.handle)
        device.process = ended or replace(process, edited=True)


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=25))
def test_whatever_happens_there_is_one_instance_it_is_never_stopped_early_and_the_device_comes_to_rest(
    events: list[tuple[object, ...]],
) -> None:
    device = ModelDevice()
    for event in events:
        happen(device, event)
        device.converge()
        assert reconcile(device.desired, device.observed, device.memory, device.now).memory == device.memory
        process = device.process if device.persistence_error is None else None
        for one in device.desired.items:
            if process is not None and process.running and process.spec_hash == one.spec_hash:
                told, due = device.files.get("told"), files.contents(one).get("told")
                assert told == due, "a program lacks what it is to be told"


@settings(max_examples=80)
@given(
    st.sampled_from([RestartPolicy.NEVER, RestartPolicy.ON_FAILURE]),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["agent restarts", "memory lost", "reboot"])),
            st.tuples(st.just("time"), st.floats(0.1, 2000)),
            st.tuples(st.just("ends"), st.just(0)),
        ),
        max_size=20,
    ),
)
def test_a_run_that_completed_is_never_repeated_for_the_same_spec(
    policy: RestartPolicy, events: list[tuple[object, ...]]
) -> None:
    device = ModelDevice()
    happen(device, ("want", "v1", policy))
    device.converge()
    happen(device, ("ends", 0))
    for event in events:
        device.converge()
        happen(device, event)
    device.converge()
    assert len(device.starts) == 1


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=15))
def test_with_time_a_desired_process_always_comes_to_run(events: list[tuple[object, ...]]) -> None:
    device = ModelDevice()
    for event in events:
        happen(device, event)
        device.converge()
    happen(device, ("disk", None))
    happen(device, ("want", "v9", RestartPolicy.ALWAYS))
    device.converge()
    device.now += 10_000
    device.converge()
    assert device.process is not None
    assert device.process.running
    assert device.process.spec_hash == "v9Always"


WHY = "backend process cannot be asked: timed out"
V2 = item("v2")


def silent(*seen: Observed) -> ObservedDevice:
    why = {Backend.PROCESS: WHY}
    return replace(observed(*seen), unavailable=why, silent=why)


def test_a_process_withdrawn_while_its_backend_does_not_answer_is_stopped_with_its_grace_later() -> None:
    waiting = plan_of(wanted(), silent(), record())
    assert (waiting.actions, waiting.memory) == ((), {UID: record()})
    later = reconcile(wanted(), observed(running()), waiting.memory, 200.0)
    assert (later.actions, later.wake_at) == ((Stop(uid=UID, backend=Backend.PROCESS),), 230)


def test_nothing_starts_beside_a_process_that_a_silent_backend_may_still_run() -> None:
    other = item("v2", backend=Backend.INITD)
    moved = plan_of(wanted(other), silent(), record())
    assert (moved.actions, moved.memory[UID].current) == ((), record().current)
    made_again = plan_of(wanted(replace(other, uid="uid-2")), silent(), record())
    assert (made_again.actions, made_again.memory[UID]) == ((), record())
    why = made_again.memory["uid-2"].failure
    assert why is not None
    assert (why.reason, why.message.partition(": ")[2]) == ("BackendUnavailable", WHY)
    ended = reconcile(wanted(replace(other, uid="uid-2")), observed(running()), made_again.memory, 200.0)
    assert ended.actions == (Stop(uid=UID, backend=Backend.PROCESS),)
    assert ended.memory["uid-2"].failure == Failure(reason="WaitingForOthersToEnd", message="waits for net/fw to end")
    given_up = Rollback(spec_hash="v2", reason=RollbackReason.HEALTH_CHECK_FAILED, message="x")
    back = record(last_good=Revision(item=item(backend=Backend.INITD)), rollback=given_up, current=Revision(item=V2))
    assert plan_of(wanted(V2), silent(), back) == Decision(memory={UID: back})
    assert plan_of(wanted(V2), observed(), back).actions == (
        Start(revision=Revision(item=item(backend=Backend.INITD)), at_boot=True),
    )


def test_a_completed_job_prevents_no_start_though_its_backend_is_silent() -> None:
    done = record(
        item(policy=RestartPolicy.NEVER), stage=ProcessStage.COMPLETED, exit_code=0, termination_reason="Completed"
    )
    other = item("v2", backend=Backend.INITD)
    for new in (other, replace(other, uid="uid-2")):
        plan = plan_of(wanted(new), silent(), done)
        assert plan.actions == (Start(revision=Revision(item=new)),)
        assert [*plan.memory] == [new.uid]
    later = reconcile(wanted(), observed(dead()), {}, 200.0)  # what it left is taken away when it can be
    assert later.actions == (Remove(uid=UID, backend=Backend.PROCESS),)


def reported(known: Record, seen: ObservedDevice) -> Observation:
    plan = plan_of(wanted(item()), seen, known)
    return observations(wanted(item()), plan.memory, seen, {}, 0.0)[UID]


def test_a_running_process_is_not_reported_as_failed_while_its_backend_is_silent() -> None:
    seen = reported(record(healthy_since=50.0, exit_code=1), silent())
    assert (seen.process_started, seen.healthy, seen.exit_code) == (None, None, None)
    assert (seen.error_message, seen.warning_message) == (None, WHY)
    moved = plan_of(wanted(item("v2", backend=Backend.INITD)), silent(), record(healthy_since=50.0))
    old = observations(wanted(item("v2", backend=Backend.INITD)), moved.memory, silent(), {}, 0.0)[UID]
    assert (old.observed_spec_hash, old.process_started, old.warning_message) == ("v1", None, WHY)


def test_a_new_version_does_not_count_as_healthy_while_its_backend_is_silent() -> None:
    # reported as not known at all, it would inherit what was known of the version before it
    seen = reported(record(), silent())
    assert (seen.process_started, seen.healthy, seen.error_message) == (True, None, None)


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(record(stage=ProcessStage.WAITING, exit_code=3, not_before=500.0), id="waits-to-be-started-again"),
        pytest.param(record(stage=ProcessStage.STARTING, exit_code=3), id="was-not-seen-to-run"),
        pytest.param(record(healthy_since=50.0, boot_id="boot-0", exit_code=3), id="ran-before-the-device-restarted"),
    ],
)
def test_a_stopped_process_is_reported_as_such_though_its_backend_is_silent(
    known: Record,
) -> None:
    seen = reported(known, silent())
    assert (seen.process_started, seen.healthy, seen.exit_code) == (False, False, 3)
    assert (seen.error_message, seen.warning_message) == (None, WHY)


def test_how_a_job_ended_is_reported_though_its_backend_is_silent() -> None:
    done = record(stage=ProcessStage.COMPLETED, exit_code=0, termination_reason="Completed")
    seen = reported(done, silent())
    assert (seen.process_started, seen.healthy, seen.exit_code) == (True, True, 0)


def test_what_is_withdrawn_is_forgotten_when_its_backend_is_gone_for_good() -> None:
    gone = replace(observed(), unavailable={Backend.PROCESS: "not here"})
    assert plan_of(wanted(), gone, record()).memory == {}


def with_values(version: str = "v1", **values: str) -> DesiredItem:
    return replace(item(version), values=values, values_hash=str(sorted(values.items())))


def test_a_new_value_waits_for_the_next_start_and_is_reported_meanwhile() -> None:
    old, new = with_values(RACK="r1"), with_values(RACK="r2")
    step = plan_of(wanted(new), observed(running()), record(old))
    assert step.actions == ()
    kept = step.memory[UID]
    assert kept.current is not None
    assert kept.current.item.values == {"RACK": "r1"}  # so that probes and a repaired definition have it, too
    seen = observations(wanted(new), step.memory, observed(running()), {}, 100.0)[UID]
    assert (seen.values_outdated, seen.observed_spec_hash) == (True, "v1")
    edited = plan_of(wanted(new), observed(replace(running(), edited=True, at_boot=True)), kept)
    assert [action.revision.item.values for action in edited.actions if isinstance(action, Repair)] == [{"RACK": "r1"}]

    ended = plan_of(wanted(new), observed(dead(1)), kept)
    at = ended.wake_at
    assert at is not None
    again = plan_of(wanted(new), observed(dead(1)), ended.memory[UID], at)
    assert [action.revision.item.values for action in again.actions if isinstance(action, Start)] == [{"RACK": "r2"}]
    later = plan_of(wanted(new), observed(running(handle="h2")), again.memory[UID], at + 1)
    assert observations(wanted(new), later.memory, observed(running()), {}, at)[UID].values_outdated is None


def test_a_value_that_returns_and_one_of_another_version_are_not_outdated() -> None:
    for desired in (with_values(RACK="r1"), with_values("v2", RACK="r2")):
        known = {UID: record(with_values(RACK="r1"))}
        assert observations(wanted(desired), known, observed(running()), {}, 100.0)[UID].values_outdated is None


def test_values_under_a_new_key_of_the_gateways_are_not_outdated() -> None:
    known = {UID: record(with_values(RACK="r1"))}
    digested = replace(with_values(RACK="r1"), values_hash="hmac-sha256:by-a-new-key")
    assert observations(wanted(digested), known, observed(running()), {}, 100.0)[UID].values_outdated is None


def test_a_device_whose_value_is_missing_runs_on_and_restarts_with_what_it_had() -> None:
    bad = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="", faults=(Fault("spec", "is required"),))
    known = record(with_values(RACK="r1"))
    assert plan_of(wanted(invalid=(bad,)), observed(running()), known).actions == ()
    ended = plan_of(wanted(invalid=(bad,)), observed(dead(1)), known)
    again = plan_of(wanted(invalid=(bad,)), observed(dead(1)), ended.memory[UID], ended.wake_at or 0.0)
    assert [action.revision.item.values for action in again.actions if isinstance(action, Start)] == [{"RACK": "r1"}]


def with_files(version: str, *files: File) -> DesiredItem:
    plain = item(version)
    return replace(plain, spec=replace(plain.spec, execution=replace(plain.spec.execution, files=files)))


PROBLEM = Failure(reason=FailureReason.FILES_NOT_WRITTEN, message="spec.execution.files[0]: no space")


def test_a_version_whose_files_cannot_be_written_does_not_end_the_old_one() -> None:
    old, new = item("v1"), with_files("v2", File(path="a", content="x"))
    memory = {UID: Record(uid=UID, stage=ProcessStage.RUNNING, current=Revision(item=old), boot_id=BOOT)}
    seen = {UID: running("v1")}
    device = ObservedDevice(boot_id=BOOT, observed=seen, file_problems={UID: PROBLEM})
    held = reconcile(wanted(new), device, memory, 100.0)
    assert held.actions == ()
    assert held.memory[UID].failure == PROBLEM
    (said,) = observations(wanted(new), held.memory, device, {}, 100.0).values()
    assert (said.pending_reason, said.pending_message) == ("FilesNotWritten", PROBLEM.message)
    freed = reconcile(wanted(new), replace(device, file_problems={}), held.memory, 101.0)
    assert freed.actions == (Stop(uid=UID, backend=Backend.PROCESS),)


def test_a_first_version_whose_files_cannot_be_written_waits() -> None:
    device = ObservedDevice(boot_id=BOOT, file_problems={UID: PROBLEM})
    held = reconcile(wanted(with_files("v1", File(path="a", content="x"))), device, {}, 100.0)
    assert (held.actions, held.memory[UID].failure) == ((), PROBLEM)


def test_files_that_no_agent_can_write_are_an_invalid_spec() -> None:
    held = reconcile(wanted(with_files("v1", File(path="../a", content="x"))), ObservedDevice(boot_id=BOOT), {}, 100.0)
    failure = held.memory[UID].failure
    assert failure is not None
    assert (failure.reason, held.actions) == (FailureReason.INVALID_SPEC, ())


def test_files_that_were_changed_on_the_device_are_written_again_unless_it_is_frozen() -> None:
    wants = with_files("v1", File(path="a", content="x"))
    memory = {UID: Record(uid=UID, stage=ProcessStage.RUNNING, current=Revision(item=wants), boot_id=BOOT)}
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")}, edited_files=frozenset({UID}))
    assert reconcile(wanted(wants), device, memory, 100.0).actions == (Refresh(revision=Revision(item=wants)),)
    assert reconcile(wanted(wants), replace(device, freeze="held"), memory, 100.0).actions == ()
    assert reconcile(wanted(wants), replace(device, edited_files=frozenset()), memory, 100.0).actions == ()


@pytest.mark.parametrize(
    ("backend", "user", "owner", "expected"),
    [
        (Backend.PROCESS, None, None, None),
        (Backend.PROCESS, "app", None, "app"),
        (Backend.PROCESS, "app", "root:adm", "root:adm"),
        (Backend.CONTAINER, "app", None, None),  # a name of its image
        (Backend.CONTAINER, "1000", None, "1000"),
    ],
)
def test_a_file_is_of_the_user_of_its_process(
    backend: Backend, user: str | None, owner: str | None, expected: str | None
) -> None:
    execution = Execution(backend=backend, user=user)
    assert files.owner_of(File(path="a", owner=owner), execution) == expected
    assert (files.mode_of(File(path="a")), files.mode_of(File(path="a", mode="0600"))) == (0o644, 0o600)


def signalled(content: str, on_change: OnChange = OnChange.SIGNAL) -> File:
    return File(path="a", content=content, on_change=on_change)


def runs(version: DesiredItem, last_good: Revision | None = None) -> Record:
    record = Record(uid=UID, namespace="net", name="fw", stage=ProcessStage.RUNNING, current=Revision(item=version))
    return replace(record, boot_id=BOOT, handle="h1", healthy_since=10.0, started_at=5.0, last_good=last_good)


def given_files(memory: Memory, decision: Decision, now: float = 100.0) -> Memory:
    """Return the memory after the loop has given the process its files."""
    (action,) = decision.actions
    assert isinstance(action, Refresh)
    assert memory
    return {UID: refresh.refreshed(decision.memory, action.revision, BOOT, now)}


def test_a_service_takes_contents_that_need_no_restart_while_it_runs() -> None:
    old, new = with_files("v1", signalled("1")), with_files("v2", signalled("2"))
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    memory: Memory = {UID: runs(old)}
    decision = reconcile(wanted(new), device, memory, 100.0)
    assert decision.memory[UID].spec_hash == "v1"  # until it is done
    after = given_files(memory, decision)
    record = after[UID]
    assert (record.spec_hash, record.mark, record.last_good) == ("v2", "v1", Revision(item=old))
    assert (record.started_at, record.proven, record.trial) == (100.0, False, 1)
    assert record.current is not None
    assert record.current.restarted().item == new
    settled = reconcile(wanted(new), device, after, 103.0)
    assert settled.actions == ()
    (said,) = observations(wanted(new), settled.memory, device, {}, 103.0).values()
    assert (said.observed_spec_hash, said.pid, said.healthy, said.on_trial) == ("v2", 7, True, True)
    assert said.pending_reason is None
    stored = {UID: read(Record, write(settled.memory[UID]))}
    assert reconcile(wanted(new), device, stored, 104.0).actions == ()  # after a restart of the agent
    back = given_files(stored, reconcile(wanted(old), device, stored, 105.0), 105.0)
    assert (back[UID].spec_hash, back[UID].current) == ("v1", Revision(item=old))


def test_an_agent_that_knows_no_files_leaves_a_process_that_took_some_alone() -> None:
    old, new = with_files("v1", signalled("1")), with_files("v2", signalled("2"))
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    memory: Memory = {UID: runs(old)}
    record = given_files(memory, reconcile(wanted(new), device, memory, 100.0))[UID]
    stored = write(record)
    del stored["current"]["applied"]  # as it reads and writes it
    withheld = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="", faults=(Fault("spec", "is missing"),))
    older = reconcile(wanted(invalid=(withheld,)), device, {UID: read(Record, stored)}, 110.0)
    assert older.actions == ()
    assert older.memory[UID].spec_hash == "v1"  # what it was started with, so that the older passes for no newer one


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(with_files("v2", signalled("2", on_change=OnChange.RESTART)), id="restart"),
        pytest.param(with_files("v2", File(path="b", content="1", on_change=OnChange.SIGNAL)), id="another-path"),
        pytest.param(with_files("v2", replace(signalled("2"), mode="0600")), id="mode"),
        pytest.param(with_files("v2", signalled("2"), File(path="b", content="x")), id="one-more"),
        pytest.param(with_files("v2", signalled("1")), id="something-unknown"),
        pytest.param(item("v2"), id="no-files"),
    ],
)
def test_any_other_change_restarts_it(other: DesiredItem) -> None:
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    decision = reconcile(wanted(other), device, {UID: runs(with_files("v1", signalled("1")))}, 100.0)
    assert decision.actions == (Stop(uid=UID, backend=Backend.PROCESS),)


def test_a_job_runs_again_for_other_contents() -> None:
    old, new = (with_files(name, signalled(name)) for name in ("v1", "v2"))
    old, new = (replace(each, spec=replace(each.spec, restart_policy=RestartPolicy.NEVER)) for each in (old, new))
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    assert refresh.target(Revision(item=new), runs(old), running("v1")) is None
    assert isinstance(reconcile(wanted(new), device, {UID: runs(old)}, 100.0).actions[0], Stop)


def test_a_service_that_dies_of_its_new_contents_gets_the_old_ones_back() -> None:
    old, new = with_files("v1", signalled("1")), with_files("v2", signalled("2"))
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    memory: Memory = {UID: runs(old)}
    memory = given_files(memory, reconcile(wanted(new), device, memory, 100.0))
    now, version, started = 101.0, "v1", []
    for _ in range(20):
        seen = replace(dead(129, version), handle=f"h{now}")
        decision = reconcile(wanted(new), replace(device, observed={UID: seen}), memory, now)
        memory, now = decision.memory, max(now + 1, decision.wake_at or 0.0)
        for action in decision.actions:
            assert isinstance(action, Start)
            version = action.revision.item.spec_hash
            started.append(version)
            memory = {UID: restart.started(memory[UID], "now")}
        if version == "v1" and started:
            break
    assert set(started[:-1]) == {"v2"}
    assert started[-1] == "v1"
    rolled_back = memory[UID].rollback
    assert rolled_back is not None
    assert (rolled_back.spec_hash, rolled_back.reason) == ("v2", RollbackReason.CRASH_LOOP)


def test_contents_that_make_it_unhealthy_are_taken_back_without_a_restart() -> None:
    check = HealthCheck(exec=ExecProbe(command=("/bin/check",)))
    old, new = with_files("v1", signalled("1")), with_files("v2", signalled("2"))
    old, new = (replace(each, spec=replace(each.spec, health_check=check)) for each in (old, new))
    device = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})
    memory: Memory = {UID: runs(old, last_good=Revision(item=old))}
    memory = given_files(memory, reconcile(wanted(new), device, memory, 100.0))
    sick = {UID: Health(handle="h1", next_at=0.0, healthy=False, message="no")}
    decision = reconcile(wanted(new), replace(device, health=sick), memory, 110.0)
    memory = given_files(memory, decision, 110.0)
    rolled_back = memory[UID].rollback
    assert rolled_back is not None
    assert (memory[UID].spec_hash, rolled_back.spec_hash) == ("v1", "v2")
    assert reconcile(wanted(new), device, memory, 111.0).actions == ()


def test_a_signal_is_for_files_that_ask_for_it() -> None:
    assert files.signal_of(signalled("1")) == "SIGHUP"
    assert files.signal_of(replace(signalled("1"), signal=ReloadSignal.USR1)) == "SIGUSR1"
    assert files.signal_of(File(path="a", on_change=OnChange.NONE)) == ""
    never = with_files("v1", File(path="a", content="", signal=ReloadSignal.HUP))
    assert "signal needs onChange: Signal; write both" in (files.fault(never) or "")


def test_a_process_that_is_restarted_on_a_frozen_device_gets_the_files_that_are_there() -> None:
    wants = with_files("v1", signalled("1"))
    device = ObservedDevice(boot_id=BOOT, observed={UID: dead(1)})
    memory: Memory = {UID: replace(runs(wants), stage=ProcessStage.WAITING, not_before=0.0)}
    for freeze in ("held by /run/hold", None):
        (start,) = reconcile(wanted(wants), replace(device, freeze=freeze), memory, 100.0).actions
        assert isinstance(start, Start)
        assert start.as_they_are is (freeze is not None)


def by_reference(path: str, on_change: OnChange = OnChange.SIGNAL, **more: Any) -> File:
    return File(path=path, config_map_key_ref=ConfigMapKeyRef("settings", path), on_change=on_change, **more)


def given_contents(of: DesiredItem, **contents: str) -> DesiredItem:
    """Return *of* as a gateway sends it, with *contents* of files by their paths."""
    values = tuple(
        FileValue(path=path, content=base64.b64encode(text.encode()).decode()) for path, text in contents.items()
    )
    return replace(of, file_values=values, values_hash=f"hmac-sha256:{sorted(contents.items())}")


AT_START = by_reference("r", OnChange.RESTART)
REFERS = with_files("v1", by_reference("told"), by_reference("seen", OnChange.NONE), AT_START)
DEVICE = ObservedDevice(boot_id=BOOT, observed={UID: running("v1")})


def refresh_of(decision: Decision) -> Revision:
    (action,) = decision.actions
    assert isinstance(action, Refresh)
    return action.revision


def test_new_contents_by_reference_reach_a_running_service_and_those_that_need_a_restart_wait() -> None:
    old, new = (given_contents(REFERS, told=n, seen=n, r=n) for n in "12")
    decision = reconcile(wanted(new), DEVICE, {UID: runs(old)}, 100.0)
    assert decision.memory[UID].current == Revision(item=old)  # until it is done
    placed = refresh_of(decision)
    assert files.contents(placed.item) == {"told": b"2", "seen": b"2", "r": b"1"}
    assert placed.spec_hash == "v1"
    after = {UID: read(Record, write(replace(decision.memory[UID], current=placed)))}
    settled = reconcile(wanted(new), DEVICE, after, 101.0)
    assert settled.actions == ()
    assert observations(wanted(new), settled.memory, DEVICE, {}, 101.0)[UID].values_outdated is True
    ended = reconcile(wanted(new), replace(DEVICE, observed={UID: dead(1)}), settled.memory, 102.0)
    again = reconcile(wanted(new), replace(DEVICE, observed={UID: dead(1)}), ended.memory, ended.wake_at or 0.0)
    (start,) = again.actions
    assert isinstance(start, Start)
    assert files.contents(start.revision.item) == {"told": b"2", "seen": b"2", "r": b"2"}


def test_contents_that_were_all_taken_are_not_outdated() -> None:
    old, new = (given_contents(with_files("v1", by_reference("told")), told=n) for n in "12")
    placed = refresh_of(reconcile(wanted(new), DEVICE, {UID: runs(old)}, 100.0))
    memory = {UID: replace(runs(old), current=placed)}
    assert observations(wanted(new), memory, DEVICE, {}, 101.0)[UID].values_outdated is None
    rotated = replace(new, values_hash="hmac-sha256:by-a-new-key")
    assert reconcile(wanted(rotated), DEVICE, memory, 102.0).actions == ()


def test_an_optional_file_without_content_is_left_out() -> None:
    old, new = given_contents(REFERS, told="1", seen="1", r="1"), given_contents(REFERS, seen="1", r="1")
    placed = refresh_of(reconcile(wanted(new), DEVICE, {UID: runs(old)}, 100.0))
    assert sorted(files.contents(placed.item)) == ["r", "seen"]


def test_no_contents_are_taken_on_a_frozen_device_or_by_a_job() -> None:
    old, new = (given_contents(REFERS, told=n, seen=n, r="1") for n in "12")
    frozen = reconcile(wanted(new), replace(DEVICE, freeze="held"), {UID: runs(old)}, 100.0)
    assert (frozen.actions, frozen.memory[UID].current) == ((), Revision(item=old))
    refresh_of(reconcile(wanted(new), DEVICE, frozen.memory, 101.0))
    jobs = [replace(each, spec=replace(each.spec, restart_policy=RestartPolicy.NEVER)) for each in (old, new)]
    assert reconcile(wanted(jobs[1]), DEVICE, {UID: runs(jobs[0])}, 100.0).actions == ()


def test_a_new_version_takes_contents_in_place_though_their_source_is_another() -> None:
    spec = with_files(
        "v2", replace(by_reference("told"), config_map_key_ref=ConfigMapKeyRef("other", "told")), AT_START
    )
    old = given_contents(with_files("v1", by_reference("told"), AT_START), told="1", r="1")
    placed = refresh_of(reconcile(wanted(given_contents(spec, told="2", r="2")), DEVICE, {UID: runs(old)}, 100.0))
    assert placed.spec_hash == "v2"
    assert files.contents(placed.item) == {"told": b"2", "r": b"1"}
    secret = File(path="told", secret_key_ref=SecretKeyRef("login", "told"), on_change=OnChange.SIGNAL)
    other = given_contents(with_files("v2", secret, AT_START), told="2", r="1")
    (stop,) = reconcile(wanted(other), DEVICE, {UID: runs(old)}, 100.0).actions
    assert isinstance(stop, Stop)  # the mode of the file is another


def test_what_an_adopted_process_has_of_its_files_is_not_known() -> None:
    new = given_contents(REFERS, told="2", seen="2", r="2")
    placed = refresh_of(reconcile(wanted(new), DEVICE, {}, 100.0))
    assert placed.item == new
    memory = {UID: replace(runs(new), current=placed)}
    assert reconcile(wanted(new), DEVICE, memory, 101.0).actions == ()
    assert observations(wanted(new), memory, DEVICE, {}, 101.0)[UID].values_outdated is None


@pytest.mark.parametrize(
    ("item", "words"),
    [
        pytest.param(REFERS, "the gateway sent no content for references; upgrade praetor-gateway", id="older-gateway"),
        pytest.param(
            replace(REFERS, file_values=(FileValue(path="told", content="?"),)), "is not base64", id="no-base64"
        ),
        pytest.param(with_files("v1", by_reference("a", content="")), "write exactly one of content", id="two-sources"),
        pytest.param(
            with_files("v1", File(path="a", secret_key_ref=SecretKeyRef("a", "b"), mode="0644")),
            "a file of a Secret is for its owner alone",
            id="open",
        ),
    ],
)
def test_a_file_whose_content_cannot_be_known_holds_its_process(item: DesiredItem, words: str) -> None:
    held = reconcile(wanted(item), ObservedDevice(boot_id=BOOT), {}, 100.0)
    failure = held.memory[UID].failure
    assert failure is not None
    assert (failure.reason, held.actions) == (FailureReason.INVALID_SPEC, ())
    assert words in failure.message


def approved(spec_hash: str, digest: str) -> DesiredItem:
    """Return an item whose file "r" is approved with *digest*, beside one that is only told."""
    return with_files(spec_hash, by_reference("told"), by_reference("r", OnChange.RESTART, approved=digest))


def kept(of: DesiredItem, **contents: str) -> DesiredItem:
    """Return *of* as a gateway sends it that has another content than the approved one of "r"."""
    return replace(given_contents(of, **contents), kept_files=("r",))


def test_a_version_keeps_the_content_that_it_was_approved_with_also_when_it_starts_again() -> None:
    old = given_contents(approved("v1", "d1"), told="1", r="1")
    changed = kept(approved("v1", "d1"), told="2")
    decision = reconcile(wanted(changed), DEVICE, {UID: runs(old)}, 100.0)
    placed = refresh_of(decision)
    assert files.contents(placed.item) == {"told": b"2", "r": b"1"}
    memory = {UID: replace(decision.memory[UID], current=placed)}
    assert reconcile(wanted(changed), DEVICE, memory, 101.0).actions == ()
    assert observations(wanted(changed), memory, DEVICE, {}, 101.0)[UID].values_outdated is True
    gone = reconcile(wanted(changed), ObservedDevice(boot_id="next"), memory, 102.0)
    (start,) = [action for action in gone.actions if isinstance(action, Start)]
    assert files.contents(start.revision.item) == {"told": b"2", "r": b"1"}


def test_another_version_with_the_same_approval_has_the_content_of_the_old_one() -> None:
    old = given_contents(approved("v1", "d1"), told="1", r="1")
    new = kept(approved("v2", "d1"), told="1")
    completed = files.completed(new, old)
    assert completed is not None
    assert (files.contents(completed), completed.kept_files) == ({"told": b"1", "r": b"1"}, None)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param({}, id="no-version"),
        pytest.param({UID: runs(given_contents(approved("v1", "d1"), told="1", r="1"))}, id="another-approval"),
        pytest.param({UID: runs(given_contents(with_files("v1", by_reference("told")), told="1"))}, id="no-such-file"),
    ],
)
def test_a_version_waits_whose_approved_content_is_gone(memory: Memory) -> None:
    new = kept(approved("v2", "d2"), told="1")
    device = DEVICE if memory else ObservedDevice(boot_id=BOOT)
    decision = reconcile(wanted(new), device, memory, 100.0)
    failure = decision.memory[UID].failure
    assert failure is not None
    assert (failure.reason, decision.actions) == (FailureReason.REFERENCE_PENDING, ())
    seen = observations(wanted(new), decision.memory, device, {}, 100.0)[UID]
    assert (seen.pending_reason, seen.error_message) == (PendingReason.REFERENCE_PENDING, None)


def test_a_process_that_was_found_running_is_not_started_without_the_content_that_it_keeps() -> None:
    changed = kept(approved("v1", "d1"), told="2")
    found = reconcile(wanted(changed), DEVICE, {}, 100.0)
    assert found.actions == ()
    assert reconcile(wanted(changed), ObservedDevice(boot_id=BOOT), found.memory, 101.0).actions == ()


def test_a_file_of_a_secret_is_for_its_owner_alone() -> None:
    secret = SecretKeyRef("login", "key")
    assert files.mode_of(File(path="a", secret_key_ref=secret)) == 0o600
    assert files.mode_of(File(path="a", secret_key_ref=secret, mode="0400")) == 0o400


class Troubled(dict[str, Health]):
    """Fails for one uid, as an error in the agent's decisions would."""

    def get(self, key: str, default: Any = None) -> Any:
        if key == UID:
            raise KeyError("hunter2")
        return super().get(key, default)


@pytest.mark.parametrize("freeze", [None, "held"])
@pytest.mark.parametrize("desired", ["wanted", "unreadable", "withdrawn"])
def test_an_error_in_the_decision_on_one_process_is_said_of_it_and_spares_the_others(
    desired: str, freeze: str | None
) -> None:
    other = item(uid="uid-2")
    bad = InvalidItem(uid=UID, namespace="net", name="fw", spec_hash="", faults=(Fault("spec", "is required"),))
    checked = item("v1")
    checked = replace(
        checked, spec=replace(checked.spec, health_check=HealthCheck(exec=ExecProbe(command=("/bin/c",))))
    )
    items = (checked, other) if desired == "wanted" else (other,)
    goal = wanted(*items, invalid=(bad,) if desired == "unreadable" else ())
    ended = {UID: running(), "uid-2": replace(dead(1), uid="uid-2")}
    device = ObservedDevice(boot_id=BOOT, observed=ended, health=Troubled(), freeze=freeze)
    second = replace(record(other), uid="uid-2", name="other")
    decision = reconcile(goal, device, {UID: record(checked), "uid-2": second}, 100.0)
    assert decision.memory["uid-2"].stage is ProcessStage.WAITING
    if desired == "withdrawn" and freeze is None:
        assert [type(action) for action in decision.actions] == [Stop]  # which asks for no health
        return
    failure = decision.memory[UID].failure
    assert failure is not None
    assert "the agent cannot handle it: KeyError (test_agent_reconcile.py:" in failure.message
    assert (decision.memory[UID].current, "hunter2" in failure.message) == (record(checked).current, False)


def test_what_cannot_be_seen_is_neither_ended_nor_started_nor_removed() -> None:
    device = ObservedDevice(boot_id=BOOT, unseen={UID: "not known"})
    for memory in ({}, {UID: record()}):
        for goal in (wanted(item("v1")), wanted(item("v2")), wanted()):
            decision = reconcile(goal, device, memory, 100.0)
            assert decision.actions == ()
            if memory:
                assert decision.memory[UID].stage is ProcessStage.RUNNING
            if goal.items:
                assert decision.memory[UID].failure == Failure(
                    reason=FailureReason.BACKEND_UNAVAILABLE, message="not known"
                )


def test_a_fault_is_found_once_but_for_what_is_known_only_beside_the_version_that_runs() -> None:
    wrong = replace(item(uid="wrong"), spec=replace(item().spec, health_check=HealthCheck()))
    kept, broken = replace(wrong, uid="kept", kept_files=("r",)), replace(wrong, uid="broken", spec=cast("Any", None))
    known = known_faults((item(), wrong, kept, broken))
    assert known == {UID: None, "wrong": fault(wrong)}
    assert known["wrong"] is not None
    decision = reconcile(wanted(item(), wrong), ObservedDevice(boot_id=BOOT), {}, 100.0, {UID: "is known"})
    failures = {uid: record.failure.message for uid, record in decision.memory.items() if record.failure is not None}
    assert failures == {UID: "is known", "wrong": known["wrong"]}


def test_what_runs_another_version_than_the_record_says_is_not_given_files() -> None:
    assert refresh.target(Revision(item=item("v2")), record(item("v1")), running("v0")) is None
