# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_agent.core import report
from praetor_agent.core.health import Health, started
from praetor_agent.core.model import (
    ArtifactState,
    Failure,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
    Rollback,
    TerminationReason,
)
from praetor_agent.core.report import ReportState
from praetor_api.protocol import (
    MAX_BODY_BYTES,
    MAX_OBSERVATIONS,
    Desired,
    DesiredItem,
    InvalidItem,
    Observation,
    Report,
    ReportAck,
    RollbackReason,
)
from praetor_api.spec import (
    Artifact,
    ArtifactType,
    Backend,
    ExecProbe,
    Execution,
    Hardening,
    HealthCheck,
    ProcessSpec,
)
from praetor_api.wire import write

ITEM = DesiredItem(
    uid="u",
    namespace="net",
    name="fw",
    spec=ProcessSpec(execution=Execution(backend=Backend.PROCESS, command=("/bin/x",))),
    spec_hash="v1",
)
PROBED = replace(ITEM, spec=replace(ITEM.spec, health_check=HealthCheck(exec=ExecProbe(command=("/bin/true",)))))
RUNNING = Observed(uid="u", backend=Backend.PROCESS, spec_hash="v1", running=True, handle="h", pid=7)
RECORD = Record(
    uid="u", namespace="net", name="fw", stage=ProcessStage.RUNNING, current=Revision(item=ITEM), healthy_since=2.0
)


def reported(
    record: Record = RECORD,
    seen: Observed | None = RUNNING,
    health: Health | None = None,
    artifact: ArtifactState | None = None,
) -> Observation:
    return report.observation(record, seen, health, artifact)


def test_a_running_process_without_a_probe_is_healthy() -> None:
    seen = reported()
    assert (seen.process_started, seen.healthy, seen.pid, seen.observed_spec_hash) == (True, True, 7, "v1")


def test_a_process_without_a_probe_is_not_known_to_be_healthy_before_it_is_stable() -> None:
    assert reported(replace(RECORD, healthy_since=None)).healthy is None


def test_a_version_that_was_rolled_back_is_reported_beside_the_running_one() -> None:
    given_up = Rollback(spec_hash="v2", reason=RollbackReason.CRASH_LOOP, message="it ended 3 times")
    seen = reported(replace(RECORD, rollback=given_up))
    assert (seen.observed_spec_hash, seen.healthy, seen.error_message) == ("v1", True, None)
    assert (seen.failed_spec_hash, seen.rolled_back_reason) == ("v2", "CrashLoop")
    assert seen.rolled_back_message == "it ended 3 times"


def test_a_freeze_is_reported_with_its_text() -> None:
    assert report.observation(RECORD, RUNNING, None, None, "held by x").update_held_message == "held by x"


def test_a_requested_report_is_sent_in_time_but_a_lost_one_keeps_its_backoff() -> None:
    waiting = ReportState(base=1, next_at=100.0)
    assert report.asked(waiting, 50.0).next_at == 50
    assert report.asked(waiting, None).next_at == 100
    assert report.asked(replace(waiting, lost=1), 50.0).next_at == 100
    assert report.asked(replace(waiting, quiet_until=70.0), 50.0).next_at == 70


def test_health_is_unknown_until_a_probe_says_something() -> None:
    record = replace(RECORD, current=Revision(item=PROBED), healthy_since=None)
    assert reported(record).healthy is None
    assert reported(record, health=started("h", 0)).healthy is None
    failing = Health(handle="h", next_at=0, healthy=False, message="exit status 1")
    seen = reported(record, health=failing)
    assert (seen.healthy, seen.error_message) == (False, "health check failed: exit status 1")


def test_a_run_that_completed_was_started_and_is_as_healthy_as_its_exit_code() -> None:
    done = replace(RECORD, stage=ProcessStage.COMPLETED, exit_code=0, termination_reason="Completed")
    seen = reported(done, None)
    assert (seen.process_started, seen.healthy, seen.exit_code, seen.pid) == (True, True, 0, None)
    failed = reported(replace(done, exit_code=3, termination_reason="Error"), None)
    assert (failed.process_started, failed.healthy, failed.exit_code) == (True, False, 3)


def test_a_run_that_could_not_be_started_was_not_started() -> None:
    given_up = replace(
        RECORD, stage=ProcessStage.COMPLETED, exit_code=128, termination_reason=TerminationReason.START_ERROR
    )
    assert reported(given_up, None).process_started is False


def test_a_process_between_two_starts_is_not_healthy_and_its_end_is_reported() -> None:
    seen = reported(replace(RECORD, stage=ProcessStage.WAITING, exit_code=1, termination_reason="Error"), None)
    assert (seen.process_started, seen.healthy, seen.exit_code, seen.termination_reason) == (False, False, 1, "Error")


def test_a_running_process_has_no_exit_code() -> None:
    assert reported(replace(RECORD, exit_code=1)).exit_code is None


@pytest.mark.parametrize(
    ("wanted", "rollback", "named"),
    [("v1", None, True), ("v2", None, False), ("v2", "v2", True), ("v2", "v3", False)],
)
def test_a_trace_is_named_with_what_is_said_of_its_version(wanted: str, rollback: str | None, named: bool) -> None:
    item = replace(ITEM, spec_hash=wanted, traceparent="00-1-2-01")
    given_up = Rollback(spec_hash=rollback, reason=RollbackReason.CRASH_LOOP, message="it ended") if rollback else None
    record = replace(RECORD, rollback=given_up)
    device = ObservedDevice(boot_id="b", observed={"u": RUNNING})
    seen = report.observations(Desired(device_name="d", items=(item,)), {"u": record}, device, {}, 0.0)["u"]
    assert seen.traceparent == ("00-1-2-01" if named else None)
    untraced = replace(item, traceparent=None)
    seen = report.observations(Desired(device_name="d", items=(untraced,)), {"u": record}, device, {}, 0.0)["u"]
    assert seen.traceparent is None


def test_nothing_is_known_of_the_health_of_what_was_never_started() -> None:
    fresh = Record(uid="u", name="fw")
    assert reported(fresh, None).healthy is None
    assert reported(fresh, None).observed_spec_hash == ""
    assert report.with_spec_hash(reported(fresh, None), "v2").observed_spec_hash == "v2"
    assert report.with_spec_hash(reported(), "v2").observed_spec_hash == "v1"


def test_while_a_new_version_cannot_run_the_old_one_is_reported_with_the_reason() -> None:
    failure = Failure(reason="x", message="artifact: no", artifact_downloaded=False, artifact_verified=False)
    seen = reported(replace(RECORD, failure=failure))
    assert (seen.observed_spec_hash, seen.process_started, seen.healthy) == ("v1", True, True)
    assert (seen.error_message, seen.artifact_downloaded, seen.artifact_verified) == ("artifact: no", False, False)


def test_an_artifact_is_reported_if_there_is_one() -> None:
    assert reported().artifact_downloaded is None
    assert reported(artifact=ArtifactState(path="/a")).artifact_verified is True
    assert reported(artifact=ArtifactState()).artifact_verified is None
    used = reported(replace(RECORD, current=Revision(item=ITEM, artifact_path="/a", artifact_digest="sha256:1")))
    assert (used.artifact_downloaded, used.artifact_digest) == (True, "sha256:1")


IMAGE = Artifact(type=ArtifactType.OCI, url=f"r/a@sha256:{'b' * 64}")
FILE = Artifact(type=ArtifactType.FILE, url="/srv/fw")


def running(
    used: Artifact | None = None, backend: Backend = Backend.PROCESS, hardening: Hardening | None = None
) -> Record:
    execution = Execution(backend=backend, command=("/bin/x",), hardening=hardening)
    item = replace(ITEM, spec=ProcessSpec(artifact=used, execution=execution))
    return replace(RECORD, current=Revision(item=item, artifact_path="/a" if used else None))


@pytest.mark.parametrize("checksum", [None, "a" * 64])
def test_an_artifact_is_verified_only_where_there_is_something_to_verify_it_by(checksum: str | None) -> None:
    expected = True if checksum else None
    record = running(replace(FILE, checksum_sha256=checksum))
    assert (reported(record).artifact_downloaded, reported(record).artifact_verified) == (True, expected)
    image = running(IMAGE)
    assert reported(image).artifact_verified is True
    # what the next version was fetched from counts, not what the old one runs from
    fetched = reported(image, artifact=ArtifactState(path="/b", pinned=checksum is not None))
    assert (fetched.artifact_downloaded, fetched.artifact_verified) == (True, expected)
    failure = Failure(reason="x", message="artifact: no", artifact_downloaded=False, artifact_verified=False)
    assert reported(replace(record, failure=failure)).artifact_verified is False


@pytest.mark.parametrize("backend", [Backend.PROCESS, Backend.INITD, Backend.CONTAINER])
@pytest.mark.parametrize("hardening", [Hardening.STRICT, Hardening.BASELINE])
def test_hardening_without_effect_causes_a_warning(backend: Backend, hardening: Hardening) -> None:
    expected = f"execution.hardening: {hardening} does nothing under the backend {backend}, only under systemd"
    for seen in (RUNNING, None):  # a warning that went with each restart would be an event each time
        assert reported(running(None, backend, hardening), seen).warning_message == expected
    both = reported(running(None, backend, hardening), replace(RUNNING, unlimited=("cpu",))).warning_message
    assert (both or "").split("; ")[1:] == [expected]
    for quiet in (None, Hardening.UNCONFINED):
        assert reported(running(None, backend, quiet)).warning_message is None
    assert reported(running(None, Backend.SYSTEMD, hardening)).warning_message is None


def test_a_checksum_that_is_not_compared_is_warned_of() -> None:
    warning = reported(running(replace(IMAGE, checksum_sha256="a" * 64))).warning_message
    assert warning == "artifact.checksumSHA256: not compared: the digest in the url pins an oci artifact"
    assert reported(running(IMAGE)).warning_message is None
    assert reported(running(replace(FILE, checksum_sha256="a" * 64))).warning_message is None


def test_limits_that_the_device_cannot_enforce_are_warned_of() -> None:
    warning = reported(seen=replace(RUNNING, unlimited=("memory", "cpu"))).warning_message
    assert warning is not None
    assert "memory, cpu not limited by the backend process" in warning
    assert reported().warning_message is None


def test_drift_and_the_last_output_are_reported_if_there_is_any() -> None:
    assert (reported().drift_count, reported().output_tail) == (None, None)
    assert reported(replace(RECORD, output_tail="")).output_tail is None
    seen = reported(replace(RECORD, drift_count=2, output_tail="bye\n"))
    assert (seen.drift_count, seen.output_tail) == (2, "bye\n")


def test_a_record_known_by_name_only_is_reported_without_a_uid() -> None:
    assert reported(Record(uid="net/fw", name="fw"), None).uid == ""


NEXT = replace(ITEM, spec_hash="v2")
NEXT_IMAGE = replace(NEXT, spec=replace(ITEM.spec, artifact=FILE))


@pytest.mark.parametrize(
    ("wanted", "record", "more", "expected"),
    [
        pytest.param(ITEM, RECORD, {}, None, id="current"),
        pytest.param(NEXT, RECORD, {}, None, id="nothing-to-say"),
        pytest.param(
            NEXT,
            replace(RECORD, failure=Failure(reason="BackendUnavailable", message="no docker")),
            {},
            ("BackendUnavailable", "no docker"),
            id="backend",
        ),
        pytest.param(
            NEXT,
            replace(RECORD, failure=Failure(reason="MemoryNotKept", message="not changed: disk full")),
            {},
            ("StateNotWritable", "not changed: disk full"),
            id="disk",
        ),
        pytest.param(
            NEXT, replace(RECORD, stop_deadline=9.0), {}, ("EndingOldVersion", "the old version is ending"), id="ending"
        ),
        pytest.param(NEXT_IMAGE, RECORD, {}, ("FetchingArtifact", "the artifact is being fetched"), id="fetching"),
        pytest.param(
            NEXT_IMAGE,
            RECORD,
            {"artifacts": {"v2": ArtifactState(failure=Failure(reason="NotFound", message="404"))}},
            None,
            id="the-artifact-says-why-itself",
        ),
        pytest.param(NEXT_IMAGE, RECORD, {"freeze": "held"}, None, id="the-freeze-says-why-itself"),
        pytest.param(
            NEXT,
            replace(RECORD, rollback=Rollback(spec_hash="v2", reason=RollbackReason.CRASH_LOOP, message="x")),
            {},
            None,
            id="given-up",
        ),
    ],
)
def test_why_a_newer_spec_does_not_run_yet_is_reported(
    wanted: DesiredItem, record: Record, more: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    device = ObservedDevice(boot_id="b", observed={"u": RUNNING}, **more)
    seen = report.observations(Desired(device_name="d", items=(wanted,)), {"u": record}, device, {}, 0.0)["u"]
    assert (seen.pending_reason, seen.pending_message) == (expected or (None, None))


def test_a_spec_that_cannot_be_read_is_reported_while_the_old_version_runs_on() -> None:
    bad = InvalidItem(uid="u", namespace="net", name="fw", spec_hash="v2", faults=())
    record = replace(RECORD, failure=Failure(reason="InvalidSpec", message="spec.command: missing"))
    device = ObservedDevice(boot_id="b", observed={"u": RUNNING})
    seen = report.observations(Desired(device_name="d", invalid=(bad,)), {"u": record}, device, {}, 0.0)["u"]
    assert (seen.pending_reason, seen.pending_message) == ("InvalidSpec", "spec.command: missing")


def many(count: int) -> dict[str, Observation]:
    return {f"u{index:03}": Observation(name=f"p{index}") for index in range(count)}


def fresh() -> ReportState:
    return ReportState(base=5000, next_at=100.0)


ACK = ReportAck(ack=True, heartbeat_interval_seconds=10)


def test_observations_go_once_and_again_when_they_change() -> None:
    current = many(2)
    reporter = fresh()
    assert len(reporter.due(current)) == 2
    reporter = reporter.acked(ACK, current, reporter.due(current), 100, 0.5)
    assert reporter.due(current) == ()
    changed = current | {"u001": Observation(name="p1", pid=9)}
    assert reporter.due(changed) == (Observation(name="p1", pid=9),)


def test_a_change_is_reported_at_once_and_a_heartbeat_after_its_interval() -> None:
    current = many(1)
    reporter = fresh().acked(ACK, current, tuple(current.values()), 100, 0.5)
    assert reporter.due_at(current, 101) == 110
    assert reporter.due_at(many(2), 101) == 101


def test_before_the_first_contact_nothing_is_sent() -> None:
    quiet = ReportState(base=5000, next_at=103, quiet_until=103)
    assert [quiet.due_at(many(1), now) for now in (100, 103)] == [103, 103]


def test_a_lost_report_is_retried_not_at_once_but_soon() -> None:
    current = many(1)
    reporter = fresh().failed(100, 0.5)
    assert reporter.due_at(current, 100) == 101
    assert reporter.failed(101, 0.5).due_at(current, 101) == 103
    assert reporter.due(current) == tuple(current.values())


def test_a_gateway_that_asks_for_patience_gets_it() -> None:
    assert fresh().failed(100, 0.0, retry_after=30).next_at == 130
    assert 130 < fresh().failed(100, 0.9, retry_after=30).next_at < 138


def test_many_observations_are_split_over_several_reports() -> None:
    current, reporter, sent = many(150), fresh(), []
    while due := reporter.due(current):
        assert len(due) <= MAX_OBSERVATIONS
        sent.append(len(due))
        reporter = reporter.acked(ACK, current, due, 100, 0.5)
    assert sent == [64, 64, 22]


def test_long_observations_are_split_to_fit_the_gateways_limit() -> None:
    current = {uid: replace(seen, output_tail="\U0001f600" * 2000) for uid, seen in many(64).items()}
    reporter, sent = fresh(), 0
    while due := reporter.due(current):
        assert len(json.dumps(write(Report(observations=due)))) < MAX_BODY_BYTES
        sent += len(due)
        reporter = reporter.acked(ACK, current, due, 100, 0.5)
    assert sent == 64


def test_a_resync_sends_everything_again_with_the_facts() -> None:
    current = many(2)
    reporter = fresh().acked(ACK, current, tuple(current.values()), 100, 0.5)
    assert reporter.facts_known
    reporter = reporter.acked(replace(ACK, resync=True), current, (), 110, 0.5)
    assert len(reporter.due(current)) == 2
    assert not reporter.facts_known


def test_a_device_without_processes_repeats_its_facts_once_on_a_resync() -> None:
    reporter = fresh().acked(ACK, {}, (), 100, 0.5)
    asked = reporter.acked(replace(ACK, resync=True), {}, (), 110, 0.5)
    assert not asked.facts_known
    assert asked.acked(replace(ACK, resync=True), {}, (), 120, 0.5).facts_known  # they were in that report


def test_a_resync_that_was_just_fulfilled_or_comes_too_often_is_no_loop() -> None:
    current, again = many(100), replace(ACK, resync=True)
    full = many(2)
    assert fresh().acked(again, full, tuple(full.values()), 100, 0.5).due(full) == ()
    reporter = fresh().acked(ACK, current, tuple(current.values())[:64], 100, 0.5)
    rounds = 0
    while due := reporter.due(current):
        reporter = reporter.acked(again, current, due, 100, 0.5)
        rounds += 1
    assert rounds < 5


def test_what_is_gone_is_forgotten() -> None:
    current = many(2)
    reporter = fresh().acked(ACK, current, tuple(current.values()), 100, 0.5)
    reporter = reporter.acked(ACK, {}, (), 110, 0.5)
    assert reporter.acknowledged == {}


def test_the_report_carries_its_number_and_the_facts_until_they_are_known() -> None:
    identity = Report(agent_version="1", boot_id="b", facts={"os": "x"})
    first = report.report(identity, fresh(), (), "t")
    assert (first.seq, first.facts, first.boot_id, first.timestamp) == (5000, {"os": "x"}, "b", "t")
    later = report.report(identity, fresh().acked(ACK, {}, (), 0, 0.5), (), "t")
    assert (later.seq, later.facts) == (5001, None)


@given(st.floats(0, 1e7), st.floats(0.01, 1e5), st.integers(1, 10))
def test_numbers_grow_over_a_restart_of_the_agent(start: float, lived: float, reports_a_second: int) -> None:
    reporter = ReportState(base=report.first_seq(start), next_at=0, sent=int(lived * reports_a_second))
    assert report.first_seq(start + lived + 0.01) > reporter.seq


def test_a_revision_grows_with_a_change_of_its_observation_and_with_nothing_else() -> None:
    first = fresh().revised(many(2), 5.0)
    assert {uid: seen.revision for uid, seen in first.latest.items()} == {"u000": 5000, "u001": 5000}
    assert first.revised(many(2), 6.0) is first
    changed = many(2) | {"u001": Observation(name="p1", pid=9)}
    second = first.revised(changed, 5.0)  # within the same millisecond
    assert {uid: seen.revision for uid, seen in second.latest.items()} == {"u000": 5000, "u001": 5001}
    back = second.revised(many(2), 7.5)
    assert {uid: seen.revision for uid, seen in back.latest.items()} == {"u000": 5000, "u001": 7500}


@given(st.floats(0, 1e7), st.floats(0.01, 1e5), st.integers(1, 10))
def test_revisions_grow_over_a_restart_of_the_agent_without_a_file(start: float, lived: float, changes: int) -> None:
    state = fresh()
    for number in range(changes):
        state = state.revised({"u": Observation(name="p", pid=number)}, start + lived * number / changes)
    restarted = fresh().revised({"u": Observation(name="p")}, start + lived + 0.02)
    assert (restarted.latest["u"].revision or 0) > (state.latest["u"].revision or 0)


def test_a_heartbeat_says_what_was_acknowledged_of_the_desired_processes() -> None:
    reporter = fresh().revised(many(3), 5.0)
    identity, current = Report(revision=7), reporter.latest
    due = reporter.due(current)
    assert report.report(identity, reporter, due, "t", current).reported is None
    reporter = reporter.acked(ACK, current, due, 100, 0.5)
    beat = report.report(identity, reporter, (), "t", ("u000", "u001", "unknown"))
    assert (beat.revision, beat.reported) == (7, 10_000)


def test_what_goes_wrong_with_a_process_that_runs_its_spec_is_a_warning() -> None:
    record = replace(RECORD, failure=Failure(reason="FilesNotWritten", message="a loop of links"))
    device = ObservedDevice(boot_id="b", observed={"u": RUNNING})

    def said(wanted: DesiredItem, known: Record) -> Observation:
        return report.observations(Desired(device_name="d", items=(wanted,)), {"u": known}, device, {}, 0.0)["u"]

    assert (said(ITEM, RECORD).error_message, said(ITEM, RECORD).warning_message) == (None, None)
    assert said(ITEM, record).error_message == said(ITEM, record).warning_message == "a loop of links"
    assert (said(NEXT, record).pending_message, said(NEXT, record).warning_message) == ("a loop of links", None)
