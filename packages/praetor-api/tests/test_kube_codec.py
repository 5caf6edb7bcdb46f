# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.codec import DecodeError, decode, encode, format_time, parse_time
from praetor_api.kube.objects import (
    Budget,
    Condition,
    ConditionStatus,
    DeviceProcess,
    DeviceProcessDeployment,
    DeviceProcessDeploymentSpec,
    LabelSelector,
    LabelSelectorRequirement,
    NetworkSwitch,
    ProcessTemplate,
    RollingUpdate,
    SelectorOperator,
    StrategyType,
    TemplateMeta,
    UpdateStrategy,
    Wave,
)
from praetor_api.spec import Backend, EnvVar, Execution, ProcessSpec, RestartPolicy

DEPLOYMENT: dict[str, Any] = {
    "metadata": {
        "name": "fw",
        "namespace": "net",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"manager": "kubectl"}],
        "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "y", "controller": True}],
    },
    "spec": {
        "selector": {"matchExpressions": [{"key": "role", "operator": "In", "values": ["leaf"]}]},
        "template": {"spec": {"execution": {"backend": "process", "command": ["fwd"]}, "restartPolicy": "Never"}},
        "updateStrategy": {"type": "Recreate", "rollingUpdate": {"maxUnavailable": 3}},
    },
    "status": {"numberReady": 2, "conditions": [{"type": "Available", "status": "True", "reason": "R"}]},
}


def test_a_deployment_is_decoded_with_its_defaults() -> None:
    deployment = decode(DEPLOYMENT, DeviceProcessDeployment)
    assert deployment.metadata.creation_timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert deployment.metadata.owner_references[0].controller is True
    assert deployment.spec.selector.match_expressions[0].operator is SelectorOperator.IN
    assert deployment.spec.template.spec.execution.backend is Backend.PROCESS
    assert deployment.spec.template.spec.restart_policy is RestartPolicy.NEVER
    assert deployment.spec.update_strategy.type is StrategyType.RECREATE
    assert deployment.spec.update_strategy.rolling_update.max_unavailable == 3
    assert deployment.spec.progress_deadline_seconds == 600
    assert deployment.status.conditions == (Condition(type="Available", status=ConditionStatus.TRUE, reason="R"),)


def test_encoding_omits_defaults_and_writes_enums_as_plain_text() -> None:
    spec = encode(decode(DEPLOYMENT, DeviceProcessDeployment).spec)
    assert spec == DEPLOYMENT["spec"]
    assert type(spec["updateStrategy"]["type"]) is str


def test_null_means_absent() -> None:
    switch = decode({"metadata": {"name": "leaf-1"}, "spec": {"model": None}, "status": None}, NetworkSwitch)
    assert switch == decode({"metadata": {"name": "leaf-1"}}, NetworkSwitch)


def test_every_bad_field_is_named_at_once() -> None:
    bad = {
        "metadata": {"name": 3, "creationTimestamp": "yesterday"},
        "spec": {
            "deviceRef": {"name": "leaf-1", "kind": "Toaster"},
            "execution": {"backend": "process", "command": "sleep", "resources": {"cpu": 1.5}},
        },
        "status": {"restartCount": True, "phase": 3},
    }
    with pytest.raises(DecodeError) as caught:
        decode(bad, DeviceProcess)
    assert {fault.path for fault in caught.value.faults} >= {
        "metadata.name",
        "metadata.creationTimestamp",
        "spec.deviceRef.kind",
        "spec.execution.resources.cpu",
        "status.restartCount",
        "status.phase",
    }
    assert "spec.deviceRef.kind: must be one of Server, NetworkSwitch, SOC, BMC, DPU, not 'Toaster'" in str(
        caught.value
    )


@pytest.mark.parametrize("data", [[], "x", None], ids=["list", "text", "null"])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(DecodeError, match="must be an object"):
        decode(data, NetworkSwitch)


def test_a_missing_field_is_reported_as_required() -> None:
    with pytest.raises(DecodeError, match="metadata: is required"):
        decode({}, NetworkSwitch)


def test_times_are_utc_in_whole_seconds() -> None:
    local = datetime(2026, 1, 2, 3, 4, 5, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(local) == "2026-01-02T01:04:05Z"
    assert parse_time("2026-01-02T01:04:05Z") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    with pytest.raises(ValueError, match="has no time zone"):
        parse_time("2026-01-02T01:04:05")


def test_a_time_of_another_type_is_refused() -> None:
    with pytest.raises(DecodeError, match="must be a time"):
        decode({"metadata": {"name": "x", "creationTimestamp": 3}}, NetworkSwitch)


text = st.text(max_size=10)
labels = st.dictionaries(text, text, max_size=2)
amounts = st.integers(0, 9) | st.integers(0, 100).map(lambda n: f"{n}%")
requirements = st.builds(
    LabelSelectorRequirement,
    key=text,
    operator=st.sampled_from(SelectorOperator),
    values=st.lists(text, max_size=2).map(tuple),
)
selectors = st.builds(
    LabelSelector, match_labels=labels, match_expressions=st.lists(requirements, max_size=2).map(tuple)
)
waves = st.builds(Wave, name=text, selector=st.none() | selectors, limit=st.none() | amounts)
budgets = st.builds(Budget, group_by=st.lists(text, max_size=2).map(tuple), max_unavailable=amounts)
rolling = st.builds(
    RollingUpdate,
    max_unavailable=amounts,
    waves=st.lists(waves, max_size=2).map(tuple),
    budgets=st.lists(budgets, max_size=2).map(tuple),
)
executions = st.builds(
    Execution,
    backend=st.sampled_from(Backend),
    command=st.lists(text, max_size=2).map(tuple),
    env=st.lists(st.builds(EnvVar, name=text, value=text), max_size=2).map(tuple),
)
specs = st.builds(
    DeviceProcessDeploymentSpec,
    selector=selectors,
    template=st.builds(
        ProcessTemplate,
        metadata=st.builds(TemplateMeta, labels=labels, annotations=labels),
        spec=st.builds(ProcessSpec, execution=executions),
    ),
    update_strategy=st.builds(UpdateStrategy, rolling_update=rolling),
    paused=st.booleans(),
)


@given(specs)
def test_what_is_encoded_is_decoded_the_same(spec: DeviceProcessDeploymentSpec) -> None:
    assert decode(encode(spec), DeviceProcessDeploymentSpec) == spec
