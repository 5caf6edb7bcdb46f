# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from praetor_api.protocol import (
    Observation,
    Report,
    ReportAck,
    connect_path,
    desired_path,
    read_desired,
    read_report,
    report_path,
)
from praetor_api.spec import Backend
from praetor_api.wire import WireError, read, write

GOOD = {
    "uid": "u1",
    "namespace": "net",
    "name": "fw-leaf-1",
    "generation": 2,
    "specHash": "sha256:1",
    "spec": {"execution": {"backend": "process", "command": ["true"]}, "deviceRef": {"name": "leaf-1"}},
}


def test_a_report_of_the_seed_protocol_is_enough() -> None:
    report, observations, rejected = read_report(
        {
            "agentVersion": "1",
            "timestamp": "2026-01-01T00:00:00Z",
            "heartbeat": True,
            "observations": [{"name": "p", "observedSpecHash": "h", "processStarted": True, "healthy": False}],
        }
    )
    assert report.agent_version == "1"
    assert observations == (Observation(name="p", observed_spec_hash="h", process_started=True, healthy=False),)
    assert rejected == ()


def test_one_bad_observation_never_fails_the_others() -> None:
    _, observations, rejected = read_report(
        {"observations": [{"name": "a", "pid": "x"}, {"name": "b"}, "nonsense", {"name": 3}]}
    )
    assert [item.name for item in observations] == ["b"]
    assert [(item.name, item.reason) for item in rejected] == [
        ("a", "observations[0].pid: must be a whole number, not a string"),
        ("", "observations[2]: must be an object, not a string"),
        ("", "observations[3].name: must be a string, not a number"),
    ]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        pytest.param({"observations": [{}] * 65}, "observations", id="too-many"),
        pytest.param({"seq": -1}, "seq", id="negative-seq"),
        pytest.param({"facts": {str(n): "x" for n in range(33)}}, "facts", id="too-many-facts"),
        pytest.param({"facts": {"x" * 318: "y"}}, "facts", id="long-name-of-a-fact"),
        pytest.param({"bootID": "x" * 65}, "bootID", id="boot-id"),
    ],
)
def test_a_bad_report_is_refused_by_the_fields_name(data: object, field: str) -> None:
    with pytest.raises(WireError, match=field):
        read_report(data)


def test_a_message_that_is_too_long_is_cut() -> None:
    _, (observation,), _ = read_report({"observations": [{"name": "a", "errorMessage": "x" * 5000}]})
    assert observation.error_message == "x" * 1024


def test_an_item_that_cannot_be_decoded_does_not_affect_the_others() -> None:
    bad = GOOD | {"name": "other", "spec": {"execution": {"backend": "quantum"}}}
    desired = read_desired({"deviceName": "leaf-1", "items": [GOOD, bad, 7]})
    assert [item.name for item in desired.items] == ["fw-leaf-1"]
    assert desired.items[0].spec.execution.backend is Backend.PROCESS
    assert [(item.name, item.uid, item.spec_hash) for item in desired.invalid] == [
        ("other", "u1", "sha256:1"),
        ("", "", ""),
    ]
    assert "items[1].spec.execution.backend" in str(desired.invalid[0].faults[0])


@pytest.mark.parametrize("data", [[], {}, {"items": {}}, {"items": []}], ids=str)
def test_a_desired_state_without_its_list_or_device_is_refused(data: object) -> None:
    with pytest.raises(WireError):
        read_desired(data)


def test_an_empty_desired_state_is_a_valid_one() -> None:
    desired = read_desired({"deviceName": "leaf-1", "items": [], "heartbeatIntervalSeconds": 5})
    assert (desired.device_name, desired.items, desired.heartbeat_interval_seconds) == ("leaf-1", (), 5)


def test_names_on_the_wire_are_those_of_the_protocol() -> None:
    report = Report(agent_version="1", boot_id="b", seq=4, observations=({"name": "p"},))
    assert write(report) == {"agentVersion": "1", "bootID": "b", "seq": 4, "observations": [{"name": "p"}]}
    ack = {"ack": True, "desiredETag": '"x"', "heartbeatIntervalSeconds": 5, "resync": True}
    assert write(read(ReportAck, ack)) == ack


def test_paths_carry_the_device() -> None:
    assert [path("leaf-1") for path in (desired_path, report_path, connect_path)] == [
        "/v1/devices/leaf-1/desired",
        "/v1/devices/leaf-1/report",
        "/v1/devices/leaf-1/connect",
    ]
