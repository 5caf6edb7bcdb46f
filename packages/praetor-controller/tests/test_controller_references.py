# SPDX-License-Identifier: Apache-2.0
"""Templates that refer to objects: the controller cannot read them, and offers nothing that no device would get."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, process, snapshot, template
from praetor_api.kube.objects import FailurePolicy, StrategyType, Wave
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.rows import DeviceRow, ProcessRow, StoredStatus
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Plan

AT = START.timestamp()
LACKS = "ReferenceMissing(configmap/settings key level): its namespace has no such object …"
REFUSED = "ReferenceRefused(NotEnabled in lab): apply deploy/components/references …"
MISSING = Reason(ReasonCode.REFERENCE_MISSING, "configmap/settings key level")
UNTAKEN: dict[str, Any] = {"observed": False, "ready_since": None, "settled_since": None}
FEATURES = frozenset({"values.v1", "references.v1"})
ENV = [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}]
REFERS = {"execution": {"backend": "process", "env": ENV}}


def given(name: str, hash_: str, held: str = "", **fields: Any) -> ProcessRow:
    return process(name, hash_, **(UNTAKEN | {"held": held} if held else {}) | fields)


def planned(
    processes: list[ProcessRow], *more: DeviceRow, spec: dict[str, Any] = REFERS, current: Any = None, **policy: Any
) -> Plan:
    row = deployment("v2", **policy)
    row = evolve(row, template=evolve(row.template, spec=spec))
    devices = [evolve(device(each.device, connected=each.connected), features=FEATURES) for each in processes]
    return plan(snapshot(row, [*devices, *more], processes, current=current), START)


def updated(made: Plan) -> list[str]:
    return sorted(action.process.device for action in made.actions if isinstance(action, Update))


@pytest.mark.parametrize("held", [LACKS, REFUSED])
def test_what_the_first_device_lacks_is_offered_to_no_other(held: str) -> None:
    rows = [given("a", "v2", held), given("b", "v1"), given("c", "v1")]
    made = planned(rows, evolve(device("new"), features=FEATURES), max_unavailable=1)
    assert (updated(made), [each for each in made.actions if isinstance(each, Create)]) == ([], [])
    assert {reason.code for reason in made.reasons.values()} == {ReasonCode(held.partition("(")[0])}
    after = [given("a", "v2"), *rows[1:]]
    assert updated(planned(after, max_unavailable=1)) == ["b"]


def test_a_rollout_that_lost_a_reference_is_not_over_and_proves_nothing() -> None:
    made = planned([given("a", "v2"), given("b", "v2", LACKS), given("c", "v1")], max_unavailable=2)
    assert (made.reasons["a"].code, made.reasons["b"], made.reasons["c"]) == (ReasonCode.UP_TO_DATE, MISSING, MISSING)
    assert updated(made) == []
    assert made.status is not None
    assert made.status.current_revision is None
    assert made.status.conditions[1].reason == "RolloutInProgress"


def test_a_wave_whose_devices_lack_a_reference_neither_passes_nor_fails() -> None:
    waves = (Wave(name="canary", limit=2), Wave(name="half", limit=2))
    canaries = [given(name, "v2", LACKS, wave="canary", offered_at=AT, revision="rev-v2") for name in ("a", "b")]
    made = planned(
        [*canaries, *(given(name, "v1") for name in "cdef")],
        current=template("v1"),
        waves=waves,
        status=StoredStatus(current_revision="rev-v1", update_revision="rev-v2"),
        max_unavailable=9,
        failure_policy=FailurePolicy(max_failures=0),
    )
    assert updated(made) == []
    assert made.status is not None
    assert made.status.failed_revision is None
    assert [each.passed for each in made.waves] == [False, False, False]
    assert made.wave_record is None or not made.wave_record.passed
    assert made.reasons["c"] == MISSING


def test_devices_that_start_with_the_template_count_as_down_while_another_lacks_it() -> None:
    rows = [given("a", "v2", LACKS), given("b", "v2", **UNTAKEN), given("c", "v1")]
    made = planned(rows, max_unavailable=2)
    assert made.reasons["b"].code is ReasonCode.UPDATING


@pytest.mark.parametrize("strategy", [StrategyType.ROLLING_UPDATE, StrategyType.RECREATE])
def test_what_held_a_device_for_an_older_template_does_not_keep_the_next_from_it(strategy: StrategyType) -> None:
    held = [given("a", "v1", LACKS), given("b", "v1", LACKS), given("c", "v1", "frozen until Friday")]
    made = planned(held, spec={}, max_unavailable=1, strategy=strategy)
    assert updated(made) == (["a"] if strategy is StrategyType.ROLLING_UPDATE else ["a", "b"])
    assert made.reasons["c"].code is ReasonCode.UPDATE_HELD


def test_a_wave_waits_for_a_device_that_an_older_template_held() -> None:
    canaries = [
        given("a", "v2", wave="canary", offered_at=AT, revision="rev-v2", ready_since=AT - 60),
        given("b", "v1", LACKS),
    ]
    made = planned(
        [*canaries, given("c", "v1"), given("d", "v1")],
        current=template("v1"),
        spec={},
        waves=(Wave(name="canary", limit=2),),
        status=StoredStatus(current_revision="rev-v1", update_revision="rev-v2"),
        max_unavailable=9,
    )
    assert updated(made) == ["b"]


def test_devices_that_are_refused_hold_no_others_once_one_runs_the_template() -> None:
    refused = "ReferenceRefused(SharedToken): give the device its own token"
    rows = [given("a", "v2", refused), given("b", "v1"), given("c", "v1")]
    assert updated(planned(rows, max_unavailable=1)) == []
    assert updated(planned([*rows, given("d", "v2")], max_unavailable=1)) == ["b"]
    maintained = evolve(device("a"), in_maintenance=True, features=FEATURES)
    row = deployment("v2", max_unavailable=1)
    row = evolve(row, template=evolve(row.template, spec=REFERS))
    others = [evolve(device(name), features=FEATURES) for name in "bc"]
    assert updated(plan(snapshot(row, [maintained, *others], rows), START)) == ["b"]


def test_what_one_device_says_of_all_is_not_planned_device_by_device() -> None:
    rows = [given("a", "v2", LACKS), given("b", "v1"), given("c", "v1")]
    assert planned(rows).aggregate is None
    assert planned([given(name, "v2") for name in "abc"]).aggregate is not None


def test_a_secret_in_an_argument_is_a_fault_of_the_deployment() -> None:
    env = [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}]
    execution = {"backend": "process", "command": ["/a"], "args": ["$(PASSWORD)"], "env": env, "expandVariables": True}
    spec = {"selector": {}, "template": {"spec": {"execution": execution}}}
    stored = {"metadata": {"name": "tel", "namespace": "lab", "uid": "u"}, "spec": spec}
    fault = project_deployment(stored).fault
    assert fault.startswith("spec.template.spec.execution.args[0] names the secret variable PASSWORD, and everyone")
    execution["expandVariables"] = False
    assert project_deployment(stored).fault == ""


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (ENV[0] | {"value": "x"}, "execution.env[0] has a value and a valueFrom, of which a variable has one"),
        (
            {"name": "A", "valueFrom": {"configMapKeyRef": {}, "secretKeyRef": {}}},
            "execution.env[0].valueFrom has several sources, and needs one; write one of deviceFieldRef",
        ),
        ({"name": "A", "valueFrom": {}}, "execution.env[0].valueFrom has no source that is known, and needs one"),
        (
            {"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.annotations['a']"}}},
            "execution.env[0].valueFrom.deviceFieldRef: fieldPath is metadata.name, metadata.namespace",
        ),
        ({"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.name"}}}, ""),
    ],
    ids=["value-beside", "several", "none", "no-field", "right"],
)
def test_a_variable_that_an_api_without_rules_lets_through_is_a_fault_of_the_deployment(
    variable: dict[str, Any], words: str
) -> None:
    execution = {"backend": "process", "command": ["/a"], "env": [variable]}
    spec = {"selector": {}, "template": {"spec": {"execution": execution}}}
    fault = project_deployment({"metadata": {"name": "tel", "namespace": "lab", "uid": "u"}, "spec": spec}).fault
    assert fault.startswith(f"spec.template.spec.{words}" if words else "")
    assert bool(fault) is bool(words)
