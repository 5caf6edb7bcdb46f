# SPDX-License-Identifier: Apache-2.0
"""The status of a process, by tables and properties."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_testing import process_object, process_row
from praetor_api.conditions import ProcessReason
from praetor_api.kube.codec import decode, encode
from praetor_api.kube.objects import ConditionStatus, DeviceProcessStatus, Phase
from praetor_api.protocol import Observation
from praetor_api.spec import RestartPolicy
from praetor_gateway.fleet.rows import Projection
from praetor_gateway.http.desired import render
from praetor_gateway.status import events
from praetor_gateway.status.composer import patch_of_process
from praetor_gateway.status.connected import connection
from praetor_gateway.status.merge import merge, start_time

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CURRENT = process_row().spec_hash


def seen(**fields: Any) -> Observation:
    return Observation(**{"name": "agent-leaf-1", "observed_spec_hash": CURRENT, **fields})


def said(status: DeviceProcessStatus) -> dict[str, str]:
    return {condition.type: f"{condition.status} {condition.reason}" for condition in status.conditions}


@pytest.mark.parametrize(
    ("check", "args", "reason"),
    [
        ({"exec": {"command": ["/bin/check"]}}, [], "NotProbedYet"),
        (None, [], "JustStarted"),
        (None, ['"healthCheck":{', "healthCheck"], "JustStarted"),
    ],
)
def test_what_has_no_health_check_waits_for_none(check: dict[str, Any] | None, args: list[str], reason: str) -> None:
    stored = process_object("leaf-1")
    stored["metadata"] |= {"uid": "u", "resourceVersion": "1", "namespace": "n", "generation": 1}
    stored["spec"]["execution"]["args"] = args
    stored["spec"] |= {"healthCheck": check} if check else {}
    row = Projection("site").process(stored)
    status = merge(row, seen(observed_spec_hash=row.spec_hash, process_started=True), connected=True, now=NOW)
    assert said(status)["Healthy"] == f"Unknown {reason}"


@pytest.mark.parametrize(
    ("policy", "observation", "phase"),
    [
        pytest.param("Always", seen(), Phase.PENDING, id="nothing-known"),
        pytest.param("Always", seen(process_started=True, pid=3), Phase.RUNNING, id="started"),
        pytest.param("Always", seen(process_started=False), Phase.PENDING, id="not-started-yet"),
        pytest.param("Always", seen(process_started=False, error_message="no such file"), Phase.FAILED, id="error"),
        pytest.param("Always", seen(process_started=False, exit_code=0), Phase.PENDING, id="always-restarts"),
        pytest.param("Never", seen(process_started=True, exit_code=0), Phase.SUCCEEDED, id="never-completed"),
        pytest.param("OnFailure", seen(process_started=False, exit_code=0), Phase.SUCCEEDED, id="onfailure-completed"),
        pytest.param("OnFailure", seen(process_started=False, exit_code=3), Phase.PENDING, id="onfailure-again"),
        pytest.param("Never", seen(process_started=False, exit_code=3), Phase.FAILED, id="never-failed"),
        pytest.param("Never", seen(process_started=True, pid=9, exit_code=3), Phase.RUNNING, id="runs-after-a-failure"),
        pytest.param(
            "Never", seen(observed_spec_hash="sha256:old", exit_code=0, process_started=False), Phase.PENDING, id="old"
        ),
        pytest.param(
            "Always", seen(observed_spec_hash="sha256:old", process_started=True, pid=1), Phase.RUNNING, id="old-runs"
        ),
        pytest.param(
            "Always",
            seen(observed_spec_hash="sha256:old", process_started=False, error_message="x"),
            Phase.PENDING,
            id="an-error-of-the-old-spec-is-no-failure-of-the-new",
        ),
    ],
)
def test_the_phase_says_where_a_process_is(policy: str, observation: Observation, phase: Phase) -> None:
    row = process_row(restart_policy=RestartPolicy(policy))
    assert merge(row, observation, connected=True, now=NOW).phase is phase


def test_drift_and_the_last_output_reach_the_status() -> None:
    first = merge(process_row(), seen(drift_count=2, output_tail="no config\n"), connected=True, now=NOW)
    assert (first.drift_count, first.output_tail) == (2, "no config\n")
    assert encode(first)["driftCount"] == 2
    assert encode(first)["outputTail"] == "no config\n"
    later = merge(process_row(status=first), seen(), connected=True, now=NOW)
    assert (later.drift_count, later.output_tail) == (None, None)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(seen(), {"SpecObserved": "True SpecCurrent"}, id="current"),
        pytest.param(seen(observed_spec_hash="x"), {"SpecObserved": "False SpecOutdated"}, id="outdated"),
        pytest.param(seen(observed_spec_hash=""), {"SpecObserved": "False HashNotReported"}, id="hashless"),
        pytest.param(
            seen(observed_spec_hash="x", pending_reason="BackendUnavailable", pending_message="no docker"),
            {"SpecObserved": "False BackendUnavailable"},
            id="a-reason-of-the-device",
        ),
        pytest.param(
            seen(observed_spec_hash="x", pending_reason="NotAllowed", pending_message="no"),
            {"SpecObserved": "False NotAllowed"},
            id="not-allowed",
        ),
        pytest.param(
            seen(observed_spec_hash="x", pending_reason="MyOwnWord", pending_message="odd"),
            {"SpecObserved": "False SpecOutdated"},
            id="pending-by-a-word-of-the-device",
        ),
        pytest.param(
            seen(observed_spec_hash="x", update_held_message="held"),
            {"SpecObserved": "False HeldOnDevice", "UpdateHeld": "True HeldOnDevice"},
            id="held",
        ),
        pytest.param(
            seen(observed_spec_hash="x", artifact_downloaded=False, error_message="404", artifact_reason="NotFound"),
            {"SpecObserved": "False NotFound", "ArtifactDownloaded": "False NotFound"},
            id="outdated-for-want-of-the-artifact",
        ),
        pytest.param(
            seen(observed_spec_hash="x", artifact_downloaded=True, artifact_verified=False, error_message="digest"),
            {
                "SpecObserved": "False VerificationFailed",
                "ArtifactDownloaded": "True Downloaded",
                "ArtifactVerified": "False VerificationFailed",
            },
            id="outdated-by-a-wrong-artifact",
        ),
        pytest.param(
            seen(artifact_downloaded=True),
            {"ArtifactDownloaded": "True Downloaded", "ArtifactVerified": "Unknown NothingToVerifyBy"},
            id="downloaded-and-not-pinned",
        ),
        pytest.param(seen(artifact_downloaded=False), {"ArtifactDownloaded": "False NotDownloaded"}, id="downloading"),
        pytest.param(
            seen(artifact_downloaded=False, error_message="404"),
            {"ArtifactDownloaded": "False DownloadFailed"},
            id="download-failed",
        ),
        pytest.param(
            seen(artifact_downloaded=False, error_message="no route", artifact_reason="Unreachable"),
            {"ArtifactDownloaded": "False Unreachable"},
            id="unreachable-registry",
        ),
        pytest.param(
            seen(artifact_downloaded=False, error_message="odd", artifact_reason="MyOwnWord"),
            {"ArtifactDownloaded": "False DownloadFailed"},
            id="a-word-of-the-device",
        ),
        pytest.param(
            seen(artifact_downloaded=True, artifact_verified=False, error_message="x", artifact_reason="UnsafeArchive"),
            {"ArtifactDownloaded": "True Downloaded", "ArtifactVerified": "False UnsafeArchive"},
            id="unsafe-archive",
        ),
        pytest.param(seen(artifact_verified=True), {"ArtifactVerified": "True Verified"}, id="verified"),
        pytest.param(seen(artifact_verified=False), {"ArtifactVerified": "False NotVerified"}, id="not-verified"),
        pytest.param(
            seen(artifact_downloaded=True, artifact_verified=False, error_message="digest"),
            {"ArtifactVerified": "False VerificationFailed", "ArtifactDownloaded": "True Downloaded"},
            id="verification-failed",
        ),
        pytest.param(
            seen(process_started=True), {"ProcessStarted": "True Started", "Healthy": "Unknown JustStarted"}, id="up"
        ),
        pytest.param(
            seen(process_started=True, healthy=True),
            {"ProcessStarted": "True Started", "Healthy": "True Healthy"},
            id="healthy",
        ),
        pytest.param(
            seen(process_started=True, healthy=False),
            {"ProcessStarted": "True Started", "Healthy": "False Unhealthy"},
            id="unhealthy",
        ),
        pytest.param(
            seen(process_started=False),
            {"ProcessStarted": "False NotStarted", "Healthy": "False NotRunning"},
            id="down",
        ),
        pytest.param(
            seen(process_started=False, exit_code=2),
            {"ProcessStarted": "False Exited", "Healthy": "False NotRunning"},
            id="exited",
        ),
        pytest.param(
            seen(process_started=False, error_message="boom"),
            {"ProcessStarted": "False StartFailed", "Healthy": "False NotRunning"},
            id="start-failed",
        ),
        pytest.param(seen(warning_message="old glibc"), {"SpecWarning": "True Reported"}, id="warned"),
    ],
)
def test_conditions_say_what_the_device_reported(observation: Observation, expected: dict[str, str]) -> None:
    status = merge(process_row(), observation, connected=None, now=NOW)
    assert {"SpecObserved": "True SpecCurrent", **said(status)} == {"SpecObserved": "True SpecCurrent", **expected}


def test_a_spec_without_a_checksum_is_not_verified_though_the_older_one_was() -> None:
    pinned = seen(artifact_downloaded=True, artifact_verified=True, process_started=True, healthy=True, pid=7)
    before = merge(process_row(), pinned, connected=True, now=NOW)
    after = merge(process_row(status=before), replace(pinned, artifact_verified=None), connected=True, now=NOW)
    assert (said(before)["ArtifactVerified"], said(after)["ArtifactVerified"]) == (
        "True Verified",
        "Unknown NothingToVerifyBy",
    )
    assert (after.phase, said(after)["Healthy"]) == (Phase.RUNNING, "True Healthy")  # neither hangs on it


def test_what_a_device_cannot_observe_for_now_keeps_its_conditions() -> None:
    healthy = merge(process_row(), seen(process_started=True, healthy=True, pid=7), connected=True, now=NOW)
    unknown = seen(warning_message="backend container cannot be asked: timed out")
    status = merge(process_row(status=healthy), unknown, connected=True, now=NOW)
    assert status.phase is Phase.RUNNING
    assert said(status) == {**said(healthy), "SpecWarning": "True Reported"}


def test_a_warning_ends_when_it_is_no_longer_reported() -> None:
    warned = merge(process_row(), seen(warning_message="w"), connected=None, now=NOW)
    without = merge(process_row(status=warned), seen(), connected=None, now=NOW)
    assert said(without)["SpecWarning"] == "False NoWarning"


def test_a_completed_process_counts_as_started_and_healthy() -> None:
    row = process_row(restart_policy=RestartPolicy.NEVER)
    status = merge(row, seen(exit_code=0, process_started=False, healthy=False), connected=True, now=NOW)
    assert said(status)["Healthy"] == "True Completed"
    assert said(status)["ProcessStarted"] == "True Completed"


def test_the_observed_generation_moves_only_with_the_current_hash() -> None:
    row = process_row(generation=5, status=DeviceProcessStatus(observed_generation=4))
    assert merge(row, seen(observed_spec_hash="old"), connected=None, now=NOW).observed_generation == 4
    assert merge(row, seen(), connected=None, now=NOW).observed_generation == 5


@pytest.mark.parametrize(
    ("observation", "policy", "phase"),
    [
        (seen(process_started=True, pid=1), "Always", Phase.UNKNOWN),
        (seen(exit_code=0), "Never", Phase.SUCCEEDED),
        (seen(process_started=False, exit_code=1), "Never", Phase.FAILED),
    ],
)
def test_a_lost_connection_makes_the_phase_unknown_unless_the_process_ended(
    observation: Observation, policy: str, phase: Phase
) -> None:
    row = process_row(restart_policy=RestartPolicy(policy))
    lost = merge(evolve(row, status=merge(row, observation, connected=True, now=NOW)), None, connected=False, now=NOW)
    assert lost.phase is phase
    assert connection(lost.conditions) is False


def test_a_device_that_reconnects_has_its_former_status() -> None:
    row = process_row()
    before = merge(row, seen(process_started=True, pid=1), connected=True, now=NOW)
    lost = merge(evolve(row, status=before), None, connected=False, now=NOW)
    back = merge(evolve(row, status=lost), None, connected=True, now=NOW)
    assert back == before


def test_an_unknown_connection_leaves_the_condition_as_it_is() -> None:
    row = process_row(status=merge(process_row(), None, connected=True, now=NOW))
    assert merge(row, None, connected=None, now=NOW) == row.status


def test_control_characters_of_a_device_never_reach_reasons_or_hashes() -> None:
    evil = "Reason\x1b[31m"
    status = merge(
        process_row(),
        seen(process_started=False, error_message=evil, observed_spec_hash="a\x07b", artifact_digest="\x1b"),
        connected=True,
        now=NOW,
    )
    assert {condition.reason for condition in status.conditions} <= set(ProcessReason)
    assert "\x07" not in (status.observed_spec_hash or "")
    assert "\x1b" not in (status.artifact_digest or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("0001-01-01T00:00:00Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-01-01T01:00:00.9+01:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_start_times_are_whole_seconds_in_utc(text: str | None, expected: datetime | None) -> None:
    assert start_time(text) == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_start_time_without_a_zone_or_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        start_time(text)


maybe = st.none() | st.booleans()
observations = st.builds(
    Observation,
    name=st.just("p"),
    observed_spec_hash=st.sampled_from([CURRENT, "old", ""]),
    process_started=maybe,
    healthy=maybe,
    pid=st.none() | st.integers(0, 9),
    exit_code=st.none() | st.integers(-1, 1),
    restart_count=st.integers(0, 3),
    error_message=st.none() | st.text(max_size=5),
    warning_message=st.none() | st.just("w"),
    artifact_downloaded=maybe,
    artifact_verified=maybe,
    start_time=st.none() | st.just("2026-01-01T00:00:00Z"),
)
steps = st.lists(st.tuples(st.none() | observations, maybe, st.integers(0, 90)), max_size=8)


@settings(deadline=None)
@given(steps=steps, policy=st.sampled_from(list(RestartPolicy)))
def test_merging_is_idempotent_and_statuses_survive_encoding(
    steps: list[tuple[Observation | None, bool | None, int]], policy: RestartPolicy
) -> None:
    row, now = process_row(restart_policy=policy), NOW
    for observation, connected, later in steps:
        now += timedelta(seconds=later)
        status = merge(row, observation, connected=connected, now=now)
        again = evolve(row, status=status)
        assert merge(again, observation, connected=connected, now=now + timedelta(hours=1)) == status
        assert decode(encode(status), DeviceProcessStatus) == status
        assert patch_of_process(again, status, None, has_switch=True) is None
        for condition in status.conditions:
            assert condition.last_transition_time is not None
            assert condition.last_transition_time <= now
        row = again


@settings(deadline=None)
@given(steps=steps)
def test_only_a_current_spec_can_be_ready(steps: list[tuple[Observation | None, bool | None, int]]) -> None:
    row = process_row()
    for observation, connected, _ in steps:
        row = evolve(row, status=merge(row, observation, connected=connected, now=NOW))
        if row.status.phase in (Phase.SUCCEEDED, Phase.FAILED):
            assert row.status.observed_spec_hash == CURRENT
        if row.status.phase is Phase.RUNNING:
            assert connection(row.status.conditions) is not False
    assert all(condition.status in ConditionStatus for condition in row.status.conditions)


def test_observing_a_new_spec_moves_the_transition_time_even_if_it_is_observed_at_once() -> None:
    """Else a process would be available under the new spec by how long the old one had been ready."""
    good = seen(process_started=True, healthy=True, pid=3)
    first = merge(process_row(generation=1), good, connected=True, now=NOW)
    row = evolve(process_row(), generation=2, status=first)
    later = merge(row, good, connected=True, now=NOW + timedelta(hours=1))
    since = {condition.type: condition.last_transition_time for condition in later.conditions}
    assert (since["SpecObserved"], since["Healthy"]) == (NOW + timedelta(hours=1), NOW)
    row = evolve(row, status=later)
    assert merge(row, good, connected=True, now=NOW + timedelta(hours=2)) == later


def test_a_spec_that_failed_on_the_device_is_rolled_back_at_the_current_generation() -> None:
    row = process_row()
    observation = seen(
        observed_spec_hash="sha256:old",
        process_started=True,
        healthy=True,
        failed_spec_hash=CURRENT,
        rolled_back_reason="CrashLoop",
        rolled_back_message="it ended 3 times",
    )
    status = merge(row, observation, connected=True, now=NOW)
    condition = next(each for each in status.conditions if each.type == "RolledBack")
    assert (condition.status, condition.reason, condition.message) == ("True", "CrashLoop", "it ended 3 times")
    assert condition.observed_generation == row.generation
    assert said(status)["SpecObserved"] == "False SpecRolledBack"
    assert status.failed_spec_hash == CURRENT
    happened = events.of_process(row.status, status, has_switch=True)
    assert ("RolledBack", "it ended 3 times") in [(each.reason, each.note) for each in happened]
    fixed = merge(evolve(row, status=status), seen(process_started=True), connected=True, now=NOW)
    assert said(fixed)["RolledBack"] == "False NotRolledBack"


def test_a_rollback_reason_that_is_not_of_the_protocol_becomes_other() -> None:
    observation = seen(observed_spec_hash="x", failed_spec_hash=CURRENT, rolled_back_reason="DROP TABLE")
    assert said(merge(process_row(), observation, connected=True, now=NOW))["RolledBack"] == "True Other"


def test_a_failed_older_spec_does_not_mark_the_current_one_as_rolled_back() -> None:
    observation = seen(failed_spec_hash="sha256:older", rolled_back_reason="CrashLoop")
    assert "RolledBack" not in said(merge(process_row(), observation, connected=True, now=NOW))


def test_a_held_update_is_a_condition_until_it_is_released() -> None:
    row = process_row()
    held = merge(row, seen(update_held_message="held by /run/praetor/hold"), connected=True, now=NOW)
    assert said(held)["UpdateHeld"] == "True HeldOnDevice"
    free = merge(evolve(row, status=held), seen(), connected=True, now=NOW)
    assert said(free)["UpdateHeld"] == "False NotHeld"
    assert [each.reason for each in events.of_process(held, free, has_switch=True)] == ["UpdateReleased"]
    assert "UpdateHeld" not in said(merge(row, seen(), connected=True, now=NOW))


def test_a_version_on_trial_is_not_relied_on_until_the_device_vouches_for_it() -> None:
    row = process_row()
    up = seen(process_started=True, healthy=True, pid=3)
    trial = merge(row, replace(up, on_trial=True), connected=True, now=NOW)
    assert (said(trial)["OnTrial"], said(trial)["Healthy"]) == ("True NotProvenYet", "True Healthy")
    assert (trial.phase, trial.reason) == (Phase.RUNNING, "NotProvenYet")
    proven = merge(evolve(row, status=trial), up, connected=True, now=NOW)
    assert (said(proven)["OnTrial"], proven.reason) == ("False Proven", None)
    assert "OnTrial" not in said(merge(row, up, connected=True, now=NOW))  # as of an agent that knows no trials


def test_a_confirmation_is_rendered_and_changes_what_the_etag_covers() -> None:
    row = process_row()
    confirmed = evolve(row, confirmed=row.spec_hash)
    item = json.loads(render("leaf-1", 15, [confirmed]))["items"][0]
    assert item["confirmedSpecHash"] == item["specHash"] == row.spec_hash
    assert "confirmedSpecHash" not in json.loads(render("leaf-1", 15, [row]))["items"][0]
    assert confirmed.version != row.version


@pytest.mark.parametrize(("said", "seconds"), [("45", 45), ("", None), ("soon", None), ("9" * 30, None), ("٣", None)])
def test_how_long_a_version_is_on_trial_is_rendered_from_its_annotation(said: str, seconds: int | None) -> None:
    stored = process_object("leaf-1")
    stored["metadata"] |= {
        "annotations": {"azure.com/min-ready-seconds": said},
        "uid": "u",
        "resourceVersion": "1",
        "namespace": "n",
    }
    item = json.loads(render("leaf-1", 15, [Projection("site").process(stored)]))["items"][0]
    assert item.get("minReadySeconds") == seconds


@pytest.mark.parametrize(
    ("policy", "observation", "connected", "reason"),
    [
        pytest.param("Always", seen(process_started=True, healthy=True), True, None, id="ready"),
        pytest.param("Always", seen(process_started=True, healthy=True), False, "HeartbeatMissed", id="silent"),
        pytest.param("Never", seen(process_started=True, exit_code=0), True, None, id="completed"),
        pytest.param("Always", seen(process_started=True), True, "JustStarted", id="just-started"),
        pytest.param("Always", seen(process_started=False, exit_code=1), True, "Exited", id="ended"),
        pytest.param(
            "Always",
            seen(process_started=False, artifact_downloaded=False, error_message="x", artifact_reason="DiskFull"),
            True,
            "DiskFull",
            id="no-artifact",
        ),
        pytest.param(
            "Always",
            seen(observed_spec_hash="old", process_started=True, healthy=True, pending_reason="StateNotWritable"),
            True,
            "StateNotWritable",
            id="the-old-version-runs-on",
        ),
    ],
)
def test_a_status_names_the_cause_for_which_the_process_is_not_ready(
    policy: str, observation: Observation, connected: bool, reason: str | None
) -> None:
    row = process_row(restart_policy=RestartPolicy(policy))
    assert merge(row, observation, connected=connected, now=NOW).reason == reason


def test_the_cause_alone_is_no_reason_to_write_a_status_but_a_wrong_one_is() -> None:
    status = merge(process_row(), seen(process_started=False, exit_code=1), connected=True, now=NOW)
    assert status.reason == "Exited"
    before = evolve(status, reason=None)  # of an earlier gateway, or of CRDs that drop the field
    assert merge(process_row(status=before), None, connected=True, now=NOW) == before
    wrong = evolve(status, reason="DiskFull")  # an earlier gateway wrote the rest
    assert merge(process_row(status=wrong), None, connected=True, now=NOW) == status
