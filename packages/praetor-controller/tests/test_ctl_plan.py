# SPDX-License-Identifier: Apache-2.0
"""`praetorctl plan`: what would happen, by the controller's own planner, with nothing written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from controller_testing import START, device, process, snapshot
from ctl_testing import NAMESPACE, NEW, OLD, Lab, LabKube, connected, owned_by
from kubeplane import Response
from praetor_api.kube.client.api import Query
from praetor_api.kube.client.errors import Forbidden
from praetor_api.kube.client.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    Key,
    Resource,
)
from praetor_controller.ctl.commands.plan import deployments_in
from praetor_controller.ctl.errors import BadInput
from praetor_controller.ctl.forecast.forecast import MAX_STEPS
from praetor_controller.model.projection import project_deployment
from praetor_controller.rollout.planner import plan as controller_plan

TEL = "{kind: DeviceProcessDeployment, apiVersion: azure.com/v1alpha1, metadata: {name: tel}"
BOMB = "{a0: &a0 [x], " + ", ".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9)) + "}"
MERGES = (
    "{a0: &a0 {x: 1}, "
    + ", ".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}" for n in range(9))
    + "}"
)
"""Half a kilobyte that is a billion of texts when its aliases are written out."""


def manifest(template: dict[str, Any] = NEW, rolling: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "azure.com/v1alpha1",
        "kind": "DeviceProcessDeployment",
        "metadata": {"name": "tel"},
        "spec": {
            "selector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["spine"]}]},
            "template": {"spec": template},
            "updateStrategy": {"rollingUpdate": rolling or {"maxUnavailable": 2}},
            **spec,
        },
    }


def lab_of(devices: int, with_processes: int | None = None, **switches: dict[str, Any]) -> Lab:
    """Return a lab with the old deployment; *switches* are parts of single devices, with `_` for `-`."""
    lab = Lab()
    uid = lab.deployment("tel", spec=manifest(OLD)["spec"])
    for number in range(devices):
        name = f"leaf-{number}"
        parts = {"status": {"conditions": [connected()]}} | switches.get(name.replace("-", "_"), {})
        lab.switch(name, {"rack": f"r{number % 2}"}, **parts)
        if with_processes is None or number < with_processes:
            lab.process("tel", uid, name)
    return lab


def plan(lab: Lab, body: dict[str, Any], *args: str) -> Result:
    return lab.run("plan", "-f", "-", *args, input=yaml.safe_dump(body))


def forecast(lab: Lab, body: dict[str, Any], *args: str) -> dict[str, Any]:
    result = plan(lab, body, "-o", "json", *args)
    assert result.exit_code == 0, result.stderr
    outcome: dict[str, Any] = json.loads(result.stdout)[0]
    return outcome


def test_a_forecast_lists_the_steps_of_a_rollout() -> None:
    lines = plan(lab_of(5), manifest(minReadySeconds=20)).output.splitlines()
    assert lines[0] == "tel: 3 steps in about 1m30s, if no device fails"
    assert lines[1].split() == ["STEP", "AFTER", "WAVE", "CREATE", "UPDATE", "DELETE", "UNAVAILABLE"]
    assert [line.split() for line in lines[2:5]] == [
        ["1", "0s", "-", "-", "leaf-0,", "leaf-1", "-", "2"],
        ["2", "30s", "-", "-", "leaf-2,", "leaf-3", "-", "2"],
        ["3", "1m", "-", "-", "leaf-4", "-", "1"],
    ]
    assert lines[5:] == ["unavailable at most: 2 of 5 devices", "at the end: 5 of 5 devices are up to date"]


def test_nothing_is_written() -> None:
    lab = lab_of(3)
    before = {kind: lab.kube.objects(kind) for kind in (DEVICE_PROCESSES, DEVICE_PROCESS_DEPLOYMENTS)}
    plan(lab, manifest())
    plan(lab, {**manifest(), "metadata": {"name": "other"}})
    assert {kind: lab.kube.objects(kind) for kind in before} == before
    assert all(target.dry_run for target in lab.asked)


def test_a_new_deployment_creates_at_once_and_makes_nothing_unavailable() -> None:
    outcome = forecast(lab_of(3, with_processes=0), {**manifest(), "metadata": {"name": "other"}})
    assert [len(step["create"]) for step in outcome["steps"]] == [3]
    assert (outcome["unavailableAtMost"], outcome["left"]) == (0, {})


def test_devices_that_do_not_match_any_more_lose_their_process() -> None:
    body = manifest(OLD, selector={"matchLabels": {"rack": "r0"}})
    outcome = forecast(lab_of(4), body)
    assert sorted(outcome["steps"][0]["delete"]) == ["tel-leaf-1", "tel-leaf-3"]
    assert (outcome["devices"], outcome["warnings"]) == (2, [])


def test_removals_that_would_be_held_are_listed_first() -> None:
    body = manifest(OLD, rolling={"maxUnavailable": 1}, selector={"matchLabels": {"rack": "r0"}})
    outcome = forecast(lab_of(4), body)
    assert [step["delete"] for step in outcome["steps"]] == []
    assert outcome["warnings"][0].startswith("RemovalHeld(2): leaf-1, leaf-3: more devices no longer match than may")


def test_what_is_applied_already_needs_no_step() -> None:
    lab = lab_of(2, with_processes=0)
    lab.run("rollout", "pause", "tel")
    lines = plan(lab, manifest(OLD, paused=True)).output.splitlines()
    assert lines[:2] == ["tel: nothing would be written", "at the end: 0 of 2 devices are up to date"]
    assert lines[2].startswith("    Paused: leaf-0, leaf-1: ")


def test_devices_that_are_not_up_to_date_at_the_end_are_listed_with_the_reason() -> None:
    lab = lab_of(
        4,
        leaf_1={"spec": {"maintenance": {}}},
        leaf_2={"spec": {"maintenance": {"until": "2026-01-01T03:00:00Z"}}},
    )
    outcome = forecast(lab, manifest())
    assert outcome["left"] == {"leaf-1": {"reason": "InMaintenance", "detail": ""}}
    assert [step["update"] for step in outcome["steps"]] == [["leaf-0", "leaf-3"], ["leaf-2"]]
    assert outcome["steps"][1]["afterSeconds"] == 7200


def test_an_offline_device_stays_offline_in_a_forecast() -> None:
    outcome = forecast(lab_of(2, 0, leaf_1={"status": {"conditions": [connected("False")]}}), manifest())
    assert list(outcome["left"]) == ["leaf-1"]


def test_a_spec_that_cannot_be_acted_on_is_named() -> None:
    body, lab = manifest(rolling={"maxUnavailable": "many"}), lab_of(1)
    asyncio.run(lab.kube.loosen(DEVICE_PROCESS_DEPLOYMENTS))
    assert "maxUnavailable" in forecast(lab, body)["fault"]
    assert plan(lab, body).output.startswith("tel: the spec cannot be acted on: spec.updateStrategy")


def test_a_budget_names_its_worst_domain() -> None:
    budgets = [
        {"groupBy": ["rack"], "maxUnavailable": 2},
        {"groupBy": ["row"], "maxUnavailable": 6, "allowEmpty": True},
    ]
    lab = lab_of(6)
    outcome = forecast(lab, manifest(rolling={"maxUnavailable": 2, "budgets": budgets}))
    assert outcome["budgets"][0]["budget"] == "rack: maxUnavailable 2"
    assert set(outcome["budgets"][0]["domains"]) == {"rack=r0", "rack=r1"}
    assert max(outcome["budgets"][0]["domains"].values()) <= 2
    text = plan(lab, manifest(rolling={"maxUnavailable": 2, "budgets": budgets})).output
    assert "budget rack: maxUnavailable 2: unavailable at most: 1, in rack=r0, rack=r1\n" in text
    assert "budget row: maxUnavailable 6: unavailable at most: 2, in row=<none>\n" in text


ROLLING = "spec.updateStrategy.rollingUpdate"
TYPOS = {
    "maxUnavailable": 2,
    "waves": [{"name": "canary", "selector": {"matchLabels": {"ring": "canray"}}}],
    "budgets": [{"groupBy": ["rakc"], "maxUnavailable": 1}],
}


@pytest.mark.parametrize(
    ("spec", "warnings"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({"selector": {"matchLabels": {"role": "laef"}}}, ["NoDevices", "RemovalHeld(3)"], id="no-device"),
        pytest.param({"selector": {}}, ["SelectsEveryDevice 3"], id="every-device"),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": TYPOS}},
            ["WaveMatchesNothing(canary)", "BudgetMatchesNothing(rakc)"],
            id="typos",
        ),
        pytest.param({"updateStrategy": {"type": "Recreate", "rollingUpdate": TYPOS}}, [ROLLING], id="not-used"),
    ],
)
def test_what_is_probably_a_mistake_is_warned_about_first(spec: dict[str, Any], warnings: list[str]) -> None:
    lab, body = lab_of(3), manifest(**spec)
    assert [each.partition(":")[0] for each in forecast(lab, body)["warnings"]] == warnings
    lines = plan(lab, body).output.splitlines()
    assert [line.split(": ")[2] for line in lines[: len(warnings)]] == warnings
    assert plan(lab, body, "--strict").exit_code == (2 if warnings else 0)


def test_a_selector_that_no_label_can_match_is_refused_by_its_schema_and_by_the_controller() -> None:
    lab, body = lab_of(1), manifest(selector={"matchLabels": {"role": "not a value"}})
    assert "spec.selector.matchLabels" in plan(lab, body).stderr
    asyncio.run(lab.kube.loosen(DEVICE_PROCESS_DEPLOYMENTS))
    assert "'not a value' is not a label value" in forecast(lab, body)["fault"]
    assert plan(lab, body, "--strict").exit_code == 2


ARTIFACT = {"type": "file", "url": "/opt/tel.tar"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"progressDeadlineSeconds": 30, "minReadySeconds": 60}, "write more than 60"),
        ({"updateStrategy": {"rollingUpdate": {"waves": [{"name": "all"}, {"name": "x"}]}}}, "a selector or a limit"),
    ],
    ids=["deadline", "wave"],
)
def test_what_cannot_work_is_refused_by_the_plan_with_what_to_write(change: dict[str, Any], words: str) -> None:
    result = plan(lab_of(2, 0), manifest(**change) if "updateStrategy" not in change else merged(change), "--strict")
    assert result.exit_code == 2
    assert "the spec cannot be acted on: spec." in result.stdout
    assert words in result.stdout


def merged(change: dict[str, Any]) -> dict[str, Any]:
    body = manifest()
    body["spec"] |= change
    return body


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            {"execution": {"backend": "process", "command": ["./run"]}},
            "without an artifact execution.command starts with an absolute path",
        ),
        (
            {
                "execution": {"backend": "process", "command": ["run"]},
                "healthCheck": {"exec": {"command": ["bin/check"]}},
            },
            "without an artifact healthCheck.exec.command starts with an absolute path",
        ),
        (
            {"execution": {"backend": "process", "command": ["run"], "container": {"network": "none"}}},
            "execution.container needs execution.backend: container",
        ),
        (
            {"execution": {"backend": "process", "command": ["run"], "files": [{"path": "a/../b", "content": "x"}]}},
            "path holds . or ..; write where the file is to be",
        ),
        (
            {"execution": {"backend": "process", "command": ["run"], "files": [{"path": "a"}]}},
            "write exactly one of content, configMapKeyRef and secretKeyRef",
        ),
        (
            {
                "execution": {
                    "backend": "process",
                    "command": ["run"],
                    "files": [{"path": "a", "secretKeyRef": {"name": "a", "key": "b"}, "mode": "0640"}],
                }
            },
            "a file of a Secret is for its owner alone; write a mode such as",
        ),
        (
            {
                "execution": {
                    "backend": "process",
                    "command": ["run"],
                    "files": [{"path": "a", "content": "", "signal": "SIGHUP"}],
                }
            },
            "signal needs onChange: Signal; write both",
        ),
        (
            {
                "execution": {"backend": "process", "command": ["run"]},
                "healthCheck": {"exec": {"command": ["true"]}, "tcpSocket": {"port": 1}},
            },
            "write exactly one of exec, httpGet and tcpSocket",
        ),
        (
            {"artifact": ARTIFACT, "execution": {"backend": "process", "command": ["run"], "workingDir": "../../etc"}},
            "execution.workingDir leads out of the artifact",
        ),
    ],
    ids=[
        "command",
        "health-check",
        "container",
        "path-of-a-file",
        "no-content",
        "open-secret",
        "unsent-signal",
        "two-health-checks",
        "working-directory",
    ],
)
def test_what_can_never_run_is_refused_by_the_api_and_held_where_that_knows_no_rules(
    template: dict[str, Any], words: str
) -> None:
    result = plan(lab_of(1, 0), manifest(template))
    assert result.exit_code == 1
    assert words in result.stderr
    row = project_deployment({"metadata": {"name": "tel"}, "spec": manifest(template)["spec"]})
    assert row.fault.startswith("spec.template.spec.")
    held = controller_plan(snapshot(row, [device("leaf-0")], [process("leaf-0")]), START)
    assert held.actions == ()
    assert held.status is not None
    assert [(each.reason, each.message) for each in held.status.conditions] == [("InvalidSpec", row.fault)]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"rollingUpdate": {"maxUnavailable": 0}}, "maxUnavailable: is 0"),
        ({"type": "Recreate", "rollingUpdate": {"waves": [{"name": "x", "limit": 1}]}}, "do nothing with the type"),
        (
            {"type": "OnDelete", "rollingUpdate": {"budgets": [{"groupBy": ["rack"], "maxUnavailable": 1}]}},
            "do nothing with the type",
        ),
    ],
    ids=["zero", "recreate", "on-delete"],
)
def test_what_does_less_than_it_seems_to_is_warned_about(strategy: dict[str, Any], words: str) -> None:
    result = plan(lab_of(2), merged({"updateStrategy": strategy}), "--strict")
    assert result.exit_code == 2
    assert words in result.stdout


def test_a_command_that_another_deployment_runs_on_the_same_devices_is_warned_about() -> None:
    body = manifest()
    body["metadata"] = {"name": "again"}
    lab = lab_of(2)
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"template": {"spec": NEW}})
    result = plan(lab, body, "--strict")
    assert result.exit_code == 2
    assert "again: warning: Overlap: the same command is run by tel on 2 devices; let the selectors" in result.stdout


@pytest.mark.parametrize(("existing", "verb"), [(0, "create"), (2, "patch")], ids=["create", "update"])
def test_what_the_api_refuses_is_forecast_in_its_own_words(existing: int, verb: str) -> None:
    lab = lab_of(2, existing)
    body = manifest()
    body["spec"]["template"] = {"metadata": {"annotations": {"x y": "z"}}, "spec": NEW}
    result = plan(lab, body, "--strict")
    assert result.exit_code == 2
    assert "tel: warning: the API refuses its processes: " in result.stdout
    assert "x y" in result.stdout


def test_long_lists_and_many_steps_are_bounded() -> None:
    text = plan(lab_of(9), manifest(rolling={"maxUnavailable": 4}), "--max-steps", "1").output
    assert "leaf-0, leaf-1, leaf-2 and 1 more" in text
    assert "... and 2 more steps" in text


def test_several_deployments_are_planned_each() -> None:
    lab = lab_of(1)
    other = {**manifest(), "metadata": {"name": "other"}}
    text = yaml.safe_dump_all([manifest(), None, {"kind": "ConfigMap"}, {"kind": "List", "items": [other]}])
    outcome = json.loads(lab.run("plan", "-f", "-", "-o", "json", input=text).stdout)
    assert [each["deployment"] for each in outcome] == ["tel", "other"]


def test_the_namespace_of_the_manifest_counts(tmp_path: Path) -> None:
    lab, body = lab_of(1), manifest()
    body["metadata"]["namespace"] = NAMESPACE
    path = tmp_path / "tel.yaml"
    path.write_text(yaml.safe_dump(body))
    lab.run("plan", "-f", str(path))
    assert lab.asked[-1].namespace == NAMESPACE
    result = lab.run("plan", "-f", str(path), "-n", "other")
    assert result.exit_code == 2
    assert "-f: metadata.namespace: lab, other; one namespace at a time" in result.stderr


def test_approve_assumes_that_each_wave_is_approved() -> None:
    waves = [{"name": "canary", "limit": 1, "approval": "Manual"}]
    outcome = forecast(lab_of(3), manifest(rolling={"maxUnavailable": 3, "waves": waves}), "--approve")
    assert outcome["waves"] == {"canary": ["leaf-0"], "(rest)": ["leaf-1", "leaf-2"]}
    assert outcome["left"] == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML or JSON"),
        ("- 1", "a document is list, not an object"),
        ("{kind: List, items: 5}", "items: is not a list"),
        ("kind: ConfigMap", "there is no DeviceProcessDeployment in it"),
        ("kind: DeviceProcessDeployment", "metadata.name: is missing"),
        ("{kind: DeviceProcessDeployment, metadata: {name: tel}}", "tel: spec: is missing"),
        ("{kind: DeviceProcessDeployment, metadata: {name: tel}, spec: {}}", "apiVersion: is None"),
        pytest.param("[" * 2_000, "is nested too deeply", id="deep"),
        pytest.param("&a {kind: List, items: [*a]}", "is nested too deeply", id="a-list-in-itself"),
        pytest.param(f"a: {'9' * 5_000}", "not YAML or JSON: Exceeds the limit", id="a-huge-number"),
        ("a: !!timestamp 2026-99-99", "not YAML or JSON: "),
        ("a: !!timestamp x", "not YAML or JSON: "),
        ("a: !!int ''", "not YAML or JSON: "),
        ("a: !!bool x", "not YAML or JSON: "),
        (f"{TEL}, spec: {{a: !!binary AA==}}}}", "tel: bytes is no type of JSON; write a text"),
        (f"{TEL}, spec: {{a: !!set {{b}}}}}}", "tel: set is no type of JSON"),
        (f"{TEL}, spec: {{[a]: b}}}}", "not YAML or JSON: "),
        pytest.param(f"{TEL}, spec: &a {{a: *a}}}}", "tel: is larger than the API takes", id="a-spec-in-itself"),
        pytest.param(f"a: {MERGES}", "there is no DeviceProcessDeployment", id="merges-of-merges"),
        pytest.param(f"{TEL}, spec: {BOMB}}}", "tel: is larger than the API takes", id="an-alias-bomb"),
    ],
)
def test_a_bad_manifest_is_named(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=r"^-f: ") as raised:
        deployments_in(text)
    assert words in raised.value.message


def test_a_date_is_the_text_that_it_is_written_as() -> None:
    spec = "spec: {template: {metadata: {annotations: {build: 2026-01-01}}}}"
    text = f"apiVersion: azure.com/v1alpha1\nkind: DeviceProcessDeployment\nmetadata: {{name: tel}}\n{spec}\n"
    (found,) = deployments_in(text)
    assert found["spec"]["template"]["metadata"]["annotations"] == {"build": "2026-01-01"}


def test_a_file_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(1 << 40)  # a hole: it is read up to the bound
    (tmp_path / "escapes").write_text('{kind: DeviceProcessDeployment, metadata: {name: "\\e[2J"}}')
    cases = (("none", "No such file"), ("binary", "is not text"), ("large", "MiB"), ("escapes", "spec: is missing"))
    for name, words in cases:
        result = Lab().run("plan", "-f", str(tmp_path / name))
        assert result.exit_code == 2
        assert words in result.stderr
        assert "\x1b" not in result.stderr


def test_a_bad_ready_after_is_a_usage_error() -> None:
    assert plan(Lab(), manifest(), "--ready-after", "soon").exit_code == 2


@given(devices=st.integers(0, 12), limit=st.integers(0, 5))
def test_a_forecast_keeps_the_budget_and_ends(devices: int, limit: int) -> None:
    outcome = forecast(lab_of(devices), manifest(rolling={"maxUnavailable": limit}))
    assert outcome["unavailableAtMost"] <= limit
    assert len(outcome["steps"]) <= min(devices, MAX_STEPS)
    assert len(outcome["left"]) == (0 if limit else devices)


def test_a_way_back_to_an_earlier_template_is_a_rollout_that_begins_now() -> None:
    lab = lab_of(2)
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    for number, template in ((1, NEW), (2, OLD)):
        data = {"spec": {"template": {"spec": template}}}
        notes = {"labels": {"azure.com/deployment": "tel"}} | owned_by("tel", uid)
        lab.put(CONTROLLER_REVISIONS, f"tel-{number}", notes, revision=number, data=data)
    waves = [{"name": "canary", "limit": 1, "soakSeconds": 60}]
    outcome = forecast(lab, manifest(rolling={"maxUnavailable": 2, "waves": waves}))
    assert [(step["afterSeconds"], step["update"]) for step in outcome["steps"]] == [(0, ["leaf-0"]), (70, ["leaf-1"])]


def test_a_process_that_is_going_makes_room_for_its_successor() -> None:
    lab = lab_of(1, with_processes=0)
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    lab.process("tel", uid, "leaf-0")
    lab.patch(DEVICE_PROCESSES, "tel-leaf-0", metadata={"finalizers": ["example.com/hold"]})
    asyncio.run(lab.kube.delete(DEVICE_PROCESSES, Key(NAMESPACE, "tel-leaf-0")))
    lab.switch("leaf-1", status={"conditions": [connected()]})
    outcome = forecast(lab, manifest())
    assert [step["create"] for step in outcome["steps"]] == [["leaf-1"], ["leaf-0"]]
    assert outcome["left"] == {}


@pytest.mark.parametrize(("there", "readable"), [(False, True), (True, True), (False, False)])
def test_references_that_no_device_would_get_are_warned_of_if_the_user_may_read_them(
    there: bool, readable: bool
) -> None:
    lab = lab_of(1)
    level = {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}
    template = {"execution": {**NEW["execution"], "env": [level]}}
    if there:
        lab.put(CONFIG_MAPS, "settings", {"labels": {"azure.com/deliver": "true"}}, data={"level": "debug"})
    rehearsal = lab.kube.rehearsal
    if not readable:

        def forbidden() -> LabKube:
            found = rehearsal()
            found.fail_next(Forbidden(403, "Forbidden", "no"), verb="get", resource=CONFIG_MAPS)
            return found

        lab.kube.rehearsal = forbidden  # type: ignore[method-assign]
    warned = "ReferenceMissing(configmap/settings key level): spec.template.spec.execution.env: the namespace lab has"
    assert any(each.startswith(warned) for each in forecast(lab, manifest(template))["warnings"]) is (
        readable and not there
    )


def with_files(*files: dict[str, Any]) -> dict[str, Any]:
    return {"execution": {**NEW["execution"], "files": list(files)}}


def test_files_that_change_are_listed_without_their_contents() -> None:
    key = {"name": "conf", "key": "a"}
    old = with_files(
        {"path": "gone", "content": "marker"},
        {"path": "same", "content": "marker"},
        {"path": "other", "content": "marker"},
        {"path": "moved", "content": "marker", "mode": "0640", "onChange": "Signal", "signal": "SIGUSR1"},
        {"path": "may-lack", "configMapKeyRef": key, "owner": "app"},
    )
    new = with_files(
        {"path": "same", "content": "marker"},
        {"path": "other", "content": "MARKER"},
        {"path": "moved", "secretKeyRef": key},
        {"path": "may-lack", "configMapKeyRef": {**key, "optional": True}},
        {"path": "new", "secretKeyRef": key, "owner": "app"},
    )
    lab = Lab()
    lab.deployment("tel", spec=manifest(old)["spec"])
    lab.switch("leaf-0", {"rack": "r0"}, status={"conditions": [connected()]})
    result = plan(lab, manifest(new))
    lines = [each for each in result.stdout.splitlines() if each.startswith("tel: file ")]
    assert lines == [
        "tel: file gone: is removed",
        "tel: file other: other content (6 bytes)",
        "tel: file moved: from content (6 bytes) to secret/conf key a; mode 0640 to 0600; onChange Signal SIGUSR1 to "
        "Restart",
        "tel: file may-lack: owner app to the process's user; now optional",
        "tel: file new: is new: mode 0600, owner app, from secret/conf key a, onChange Restart",
    ]
    assert "marker" not in result.output.lower()
    assert "spec.template.spec.execution.files: the namespace lab has no" in result.stdout
    changed = {each["path"]: each for each in forecast(lab, manifest(new))["files"]}
    assert changed["moved"]["mode"] == "0600"
    assert changed["moved"]["source"] == "secret/conf key a"
    fresh = {**manifest(with_files({"path": "a", "content": ""})), "metadata": {"name": "other"}}
    assert forecast(lab, fresh)["files"][0]["change"] == "is new: mode 0644, from content (0 bytes), onChange Restart"


class OlderKube(LabKube):
    """An API before Kubernetes 1.25: it does not know that it was asked to be strict."""

    async def _exchange(self, method: str, path: str, query: Query, *rest: Any) -> Response:
        known = {name: value for name, value in query.items() if name != "fieldValidation"}
        return await super()._exchange(method, path, known, *rest)


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """Return a manifest with a file that has the value *to* at *path*."""
    body = manifest(with_files({"path": "a", "content": "x"}))
    part: Any = body
    for each in path[:-1]:
        part = part[each]
    part[path[-1]] = to
    return body


FILE = ("spec", "template", "spec", "execution", "files", 0)


@pytest.mark.parametrize("kube", [LabKube, OlderKube], ids=["strict", "older-api"])
@pytest.mark.parametrize("name", ["tel", "new"], ids=["existing", "new"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            changed(*FILE, "onchange", to="Signal"),
            "spec.template.spec.execution.files[0].onchange: is no field of the API; write onChange",
            id="case",
        ),
        pytest.param(
            changed("spec", "updateStrategy", "rollingUpdate", "maxUnavailabel", to=1),
            "spec.updateStrategy.rollingUpdate.maxUnavailabel: is no field of the API; write maxUnavailable",
            id="letters",
        ),
        pytest.param(
            changed("spec", "template", "spec", "args", to=["x"]),
            "spec.template.spec.args: is no field of the API; fields there are artifact, confirm, execution, ",
            id="place",
        ),
        pytest.param(
            changed("spec", "selector", "match.labels", to={}),
            "spec.selector.match.labels: is no field of the API; write matchLabels",
            id="a-dot-in-the-name",
        ),
    ],
)
def test_a_field_that_the_api_does_not_know_is_named_with_what_was_meant(
    kube: type[LabKube], name: str, body: dict[str, Any], said: str
) -> None:
    lab = lab_of(1)
    lab.kube = kube(lab.clock, plane=lab.kube.plane)
    result = plan(lab, body | {"metadata": {"name": name}})
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: -f: {name}: {said}")
    assert len(result.stderr) < 500  # and not the object, which a strict API repeats


def test_every_unknown_field_is_named_and_what_is_beside_the_spec_too() -> None:
    lab = lab_of(1)
    body = changed(*FILE, "Mode", to="0600")
    body["spec"]["pause"] = True
    two = plan(lab, body).stderr
    assert "files[0].Mode: is no field of the API; write mode" in two
    assert "spec.pause: is no field of the API; write paused" in two
    assert "specs: is no field of the API; write spec" in plan(lab, changed("specs", to={})).stderr


@pytest.mark.parametrize("kube", [LabKube, OlderKube])
def test_a_field_that_is_newer_than_the_cluster_names_what_to_apply(kube: type[LabKube]) -> None:
    lab = lab_of(1)
    definition = Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
    )
    key = Key("", "deviceprocessdeployments.azure.com")
    versions = lab.kube.objects(definition)[key]["spec"]["versions"]
    del versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["overrides"]
    lab.kube = kube(lab.clock, plane=lab.kube.plane)
    asyncio.run(lab.kube.patch(definition, key, {"spec": {"versions": versions}}))
    said = plan(lab, changed("spec", "overrides", to=[])).stderr
    assert "spec.overrides: this cluster's API does not know it yet; apply the CRDs of this release first" in said


def test_nothing_is_called_unknown_that_an_api_fills_in_or_takes_as_absent() -> None:
    lab = lab_of(1)
    body = changed(*FILE, "owner", to=None) | {"status": {"numberReady": 1}}
    for name in ("tel", "new"):
        named = body | {"metadata": {"name": name, "labels": {"any": "thing"}}}
        assert plan(lab, named).exit_code == 0


def test_contents_that_no_device_would_be_given_together_are_warned_of() -> None:
    files = [{"path": key, "configMapKeyRef": {"name": "conf", "key": key}} for key in ("a", "b")]
    lab = lab_of(1)
    lab.put(CONFIG_MAPS, "conf", {"labels": {"azure.com/deliver": "true"}}, data=dict.fromkeys("ab", "x" * 100_000))
    warned = forecast(lab, manifest(with_files(*files)))["warnings"]
    assert [each.partition(": no device")[0] for each in warned] == [
        "ReferenceRefused(TooLarge files of more than 131072 bytes): spec.template.spec.execution.files"
    ]


def test_variables_that_stay_as_they_are_are_warned_of() -> None:
    env = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "x"}]
    template = {"execution": {**NEW["execution"], "env": env, "expandVariables": True}}
    warned = forecast(lab_of(1), manifest(template))["warnings"]
    assert warned == [
        "spec.template.spec.execution: the variable A refers to B, which stands after it, so that $(B) stays as it is; "
        "put B before A"
    ]


def test_what_devices_would_refuse_is_warned_of_with_their_names() -> None:
    facts = {"features": "files.v1", "agent.fileRoots": "none"}
    refusing = {"status": {"conditions": [connected()], "facts": facts}}
    knows_nothing = {"status": {"conditions": [connected()], "facts": {"features": "files.v1"}}}
    lab = lab_of(3, leaf_0=refusing, leaf_1=knows_nothing, leaf_2=refusing)
    warned = forecast(lab, manifest(with_files({"path": "/etc/a", "content": "x"})))["warnings"]
    assert [each.partition(" is in no")[0] for each in warned] == [
        "NotAllowed(2): leaf-0, leaf-2: execution.files[0].path: /etc/a"
    ]


def in_env(**source: Any) -> dict[str, Any]:
    return {"execution": {**NEW["execution"], "env": [{"name": "A", "valueFrom": source}]}}


def in_container(**container: Any) -> dict[str, Any]:
    execution = {"backend": "container", "container": container}
    return {"artifact": {"type": "oci", "url": f"r.example/x@sha256:{'0' * 64}"}, "execution": execution}


NO_RULES = "customresourcedefinitions"


def without_rules(lab: Lab) -> None:
    """Let the API be one that knows patterns and no rules in CEL."""
    definition = Resource("apiextensions.k8s.io", "v1", NO_RULES, "CustomResourceDefinition", namespaced=False)
    key = Key("", "deviceprocessdeployments.azure.com")
    versions = [plain(each) for each in lab.kube.objects(definition)[key]["spec"]["versions"]]
    asyncio.run(lab.kube.patch(definition, key, {"spec": {"versions": versions}}))


def plain(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: plain(value) for name, value in part.items() if name != "x-kubernetes-validations"}
    return [plain(each) for each in part] if isinstance(part, list) else part


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "patterns-alone"])
@pytest.mark.parametrize(
    ("template", "field", "words"),
    [
        (in_env(configMapKeyRef={"name": "A_b", "key": "a"}), "name", "write small letters, digits, - and ."),
        (in_env(secretKeyRef={"name": "a", "key": "a b"}), "key", "write letters, digits, -, _ and ., such as tls.key"),
        (with_files({"path": "a//b", "content": ""}), "path", "write one without //, a / at its end"),
        (with_files({"path": "a/", "content": ""}), "path", "write one without //, a / at its end"),
        (with_files({"path": "a", "content": "", "mode": "rw"}), "mode", "write permissions in octal and in quotes"),
        (with_files({"path": "a", "content": "", "owner": "a b"}), "owner", "write user or user:group, by names"),
        (in_container(volumes=[{"hostPath": "run", "mountPath": "/run"}]), "hostPath", "write an absolute one without"),
        (in_container(volumes=[{"hostPath": "/a:b", "mountPath": "/a"}]), "hostPath", "write an absolute one without"),
        (in_container(capabilities={"add": ["net_admin"]}), "add", "write it in capitals, without CAP_"),
        (in_container(network="a b"), "network", "write host, none, or letters, digits, -, _ and ."),
        (in_container(devices=[{"hostPath": "/a", "permissions": "x"}]), "permissions", "of r, w and m, in this order"),
        ({"execution": {**NEW["execution"], "env": [{"name": "1A"}]}}, "name", "no digit first, such as LOG_LEVEL"),
        ({"execution": {**NEW["execution"], "user": "a b"}}, "user", "write a name or a number of the device"),
    ],
)
def test_a_value_of_another_form_is_refused_with_what_to_write(
    template: dict[str, Any], field: str, words: str, rules: bool
) -> None:
    lab = lab_of(1, 0)
    if not rules:
        without_rules(lab)
    for place in (manifest(template), manifest(overrides=[{"selector": {"matchLabels": {"a": "b"}}, **template}])):
        if "artifact" in template and "overrides" in place["spec"]:
            place["spec"]["overrides"][0].pop("artifact")
        result = plan(lab, place)
        assert result.exit_code == 1
        assert field in result.stderr
        assert words in result.stderr
