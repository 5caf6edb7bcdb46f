# SPDX-License-Identifier: Apache-2.0
"""Overrides: what a device gets of a template, and that a rollout touches, counts and proves what it changes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve

from controller_testing import NAMESPACE, START, device, process, snapshot, stored
from praetor_api.conditions import ConditionType
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import FailureAction, FailurePolicy, LabelSelector, RollingUpdate, UpdateStrategy, Wave
from praetor_controller.errors import InvalidDeployment
from praetor_controller.journal.entry import Decision, entry
from praetor_controller.journal.recorder import tracked
from praetor_controller.journal.replay import replay
from praetor_controller.model import overrides as overrides_module
from praetor_controller.model.actions import Create, Delete, Update
from praetor_controller.model.overrides import OverrideChoice, check_overrides, merged_spec, set_fields
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import project_revision, revision_changes, with_stored_template
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, StoredStatus, Template
from praetor_controller.model.specs import variants
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.incremental import IncrementalAggregate
from praetor_controller.rollout.neighbours import overlap
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Moment, Plan, Snapshot

AT = START.timestamp()
ARM, X86 = {"cpu": "arm64"}, {"cpu": "x86_64"}
UP, UPDATING = Reason(ReasonCode.UP_TO_DATE), Reason(ReasonCode.UPDATING)
HTTP = {"type": "http", "url": "https://repo/tel", "checksumSHA256": "a" * 64}
SECRET_ENV = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "p"}}}]


def override(cpu: str = "arm64", artifact: Mapping[str, Any] | None = None, **execution: Any) -> dict[str, Any]:
    parts = {"artifact": artifact, "execution": execution}
    return {"selector": {"matchLabels": {"cpu": cpu}}} | {name: part for name, part in parts.items() if part}


def row(command: str = "/v1", *overrides: Mapping[str, Any], status: StoredStatus | None = None, **spec: Any) -> Any:
    template = {"spec": {"execution": {"backend": "process", "command": [command]}} | spec.pop("process", {})}
    body = {"selector": {}, "template": template, "overrides": [*overrides]} | spec
    metadata = {"name": "tel", "namespace": NAMESPACE, "uid": "uid-tel", "generation": 1}
    found = project_deployment({"metadata": metadata, "spec": body})
    return evolve(found, status=status) if status is not None else found


def rolling(found: DeploymentRow, *waves: Wave, limit: int | str = 1, **policy: Any) -> DeploymentRow:
    update = UpdateStrategy(rolling_update=RollingUpdate(max_unavailable=limit, waves=waves))
    return evolve(found, policy=evolve(found.policy, update_strategy=update, **policy))


def fleet(**labels: Mapping[str, str]) -> list[DeviceRow]:
    return [device(name, labels=each) for name, each in labels.items()]


def given(found: DeploymentRow, devices: Sequence[DeviceRow], **fields: Any) -> list[ProcessRow]:
    """Return the processes of *devices* with what the template gives each of them."""
    template = found.template
    marks = {"labels": template.labels, "annotations": template.annotations, "managed": template.managed}
    return [
        process(
            each.name,
            template.resolved(each.labels).spec_hash,
            **{"revision": template.revision, **marks, **fields},
        )
        for each in devices
    ]


def made(found: DeploymentRow, devices: list[DeviceRow], processes: list[ProcessRow], **fields: Any) -> Plan:
    if "current" in fields:
        status = StoredStatus(current_revision=fields["current"].revision, update_revision=found.template.revision)
        found = evolve(found, status=status)
    return plan(snapshot(found, devices, processes, **fields), START)


def updated(planned: Plan) -> dict[str, list[str]]:
    """Return the commands that devices are given."""
    writes = [each for each in planned.actions if isinstance(each, Update) and each.spec]
    return {each.process.device: each.template.spec["execution"]["command"] for each in writes}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param([], {}, id="none"),
        pytest.param([{"execution": {"command": ["/arm"]}}], {"command": ["/arm"]}, id="a-field"),
        pytest.param([{"execution": {"args": ["x"], "command": None}}], {"args": ["x"]}, id="null-is-absent"),
        pytest.param([{"execution": {"args": []}}, {"execution": {"args": ["x"]}}], {"args": []}, id="an-empty-list"),
        pytest.param(
            [{"execution": {"args": ["first"]}}, {"execution": {"args": ["second"], "user": "tel"}}],
            {"args": ["first"], "user": "tel"},
            id="the-first-wins-for-each-field",
        ),
        pytest.param(
            [{"execution": {"resources": {"cpu": "1"}}}], {"resources": {"cpu": "1"}}, id="objects-are-replaced"
        ),
        pytest.param(
            [
                {"execution": {"env": [{"name": "B", "value": "1"}, {"name": "C", "value": "1"}]}},
                {"execution": {"env": [{"name": "C", "value": "2"}, {"name": "D", "value": "2"}]}},
            ],
            {
                "env": [
                    {"name": "A", "value": "0"},
                    {"name": "B", "value": "1"},
                    {"name": "C", "value": "1"},
                    {"name": "D", "value": "2"},
                ]
            },
            id="env-merges-by-name",
        ),
        pytest.param(
            [{"execution": {"files": [{"path": "b", "content": "1"}]}}],
            {"files": [{"path": "a", "content": "0"}, {"path": "b", "content": "1"}]},
            id="files-merge-by-path",
        ),
        pytest.param([{"execution": {"volumes": []}}], {"volumes": []}, id="a-field-that-is-new"),
    ],
)
def test_what_overrides_make_of_an_execution(overrides: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    execution = {
        "backend": "process",
        "command": ["/v1"],
        "resources": {"memory": "1Mi"},
        "env": [{"name": "A", "value": "0"}, {"name": "B", "value": "0"}],
        "files": [{"path": "a", "content": "0"}],
    }
    merged = merged_spec({"execution": execution, "restartPolicy": "Always"}, overrides)
    assert merged == {"execution": execution | expected, "restartPolicy": "Always"}


def test_an_override_changes_the_artifact_or_brings_one() -> None:
    other = {"artifact": {"url": "https://repo/tel-arm"}}
    assert merged_spec({"artifact": HTTP}, [other])["artifact"] == HTTP | other["artifact"]
    assert merged_spec({}, [{"artifact": HTTP}]) == {"artifact": HTTP}


def test_variables_and_files_are_fields_by_their_names() -> None:
    execution = {"command": None, "user": "tel", "env": [{"name": "A"}], "files": [{"path": "/b"}]}
    assert set_fields({"artifact": {"url": "/tel"}, "execution": execution}) == {
        "artifact.url",
        "execution.user",
        "execution.env[A]",
        "execution.files[/b]",
    }


def test_a_template_without_overrides_keeps_its_hashes_and_is_not_resolved() -> None:
    template = row("/v1").template
    assert (template.revision, template.spec_hash[:17]) == ("eb70826599", "sha256:710898e8fd")
    assert template.resolved(ARM) is template
    assert row("/v1", override(user="tel")).template.revision != template.revision
    assert row("/v1", override(user="tel")).template.spec_hash == template.spec_hash


def test_devices_with_the_same_overrides_share_one_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides_module, "_MAX_KNOWN", 2)
    template = row("/v1", override(command=["/arm"]), override(cpu="mips", command=["/mips"])).template
    arms = [template.resolved({**ARM, "rack": str(number)}) for number in range(3)]
    assert {id(each) for each in arms} == {id(arms[0])}
    assert template.resolved(X86) is template.resolved({}) is template
    assert template.resolved({"cpu": "mips"}).spec["execution"]["command"] == ["/mips"]  # the first ones are forgotten
    assert arms[0].revision == template.revision
    assert (arms[0].applied, arms[0].overrides) == ((0,), ())


def test_an_override_of_a_revision_that_cannot_be_read_matches_nothing() -> None:
    choice = OverrideChoice([{"selector": 5}, {"selector": {}}, override(user="tel")])
    assert (choice.matching(ARM), choice.matching(X86)) == ((2,), ())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"execution": {"user": "x"}}, "spec.overrides[1].selector: is required"),
        (
            {"selector": {}, "execution": {"user": "x"}},
            "spec.overrides[1].selector: is empty; write labels, or change the template",
        ),
        (
            {"selector": {"matchLabels": ARM}},
            "spec.overrides[1]: needs artifact or execution; write what these devices run instead",
        ),
        (
            {"selector": {"matchExpressions": [{"key": "cpu", "operator": "In"}]}, "execution": {"user": "x"}},
            "spec.overrides[1].selector.matchExpressions[0].values: In needs at least one value",
        ),
    ],
)
def test_a_bad_override_is_named(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidDeployment, match=r"spec\.overrides"):
        check_overrides([override(user="tel"), wrong])
    assert row("/v1", override(user="tel"), wrong).fault == sentence


@pytest.mark.parametrize(
    ("template", "wrong", "fault"),
    [
        ({}, override(user="tel"), ""),
        (
            {"execution": {"backend": "container"}, "artifact": {"type": "oci", "url": f"r/t@sha256:{'a' * 64}"}},
            override(args=["x"]),
            "",
        ),
        ({}, override(command=["bin/tel"]), "[0].execution.command: 'bin/tel' is relative, and there is no artifact; "),
        ({}, override(artifact={"url": "/x"}), "[0].artifact.type: is missing; write it, or an artifact in the templ"),
        ({}, override(artifact={"type": "file"}), "[0].artifact.url: is missing; write it, or an artifact in the te"),
        ({}, override(backend="container"), "[0].execution.backend: container needs an artifact of type oci, which is"),
        ({}, override(container={}), "[0].execution.container: execution.container needs execution.backend: container"),
        ({}, override(reboot="Expected"), "[0].execution.reboot: Expected and the template's postCheck go together;"),
        ({"artifact": HTTP}, override(artifact={"url": "/tel"}), "[0].artifact.url: does not start with http:// or h"),
        ({"artifact": HTTP}, override(artifact={"type": "oci"}), "[0].artifact.url: names no digest; write registry"),
        ({"artifact": HTTP}, override(artifact={"type": "file"}), "[0].artifact.url: is no absolute path; write one"),
        (
            {},
            override(artifact={"type": "http", "url": "http://repo/tel"}),
            "[0].artifact.checksumSHA256: is missing, and the type http needs it; write the SHA-256 of the file",
        ),
        (
            {"execution": {"backend": "container"}, "artifact": {"type": "oci", "url": f"r/t@sha256:{'a' * 64}"}},
            override(backend="process"),
            "[0].execution.command: is needed by the backend process; write the program to run",
        ),
        (
            {"execution": {"backend": "process", "command": ["/tel"], "args": ["$(P)"], "expandVariables": True}},
            override(env=SECRET_ENV),
            "[0].execution.args[0] names the secret variable P, and everyone on the device can read arguments; have",
        ),
        (
            {"execution": {"backend": "process", "command": ["/tel"], "workingDir": ".."}},
            override(artifact={"type": "file", "url": "/tel"}),
            "[0]: execution.workingDir: leads out of the artifact; write an absolute path, or one inside",
        ),
    ],
)
def test_what_overrides_make_is_checked_as_a_whole(template: dict[str, Any], wrong: dict[str, Any], fault: str) -> None:
    found = row("/v1", wrong, process=template)
    assert found.fault == ""
    said = found.template.resolved(ARM).fault
    assert said.startswith(f"spec.overrides{fault}" if fault else "")
    assert bool(said) is bool(fault)


def test_a_changed_override_updates_the_devices_that_it_changes_within_the_budget() -> None:
    devices = fleet(a=ARM, b=X86, c=ARM)
    before, after = row("/v1", override(command=["/arm"])), row("/v1", override(command=["/arm-2"]))
    planned = made(after, devices, given(before, devices), current=before.template)
    assert updated(planned) == {"a": ["/arm-2"]}
    assert planned.reasons["b"] == UP
    assert planned.reasons["c"].code is ReasonCode.BUDGET_EXHAUSTED
    noted = [each.process.device for each in planned.actions if isinstance(each, Update) and not each.spec]
    assert noted == ["b"]  # its revision alone: the device is offered nothing


def test_a_device_whose_label_changes_is_updated_within_the_budget_and_never_removed() -> None:
    found = row("/v1", override(command=["/arm"]))
    before, after = fleet(a=X86, b=X86, c=X86), fleet(a=ARM, b=ARM, c=X86)
    status = made(found, before, given(found, before), current=found.template).status
    assert status is not None
    found = evolve(found, status=stored(status))
    planned = made(found, after, given(found, before))
    assert updated(planned) == {"a": ["/arm"]}
    assert planned.reasons["b"].code is ReasonCode.BUDGET_EXHAUSTED
    assert not any(isinstance(each, Delete) for each in planned.actions)


def test_in_steady_state_a_changed_label_takes_a_pass_over_all_devices() -> None:
    found, names = row("/v1", override(command=["/arm"])), [f"d{number}" for number in range(20)]
    devices = fleet(**dict.fromkeys(names, X86))
    status = made(found, devices, given(found, devices), current=found.template).status
    assert status is not None
    found = evolve(found, status=stored(status))
    whole = snapshot(found, devices, given(found, devices))
    aggregate = plan(whole, START).aggregate
    assert aggregate is not None
    account = IncrementalAggregate(whole, aggregate, START)
    for labels, is_planned in (({**X86, "rack": "r2"}, True), (ARM, False)):
        changed = evolve(whole, devices=[evolve(devices[0], labels=labels)], processes=whole.processes[:1])
        assert (account.plan(changed, START) is not None) is is_planned


def test_what_cannot_run_is_given_to_no_device_and_the_status_says_so() -> None:
    devices = fleet(a=ARM, b=X86, c=ARM, d=X86, new=ARM)
    before, after = row("/v1"), row("/v1", override(command=["bin/arm"]))
    processes = given(before, devices[:-1])
    processes[2] = evolve(processes[2], ready_since=None, settled_since=None)
    planned = made(after, devices, processes, current=before.template)
    assert [
        each for each in planned.actions if isinstance(each, Create) or (isinstance(each, Update) and each.spec)
    ] == []
    assert {planned.reasons[name].code for name in ("a", "c", "new")} == {ReasonCode.OVERRIDE_INVALID}
    assert planned.status is not None
    assert planned.aggregate is None
    said = get_condition(planned.status.conditions, ConditionType.OVERRIDE_INVALID)
    assert said is not None
    assert said.message.startswith("3 devices keep what they have (a, c, new): spec.overrides[0].execution.command: ")
    assert planned.status.current_revision == before.template.revision  # it is not rolled out
    more = fleet(**dict.fromkeys("abcde", ARM))
    longer = made(after, more, given(before, more), current=before.template).status
    said = get_condition(longer.conditions, ConditionType.OVERRIDE_INVALID) if longer is not None else None
    assert said is not None
    assert said.message.startswith("5 devices keep what they have (a, b, c and 2 more): ")
    fixed = made(row("/v1"), devices[:2], given(before, devices[:2]), current=before.template).status
    assert fixed is not None
    assert get_condition(fixed.conditions, ConditionType.OVERRIDE_INVALID) is None


def test_a_new_device_gets_what_the_current_revision_gives_it_while_its_wave_is_closed() -> None:
    devices = fleet(a=X86, new=ARM)
    before = row("/v1", override(command=["/arm"]))
    after = rolling(row("/v2", override(command=["/arm-2"])), Wave(name="w", selector=LabelSelector(match_labels=X86)))
    planned = made(after, devices, given(before, devices[:1]), current=before.template)
    creates = [each for each in planned.actions if isinstance(each, Create)]
    assert [each.template.spec["execution"]["command"] for each in creates] == [["/arm"]]
    assert updated(planned) == {"a": ["/v2"]}
    broken = row("/v1", override(command=["bin/arm"]))
    held = made(after, devices, given(before, devices[:1]), current=broken.template)
    assert (held.reasons["new"].code, [each for each in held.actions if isinstance(each, Create)]) == (
        ReasonCode.WAITING_FOR_WAVE,
        [],
    )


def test_a_rollback_brings_the_overrides_back_too() -> None:
    devices = fleet(a=ARM, b=X86)
    before, after = row("/v1", override(command=["/arm"])), row("/v2", override(command=["/arm-2"]))
    after = rolling(after, limit=2, failure_policy=FailurePolicy(max_failures=0, action=FailureAction.ROLLBACK))
    failed = given(after, devices, ready_since=None, settled_since=None, failure="phase Failed")
    first = made(after, devices, failed, current=before.template)
    assert first.status is not None
    after = evolve(after, status=stored(first.status))
    planned = plan(snapshot(after, devices, failed, current=before.template), START)
    assert updated(planned) == {"a": ["/arm"], "b": ["/v1"]}


def canary(**fields: Any) -> Wave:
    return Wave(name="canary", **fields)


@pytest.mark.parametrize("limit", [1, "50%"])
def test_a_wave_takes_no_device_that_can_be_given_nothing_and_does_not_wait_for_it(limit: int | str) -> None:
    devices = fleet(a=ARM, b=X86, c=X86)
    before, after = row("/v1"), row("/v2", override(command=["bin/arm"]))
    rollout = rolling(after, canary(limit=limit), limit=3)
    begun = made(rollout, devices, given(before, devices), current=before.template)
    assert (updated(begun), str(begun.waits_for)) == ({"b": ["/v2"]}, "WaitingForWave(canary 0/1)")
    offered = {"offered_at": AT, "ready_since": AT, "settled_since": AT, "wave": "canary"}
    processes = given(before, devices)
    processes[1:2] = given(after, devices[1:2], **offered)
    went_on = made(rollout, devices, processes, current=before.template, revision_stamp=AT)
    assert updated(went_on) == {"c": ["/v2"]}


@pytest.mark.parametrize(
    ("wave", "expected", "why"),
    [
        pytest.param(canary(selector=LabelSelector(match_labels=X86)), {}, "WaveUnchanged(canary)", id="unchanged"),
        pytest.param(
            canary(selector=LabelSelector(match_labels=X86), allow_empty=True, soak_seconds=60),
            {"c": ["/arm-2"]},
            "None",
            id="may-be-empty",
        ),
        pytest.param(canary(limit=1), {"c": ["/arm-2"]}, "WaitingForWave(canary 0/1)", id="changed-ones-come-first"),
        pytest.param(canary(limit="50%"), {"c": ["/arm-2"]}, "WaitingForWave(canary 0/1)", id="of-the-changed-ones"),
    ],
)
def test_a_wave_is_passed_by_devices_that_the_rollout_changes(wave: Wave, expected: Any, why: str) -> None:
    devices = fleet(a=X86, b=X86, c=ARM, d=ARM)
    before, after = row("/v1", override(command=["/arm"])), row("/v1", override(command=["/arm-2"]))
    planned = made(rolling(after, wave), devices, given(before, devices), current=before.template)
    assert (updated(planned), str(planned.waits_for)) == (expected, why)
    if why == "WaveUnchanged(canary)":
        assert planned.status is not None
        said = get_condition(planned.status.conditions, ConditionType.PROGRESSING)
        assert said is not None
        assert (said.status, said.reason) == ("False", "WaveUnchanged")
        allowed = evolve(after, approved=frozenset({f"{after.template.revision}/canary/0"}))
        went_on = made(rolling(allowed, wave), devices, given(before, devices), current=before.template)
        assert updated(went_on) == {"c": ["/arm-2"]}


def test_a_wave_of_which_some_are_changed_waits_for_these() -> None:
    devices = fleet(a=X86, b=ARM, c=ARM)
    before, after = row("/v1", override(command=["/arm"])), row("/v1", override(command=["/arm-2"]))
    wave = canary(selector=LabelSelector(match_labels={"ring": "0"}))
    devices = [evolve(each, labels={**each.labels, "ring": "0" if each.name in "ab" else "1"}) for each in devices]
    after = rolling(after, wave)
    planned = made(after, devices, given(before, devices), current=before.template)
    assert (updated(planned), str(planned.waits_for)) == ({"b": ["/arm-2"]}, "WaitingForWave(canary 0/1)")
    offered = {"offered_at": AT, "ready_since": AT, "settled_since": AT, "wave": "canary"}
    processes = [*given(before, devices)[:1], *given(after, devices[1:2], **offered), *given(before, devices)[2:]]
    went_on = made(after, devices, processes, current=before.template, revision_stamp=AT)
    assert updated(went_on) == {"c": ["/arm-2"]}


def test_a_device_that_the_rollout_does_not_change_does_not_fail_at_it() -> None:
    devices = fleet(a=X86, b=ARM)
    before, after = row("/v1", override(command=["/arm"])), row("/v1", override(command=["/arm-2"]))
    policy = FailurePolicy(max_failures=0)
    failing = given(before, devices, ready_since=None, settled_since=None, failure="phase Failed")
    waves = canary(limit=1)
    planned = made(rolling(after, waves, failure_policy=policy), devices, failing, current=before.template)
    assert planned.status is not None
    assert planned.status.failed_revision is None
    assert planned.wave_record is not None
    assert planned.wave_record.failed == ()
    offered = [*failing[:1], *given(after, devices[1:], ready_since=None, failure="phase Failed", offered_at=AT)]
    stopped = made(rolling(after, waves, failure_policy=policy), devices, offered, current=before.template).status
    assert stopped is not None
    assert stopped.failed_revision == after.template.revision


def test_what_an_override_needs_is_asked_of_its_devices_alone() -> None:
    devices = fleet(a=ARM, b=X86)
    before, after = row("/v1"), row("/v2", override(env=SECRET_ENV))
    planned = made(rolling(after, limit=2), devices, given(before, devices), current=before.template)
    assert updated(planned) == {"b": ["/v2"]}
    assert planned.reasons["a"] == Reason(ReasonCode.AGENT_TOO_OLD, "secrets.v1,values.v1")


def test_what_is_missing_for_one_override_is_offered_to_no_other_device_of_it() -> None:
    knows = frozenset({"values.v1", "secrets.v1"})
    devices = [evolve(each, features=knows) for each in fleet(a=ARM, b=ARM, c=X86, d=X86)]
    before, after = row("/v1"), row("/v2", override(env=SECRET_ENV))
    lacks = "ReferenceMissing(secret/login key p): its namespace has no such object …"
    untaken = {"observed": False, "ready_since": None, "settled_since": None, "held": lacks}
    processes = [*given(after, devices[:1], **untaken), *given(before, devices[1:])]
    planned = made(rolling(after, limit=4), devices, processes, current=before.template)
    assert updated(planned) == {"c": ["/v2"], "d": ["/v2"]}
    assert planned.reasons["b"] == Reason(ReasonCode.REFERENCE_MISSING, "secret/login key p")
    assert planned.status is not None
    assert planned.status.current_revision == before.template.revision


def test_a_value_that_an_override_refers_to_is_needed_by_its_devices_alone() -> None:
    env = [{"name": "RACK", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.labels['rack']"}}}]
    found, plain = row("/v1", override(env=env)), row("/v1")
    devices = fleet(a=ARM, b=X86, c={**ARM, "rack": "r1"})
    sources = Sources(devices=devices, processes=(), revisions=(), find=lambda key: None)
    built = build_snapshot(found, sources, ReconcilerState(), now=Moment(START))
    assert [each.missing for each in built.devices] == ["ReferenceMissing(metadata.labels['rack'])", "", ""]
    assert [each.applied for each in tracked(built).variants.values()] == [(0,)]
    assert tracked(build_snapshot(plain, sources, ReconcilerState(), now=Moment(START))).variants == {}


def test_what_the_api_stores_for_an_override_counts_as_it() -> None:
    found, devices = row("/v1", override(command=["/arm"])), fleet(a=ARM, b=X86)
    own = found.template.resolved(ARM).spec_hash
    sources = Sources(devices=devices, processes=(), revisions=(), find=lambda key: None)
    state = ReconcilerState()
    state.stored_as[own] = {"sha256:defaulted"}
    built = build_snapshot(found, sources, state, now=Moment(START))
    processes = given(found, devices)
    built = evolve(built, processes=[evolve(processes[0], spec_hash="sha256:defaulted"), processes[1]])
    assert dict(plan(built, START).reasons) == {"a": UP, "b": UP}


def recorded(planned: Snapshot) -> tuple[bytes, Plan]:
    made_plan = plan(planned, START)
    line, _ = entry(None, Decision(now=START, snapshot=planned, plan=made_plan), "1.0")
    return line, made_plan


def test_a_recorded_decision_is_replayed_with_its_overrides_and_without_their_values() -> None:
    before, after = row("/v1"), row("/v1", override(command=["/arm"], env=[{"name": "P", "value": "hunter2"}]))
    devices = fleet(a=ARM, b=X86, c=ARM)
    processes = [*given(before, devices[:2]), *given(after, devices[2:])]
    line, planned = recorded(
        snapshot(
            after,
            devices,
            processes,
            current=before.template,
            variants=variants((after.template, before.template), devices),
        )
    )
    assert updated(planned) == {"a": ["/arm"]}
    assert b"hunter2" not in line
    *_, done = replay([line])
    assert (done.decisions, done.difference) == (1, None)


def test_a_revision_holds_the_overrides_and_is_found_again() -> None:
    found = row("/v1", override(command=["/arm"]))
    body = revision_changes(found, (), START).create
    assert body is not None
    assert body["data"]["spec"]["overrides"] == [override(command=["/arm"])]
    again = project_revision({**body, "metadata": {**body["metadata"], "uid": "r1"}})
    assert again.template == found.template
    same = row("/v1", override(command=["/arm"]), process={"healthCheck": None})
    assert same.template.revision != found.template.revision
    assert with_stored_template(same, [again]).template is again.template
    for other in (row("/v1", override(command=["/arm-2"])), row("/v1", override(command=["/arm"], args=[]))):
        assert with_stored_template(other, [again]) is other
    plain = revision_changes(row("/v1"), (), START).create
    assert plain is not None
    assert list(plain["data"]["spec"]) == ["template"]
    malformed = project_revision({**body, "data": {"spec": {"template": {}, "overrides": "x"}}})
    assert malformed.template.overrides == ()


@pytest.mark.parametrize(
    ("theirs", "labels", "said"),
    [
        ((row("/arm").template,), ARM, "the same command is run by ctl on 1 device"),
        ((row("/arm").template,), X86, ""),
        ((row("/x86").template,), ARM, ""),
        ((row("/v1").template,), X86, "the same command is run by ctl on 1 device"),
    ],
)
def test_deployments_that_run_one_program_by_an_override_overlap(
    theirs: tuple[Template], labels: dict[str, str], said: str
) -> None:
    mine, devices = row("/v1", override(command=["/arm"])), fleet(a=labels)
    other = evolve(row("/v1"), name="ctl", uid="uid-ctl", template=theirs[0])
    assert overlap(mine, [other], lambda: devices).partition(";")[0] == said


def test_devices_are_not_read_where_no_other_deployment_runs_the_same_command() -> None:
    def unread() -> list[DeviceRow]:
        raise AssertionError("a fleet is large, and each event of a device asks")

    other = evolve(row("/x86"), name="ctl", uid="uid-ctl")
    assert overlap(row("/v1"), [other], unread) == ""
