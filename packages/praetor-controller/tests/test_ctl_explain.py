# SPDX-License-Identifier: Apache-2.0
"""`praetorctl explain`: the planner's own reasons, for each device and each deployment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ctl_testing import LONG_AGO, NAMESPACE, NEW, OLD, Lab, connected, owned_by, running
from praetor_api.canonical import spec_hash
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    DEVICES,
    NETWORK_SWITCHES,
    Key,
)
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.explain import MEANINGS
from praetor_controller.model.projection import project_template
from praetor_controller.rollout.reasons import ReasonCode


@pytest.fixture
def lab() -> Lab:
    lab = Lab()
    for number in range(1, 5):
        lab.switch(f"leaf-{number}", {"rack": f"r{number}"}, status={"conditions": [connected()]})
    lab.switch("spine-1", {"role": "spine"})
    expressions = [{"key": "rack", "operator": "Exists"}]
    uid = lab.deployment(
        "tel",
        spec={
            "selector": {"matchExpressions": expressions},
            "template": {"spec": NEW},
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}},
        },
    )
    for number in range(1, 4):
        lab.process("tel", uid, f"leaf-{number}")
    return lab


def test_a_deployment_is_explained_by_the_reasons_of_its_devices(lab: Lab) -> None:
    lines = lab.run("explain", "tel").output.splitlines()
    assert lines[0].startswith("tel: Available=True MinimumDevicesAvailable: 3 of 4 devices are available")
    assert lines[1].startswith("tel: Progressing=True RolloutInProgress: ")
    assert lines[2:] == [
        "tel: the controller has not observed its present spec yet; check that it runs",
        "tel: the controller's next writes: create 1, update 1",
        "BudgetExhausted: 2 devices: waits, because no more devices may be unavailable (maxUnavailable=1)",
        "    leaf-2, leaf-3",
        "Creating: 1 device: is being given its first process",
        "    leaf-4",
        "Updating: 1 device: is being given the template, or has not reported it yet",
        "    leaf-1",
    ]


def test_a_refused_write_is_explained_in_the_words_of_the_api(lab: Lab) -> None:
    sentence = "metadata.labels: Invalid value: 'x y'"
    again = "next attempt at 2026-01-01T01:00:05Z, or now with: praetorctl rollout retry tel"
    refused = {"type": "WritesRefused", "status": "True", "reason": "RefusedByAPI", "lastTransitionTime": LONG_AGO}
    conditions = [refused | {"message": f"the API refuses 4 writes: {sentence}; {again}"}]
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", "status", status={"conditions": conditions})
    output = lab.run("explain", "tel").output
    assert f"tel: WritesRefused=True RefusedByAPI: the API refuses 4 writes: {sentence}; {again}" in output
    assert "next writes: none" in output
    assert f"CannotConverge: 4 devices: cannot get the template: the API refuses it ({sentence})" in output


def test_every_command_warns_while_no_gateway_judges_the_devices(lab: Lab, tmp_path: Path) -> None:
    gone = {"type": "GatewayAvailable", "status": "False", "reason": "GatewayUnavailable", "message": "no gateway"}
    conditions = [gone | {"lastTransitionTime": LONG_AGO}]
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", "status", status={"conditions": conditions})
    manifest = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")
    manifest["metadata"] = {"name": "tel"}
    (tmp_path / "tel.json").write_text(json.dumps(manifest))
    warning = "Warning: no gateway (for 1h); what devices reported is as old\n"
    explained = lab.run("explain", "tel")
    assert explained.stderr == warning
    assert "tel: GatewayAvailable=False GatewayUnavailable: " in explained.stdout
    assert "GatewayUnavailable: 4 devices: waits until a gateway judges again" in explained.stdout
    assert "next writes: none" in explained.stdout
    assert lab.run("devices").stderr == lab.run("explain", "leaf-1").stderr == warning
    planned = lab.run("plan", "-f", str(tmp_path / "tel.json"))
    assert planned.stderr == warning
    assert "at the end: 4 of 4 devices are up to date" in planned.stdout


def test_the_devices_of_a_reason_are_bounded(lab: Lab) -> None:
    assert "    leaf-2, and 1 more" in lab.run("explain", "tel", "--max-devices", "1").output


def test_programs_read_all_of_them(lab: Lab) -> None:
    data = json.loads(lab.run("explain", "tel", "-o", "json", "--max-devices", "1").output)
    assert data["deployment"] == "tel"
    assert data["reasons"][0] == {
        "reason": "BudgetExhausted",
        "count": 2,
        "devices": [{"device": f"leaf-{number}", "detail": "maxUnavailable=1"} for number in (2, 3)],
    }


@pytest.mark.parametrize("subject", ["leaf-2", "tel/leaf-2"])
def test_a_device_is_explained_with_each_deployment_that_selects_it(lab: Lab, subject: str) -> None:
    head, line, why = lab.run("explain", subject).output.splitlines()
    assert head.split() == ["DEPLOYMENT", "REASON", "PROCESS", "RUNS", "OFFERED", "WANTED"]
    assert line.split()[:5] == ["tel", "BudgetExhausted", "tel-leaf-2", "-", "old"]
    assert why == "tel: waits, because no more devices may be unavailable (maxUnavailable=1)"


def test_programs_read_the_reasons_of_a_device(lab: Lab) -> None:
    data = json.loads(lab.run("explain", "leaf-4", "-o", "json").output)
    assert data["deployments"][0] | {"wanted": ""} == {
        "deployment": "tel",
        "reason": "Creating",
        "detail": "",
        "process": "",
        "revision": "",
        "running": "",
        "wanted": "",
        "overrides": [],
        "valuesOutdated": False,
    }


@pytest.mark.parametrize(
    "subject", ["tel-leaf-2", "dp/tel-leaf-2", "deviceprocess.azure.com/tel-leaf-2", "dpd/tel/leaf-2"]
)
def test_the_name_of_a_process_explains_its_device(lab: Lab, subject: str) -> None:
    assert lab.run("explain", subject).output == lab.run("explain", "nsw/leaf-2").output
    assert json.loads(lab.run("explain", subject, "-o", "json").output)["deployments"][0]["process"] == "tel-leaf-2"


def test_a_process_of_no_deployment_is_explained_by_what_was_reported_of_it(lab: Lab) -> None:
    ref = {"kind": "NetworkSwitch", "name": "leaf-1", "namespace": NAMESPACE}
    status = {"phase": "Failed", "reason": "Exited", "observedSpecHash": "sha256:1", "conditions": [connected("False")]}
    lab.put(DEVICE_PROCESSES, "own", spec={**OLD, "deviceRef": ref}, status=status)
    lab.put(DEVICE_PROCESSES, "new", spec={**OLD, "deviceRef": ref})
    said = "own: on leaf-1, of no deployment: Failed, Exited; its agent is not connected\n"
    assert lab.run("explain", "own").output == said
    assert lab.run("explain", "new").output == "new: on leaf-1, of no deployment: its device has not reported it\n"
    data = json.loads(lab.run("explain", "own", "-o", "json").output)
    said_of_it = {"process": "own", "device": "leaf-1", "connected": False, "reported": "Failed, Exited"}
    assert data == said_of_it | {"valuesOutdated": False}


def test_the_revision_that_a_device_went_back_to_is_shown_beside_the_one_that_it_was_offered(lab: Lab) -> None:
    tel = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")
    template = {"spec": OLD}
    labels = {"labels": {"azure.com/deployment": "tel"}}
    lab.put(
        CONTROLLER_REVISIONS, "tel-1", owned_by("tel", tel["metadata"]["uid"]) | labels,
        revision=1, data={"spec": {"template": template}},
    )  # fmt: skip
    rolled_back = project_template("tel", template)
    for name, found, runs in (
        ("tel-leaf-1", rolled_back.spec_hash, rolled_back.revision),
        ("tel-leaf-2", "sha256:of-a-revision-that-is-gone", ""),
        ("tel-leaf-3", None, "old"),
    ):
        stored = lab.stored(DEVICE_PROCESSES, name)
        now = found or spec_hash({key: value for key, value in stored["spec"].items() if key != "deviceRef"})
        if found == rolled_back.spec_hash:
            lab.patch(DEVICE_PROCESSES, name, spec={"execution": {"command": ["/opt/other"]}})
        lab.patch(DEVICE_PROCESSES, name, "status", status={"observedSpecHash": now})
        row = json.loads(lab.run("explain", name, "-o", "json").output)["deployments"][0]
        assert (row["running"], row["revision"]) == (runs, "old")
        assert lab.run("explain", name).output.splitlines()[1].split()[3] == (runs or "-")


def test_a_device_without_any_says_so(lab: Lab) -> None:
    assert lab.run("explain", "spine-1").output == "spine-1: no deployment selects it\n"


def test_a_deployment_takes_precedence_over_a_device_of_the_same_name(lab: Lab) -> None:
    lab.switch("tel", {"rack": "r9"})
    assert lab.run("explain", "tel").output.startswith("tel: Available=")
    assert lab.run("explain", "tel/tel").output.splitlines()[1].split()[1] == "Creating"


def test_a_deployment_that_cannot_be_acted_on_says_why() -> None:
    lab = Lab()
    asyncio.run(lab.kube.loosen(DEVICE_PROCESS_DEPLOYMENTS))
    lab.deployment("bad", spec={"template": {"spec": NEW}})
    output = lab.run("explain", "bad").output
    assert "Progressing=False InvalidSpec: spec.selector" in output
    assert "next writes: none" in output


def test_a_deployment_that_is_being_deleted_is_shown_as_such(lab: Lab) -> None:
    lab.deployment("old", {"finalizers": ["example.com/hold"]}, spec={"selector": {}, "template": {"spec": NEW}})
    asyncio.run(lab.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, Key(NAMESPACE, "old")))
    assert lab.run("explain", "old").output == "old: is being deleted\n"
    assert json.loads(lab.run("explain", "old", "-o", "json").output)["conditions"] == []


def test_a_spec_that_was_seen_is_not_called_unseen() -> None:
    lab = Lab()
    spec = {"selector": {}, "template": {"spec": NEW}}
    lab.deployment("tel", spec=spec, status={"observedGeneration": 1})
    assert "has not observed" not in lab.run("explain", "tel").output


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("none", "none is neither a device, nor a deployment, nor a process"),
        ("none/leaf-1", "there is no deployment none; there are: tel"),
        ("tel/none", "there is no device none"),
    ],
)
def test_what_is_not_there_is_named(lab: Lab, subject: str, words: str) -> None:
    result = lab.run("explain", subject)
    assert result.exit_code == 1
    assert words in result.stderr


def test_what_other_deployments_have_down_counts_in_shared_failure_domains(lab: Lab) -> None:
    uid = lab.deployment("other", spec={"selector": {}, "template": {"spec": OLD}})
    lab.switch("leaf-5", {"rack": "r2"}, status={"conditions": [connected()]})
    lab.process("other", uid, "leaf-5", phase="Failed")
    rolling = {"maxUnavailable": 4, "budgets": [{"groupBy": ["rack"], "maxUnavailable": 1}]}
    lab.patch(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"updateStrategy": {"rollingUpdate": rolling}})
    reasons = {
        each["reason"]: each["devices"]
        for each in json.loads(lab.run("explain", "tel", "-o", "json").output)["reasons"]
    }
    assert [each["device"] for each in reasons["Updating"]] == ["leaf-1", "leaf-3"]
    assert reasons["BudgetExhausted"][0]["device"] == "leaf-2"
    assert "rack=r2" in reasons["BudgetExhausted"][0]["detail"]


def test_a_device_that_holds_updates_says_in_its_own_words_why(lab: Lab) -> None:
    held = {"type": "UpdateHeld", "status": "True", "message": "no change before Monday"}
    status = running() | {"conditions": [*running()["conditions"], held]}
    lab.patch(DEVICE_PROCESSES, "tel-leaf-2", "status", status=status)
    line = " ".join(lab.run("explain", "leaf-2").output.splitlines()[1:])
    assert "UpdateHeld" in line
    assert "no change before Monday" in line


def test_explaining_writes_nothing(lab: Lab) -> None:
    lab.kube.requests.clear()
    lab.run("explain", "tel")
    assert {request.verb for request in lab.kube.requests} == {"list"}


def test_every_reason_has_words() -> None:
    assert set(ReasonCode) <= set(MEANINGS)


REFUSED = {"type": "Refused", "status": "True", "reason": "ForeignNamespace", "message": "names another namespace"}
CONFLICT = {"type": "NameConflict", "status": "True", "reason": "BoundElsewhere", "message": "is another's"}


def test_what_the_gateway_ignores_is_explained(lab: Lab) -> None:
    ref = {"name": "leaf-9", "namespace": "elsewhere"}
    lab.put(DEVICE_PROCESSES, "other", spec={**OLD, "deviceRef": ref}, status={"conditions": [REFUSED]})
    lab.patch(NETWORK_SWITCHES, "spine-1", "status", status={"conditions": [CONFLICT]})
    assert lab.run("explain", "other").output == "other: ignored, Refused, ForeignNamespace: names another namespace\n"
    assert json.loads(lab.run("explain", "other", "-o", "json").output)["refused"].startswith("Refused, ")
    assert lab.run("explain", "spine-1").output.splitlines() == [
        "spine-1: ignored, NameConflict, BoundElsewhere: is another's",
        "spine-1: no deployment selects it",
    ]
    assert json.loads(lab.run("explain", "spine-1", "-o", "json").output)["refused"].startswith("NameConflict, ")


@pytest.mark.parametrize("subject", ["tel", "leaf-1"])
def test_why_a_device_does_not_act_on_the_current_spec_is_shown_in_its_own_words(lab: Lab, subject: str) -> None:
    message = "not changed: the state directory cannot be written: No space left on device"
    condition = {"type": "SpecObserved", "status": "False", "reason": "StateNotWritable", "message": message}
    process = lab.stored(DEVICE_PROCESSES, "tel-leaf-1")
    conditions = [*process["status"]["conditions"], condition | {"observedGeneration": 1}]
    conditions = [each for each in conditions if each["type"] != "SpecObserved" or "message" in each]
    lab.patch(DEVICE_PROCESSES, "tel-leaf-1", "status", status={"conditions": conditions})
    assert f"StateNotWritable: {message}" in lab.run("explain", subject).output
    said = condition | {"observedGeneration": 1, "reason": "SpecOutdated"}
    lab.patch(DEVICE_PROCESSES, "tel-leaf-1", "status", status={"conditions": [*conditions[:-1], said]})
    assert message not in lab.run("explain", subject).output


def test_devices_and_processes_that_were_never_heard_are_explained(lab: Lab) -> None:
    never = {"type": "AgentConnected", "status": "Unknown", "reason": "NeverConnected", "message": "check its agent"}
    lab.patch(NETWORK_SWITCHES, "spine-1", "status", status={"conditions": [never]})
    assert lab.run("explain", "spine-1").stdout.splitlines()[0] == "spine-1: NeverConnected: check its agent"
    assert json.loads(lab.run("explain", "spine-1", "-o", "json").output)["absent"] == "NeverConnected: check its agent"
    lab.process("by", "hand", "lost")
    (name,) = [key.name for key in lab.kube.objects(DEVICE_PROCESSES) if key.name.endswith("lost")]
    lab.patch(DEVICE_PROCESSES, name, "status", status={"conditions": [{**never, "reason": "NotDeclared"}]})
    for subject in (name, "lost"):
        line = f"{name}: on lost, which no object declares; NotDeclared: check its agent\n"
        assert lab.run("explain", subject).stdout == line
        (found,) = json.loads(lab.run("explain", subject, "-o", "json").output)["processes"]
        assert found["absent"] == "NotDeclared: check its agent"


def test_a_process_that_names_a_device_of_another_namespace_says_that_nothing_runs_it(lab: Lab) -> None:
    ref = {"kind": "NetworkSwitch", "name": "leaf-1", "namespace": "other"}
    lab.put(DEVICE_PROCESSES, "evil", spec={**OLD, "deviceRef": ref})
    words = "spec.deviceRef names another namespace, so nothing runs it; name a device of the process's own"
    assert lab.run("explain", "evil").stdout == f"evil: {words}\n"
    (found,) = json.loads(lab.run("explain", "evil", "-o", "json").output)["processes"]
    assert (found["process"], found["device"]) == ("evil", "")


@pytest.mark.parametrize("subject", ["DPU/card-1", "dpu/card-1", "dpus.azure.com/card-1", "card-1", "both/card-1"])
def test_a_device_of_another_kind_is_explained_by_its_kind_or_by_its_name_alone(lab: Lab, subject: str) -> None:
    lab.put(DEVICES[DeviceKind.DPU], "card-1", {"labels": {"card": "yes"}}, spec={})
    selector = {"matchLabels": {"card": "yes"}}
    lab.deployment("both", spec={"selector": selector, "deviceKinds": ["DPU"], "template": {"spec": NEW}})
    result = lab.run("explain", subject)
    assert result.exit_code == 0, result.output
    assert "both" in result.output
    assert "Creating" in result.output


def test_a_name_that_two_kinds_have_is_the_switch_unless_the_kind_is_given(lab: Lab) -> None:
    lab.put(DEVICES[DeviceKind.DPU], "leaf-1", spec={})
    assert "tel" in lab.run("explain", "leaf-1").output
    assert lab.run("explain", "DPU/leaf-1").output == "DPU/leaf-1: no deployment selects it\n"


OUTDATED = {"type": "ValuesOutdated", "status": "True", "reason": "ValuesChanged", "lastTransitionTime": LONG_AGO}


def with_condition(lab: Lab, process: str, condition: dict[str, str]) -> None:
    conditions = lab.stored(DEVICE_PROCESSES, process)["status"].get("conditions") or []
    lab.patch(DEVICE_PROCESSES, process, "status", status={"conditions": [*conditions, condition]})


def test_older_values_are_told_of_a_device_and_a_deployment_with_what_applies_the_present_ones(lab: Lab) -> None:
    with_condition(lab, "tel-leaf-2", OUTDATED)
    with_condition(lab, "tel-leaf-3", OUTDATED | {"status": "False", "reason": "ValuesCurrent"})
    for subject in ("leaf-2", "tel-leaf-2"):
        assert lab.run("explain", subject).output.splitlines()[-2:] == [
            "    ValuesOutdated: it runs with older values, until its process starts again",
            "    praetorctl rollout restart tel",
        ]
    assert "ValuesOutdated" not in lab.run("explain", "leaf-3").output
    assert lab.run("explain", "tel").output.splitlines()[-3:] == [
        "ValuesOutdated: 1 device: runs with older values, until its process starts again",
        "    leaf-2",
        "    praetorctl rollout restart tel",
    ]
    assert json.loads(lab.run("explain", "tel", "-o", "json").output)["valuesOutdated"] == ["leaf-2"]
    (found,) = json.loads(lab.run("explain", "leaf-2", "-o", "json").output)["deployments"]
    assert found["valuesOutdated"] is True


def test_older_values_of_a_process_of_no_deployment_are_told_with_what_applies_the_present_ones(lab: Lab) -> None:
    ref = {"kind": "NetworkSwitch", "name": "leaf-1", "namespace": NAMESPACE}
    lab.put(DEVICE_PROCESSES, "own", spec={**OLD, "deviceRef": ref}, status={"conditions": [OUTDATED]})
    assert lab.run("explain", "own").output.splitlines()[1] == (
        "    ValuesOutdated: it runs with older values, until its process starts again: raise spec.restartedAt"
    )
    assert json.loads(lab.run("explain", "own", "-o", "json").output)["valuesOutdated"] is True
