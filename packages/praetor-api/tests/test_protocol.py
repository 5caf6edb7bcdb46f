# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args

import pytest

from praetor_api.constraints import Constraint
from praetor_api.protocol import (
    AGENT_FEATURES,
    DesiredItem,
    Observation,
    Report,
    ReportAck,
    connect_path,
    desired_path,
    features_needed,
    read_desired,
    read_report,
    report_path,
)
from praetor_api.spec import Backend
from praetor_api.wire import WireError, read, wire_fields, write

GOOD = {
    "uid": "u1",
    "namespace": "net",
    "name": "fw-leaf-1",
    "generation": 2,
    "specHash": "sha256:1",
    "spec": {"execution": {"backend": "process", "command": ["true"]}, "deviceRef": {"name": "leaf-1"}},
}


FIRST_VERSION = frozenset(
    [
        "confirmedSpecHash",
        "generation",
        "name",
        "namespace",
        "spec",
        "specHash",
        "uid",
        "spec.artifact",
        "spec.artifact.checksumSHA256",
        "spec.artifact.type",
        "spec.artifact.url",
        "spec.confirm",
        "spec.confirm.mode",
        "spec.confirm.timeoutSeconds",
        "spec.execution",
        "spec.execution.args",
        "spec.execution.backend",
        "spec.execution.command",
        "spec.execution.env",
        "spec.execution.env.name",
        "spec.execution.env.value",
        "spec.execution.hardening",
        "spec.execution.resources",
        "spec.execution.resources.cpu",
        "spec.execution.resources.memory",
        "spec.execution.resources.tasks",
        "spec.execution.terminationGracePeriodSeconds",
        "spec.execution.user",
        "spec.execution.workingDir",
        "spec.healthCheck",
        "spec.healthCheck.exec",
        "spec.healthCheck.exec.command",
        "spec.healthCheck.failureThreshold",
        "spec.healthCheck.periodSeconds",
        "spec.healthCheck.startupGraceSeconds",
        "spec.healthCheck.successThreshold",
        "spec.healthCheck.timeoutSeconds",
        "spec.restartPolicy",
        "spec.restartedAt",
    ]
)
"""The fields of a desired item that every agent knows. No field is ever added here."""


def fields_of(hint: Any, path: str = "", said: bool = False) -> Iterator[tuple[str, Constraint, bool]]:
    """Yield the fields of an item, and whether a field around each one says already what an older agent does."""
    for inner in (hint, *get_args(hint)):
        if isinstance(inner, type) and is_dataclass(inner):
            for field in wire_fields(inner):
                at = f"{path}.{field.wire}".removeprefix(".")
                yield at, field.constraint, said
                says = said or field.constraint.ignorable or bool(field.constraint.feature)
                yield from fields_of(field.type, at, says)
        elif inner is not hint and get_args(inner):
            yield from fields_of(inner, path, said)


def test_each_newer_field_of_an_item_says_whether_an_older_agent_may_ignore_it() -> None:
    found = list(fields_of(DesiredItem))
    assert {path for path, _, _ in found} >= FIRST_VERSION
    newer = [each for each in found if each[0] not in FIRST_VERSION]
    silent = [path for path, own, said in newer if not (said or own.ignorable or own.feature)]
    assert silent == [], "give it Constraint(feature=…) or Constraint(ignorable=True)"
    assert {own.feature for _, own, _ in newer if own.feature} == AGENT_FEATURES


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        pytest.param({"execution": {"backend": "process"}}, set(), id="first-version"),
        pytest.param({"execution": {"reboot": "Never"}}, set(), id="as-before"),
        pytest.param({"execution": {"reboot": "Expected"}}, {"reboot.v1"}, id="reboot"),
        pytest.param({"execution": {}, "postCheck": {"command": ["true"]}}, {"reboot.v1"}, id="post-check"),
        pytest.param({"execution": {"expandVariables": False}}, set(), id="values-as-before"),
        pytest.param({"execution": {"expandVariables": True}}, {"values.v1"}, id="values"),
        pytest.param({"execution": {"container": {"network": "none"}}}, {"container.v1"}, id="container"),
        pytest.param({"execution": {"files": []}}, set(), id="no-files"),
        pytest.param({"execution": {"files": [{"path": "a", "content": ""}]}}, {"files.v1"}, id="files"),
        pytest.param(
            {"execution": {"files": [{"path": "a", "configMapKeyRef": {"name": "a", "key": "b"}}]}},
            {"files.v1", "file-references.v1"},
            id="a-file-of-a-config-map",
        ),
        pytest.param(
            {"execution": {"files": [{"path": "a", "content": ""}, {"path": "b", "secretKeyRef": {"name": "a"}}]}},
            {"files.v1", "file-references.v1"},
            id="a-file-of-a-secret",
        ),
        pytest.param({"healthCheck": {"exec": {"command": ["true"]}}}, set(), id="exec"),
        pytest.param({"healthCheck": {"httpGet": {"port": 80}}}, {"probes.v1"}, id="http-get"),
        pytest.param({"healthCheck": {"tcpSocket": {"port": 80}}}, {"probes.v1"}, id="tcp-socket"),
        pytest.param(
            {"execution": {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]}},
            {"values.v1", "references.v1"},
            id="a-config-map",
        ),
        pytest.param(
            {"execution": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]}},
            {"values.v1", "secrets.v1"},
            id="a-secret",
        ),
        pytest.param({"execution": {"env": [{"name": "A"}, {"valueFrom": {}}]}}, {"values.v1"}, id="a-reference"),
        pytest.param({"execution": {"env": [{"name": "A", "value": "x"}, 3]}}, set(), id="plain-variables"),
        pytest.param({"execution": "nonsense"}, set(), id="no-object"),
    ],
)
def test_a_spec_needs_the_features_of_the_fields_that_it_uses(spec: dict[str, Any], needed: set[str]) -> None:
    assert features_needed(spec) == needed


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


def test_contents_of_files_are_read_and_never_repeated_in_a_fault() -> None:
    values = [{"path": "a b/\u202ec", "content": "aHVudGVyMg=="}, {"path": "e", "content": ""}]
    (item,) = read_desired({"deviceName": "leaf-1", "items": [GOOD | {"fileValues": values}]}).items
    assert item.file_values is not None
    assert [(each.path, each.content) for each in item.file_values] == [(v["path"], v["content"]) for v in values]
    assert "aHVudGVyMg" not in repr(item)
    assert read(DesiredItem, write(item)) == item
    long = [{"path": "a", "content": "aHVudGVyMg" * 20_000}]
    (bad,) = read_desired({"deviceName": "leaf-1", "items": [GOOD | {"fileValues": long}]}).invalid
    assert "fileValues[0].content" in str(bad.faults[0])
    assert "aHVudGVyMg" not in str(bad)


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
