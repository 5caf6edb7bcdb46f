# SPDX-License-Identifier: Apache-2.0
"""What `praetorctl` says of overrides: before a rollout, of a device, and of a revision that is brought back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ctl_testing import NAMESPACE, OLD, Lab, connected, owned_by
from praetor_api.kube.client.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    Key,
)
from praetor_controller.model.projection import project_deployment

SELECTOR = {"matchExpressions": [{"key": "cpu", "operator": "Exists"}]}
STORED = {
    "execution": {"backend": "process", "command": ["/opt/tel"], "terminationGracePeriodSeconds": 30},
    "restartPolicy": "Always",
}
"""What the API makes of a template."""
REF = {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}


def override(cpu: str = "arm64", artifact: dict[str, Any] | None = None, **execution: Any) -> dict[str, Any]:
    parts = {"artifact": artifact, "execution": execution}
    return {"selector": {"matchLabels": {"cpu": cpu}}} | {name: part for name, part in parts.items() if part}


def lab_with(*overrides: dict[str, Any], template: dict[str, Any] = OLD) -> Lab:
    lab = Lab()
    body = {"selector": SELECTOR, "template": {"spec": template}} | ({"overrides": [*overrides]} if overrides else {})
    uid = lab.deployment("tel", spec=body)
    for name, cpu in (("leaf-1", "arm64"), ("leaf-2", "x86_64")):
        lab.switch(name, {"cpu": cpu}, status={"conditions": [connected()]})
        lab.process("tel", uid, name)
    return lab


def plan(lab: Lab, *overrides: dict[str, Any], template: dict[str, Any] = OLD, output: str = "table") -> str:
    body = {
        "apiVersion": "azure.com/v1alpha1",
        "kind": "DeviceProcessDeployment",
        "metadata": {"name": "tel"},
        "spec": {"selector": SELECTOR, "template": {"spec": template}, "overrides": [*overrides]},
    }
    ran = lab.run("plan", "-f", "-", "-o", output, input=yaml.safe_dump(body))
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_a_plan_says_how_many_devices_each_override_covers() -> None:
    overrides = [override(args=["--arm"]), override("mips", args=["--mips"])]
    lines = plan(lab_with(), *overrides).splitlines()
    assert lines[-3:] == [
        "spec.overrides[0]: 1 device",
        "spec.overrides[1]: 0 devices",
        "at the end: 2 of 2 devices are up to date",
    ]
    data = json.loads(plan(lab_with(), *overrides, output="json"))[0]
    assert data["overrides"] == {"spec.overrides[0]": 1, "spec.overrides[1]": 0}


FILE = {"type": "file", "url": "/tel", "checksumSHA256": "a" * 64}


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        ([override(args=["--arm"])], ""),
        (
            [override("mips", args=["x"])],
            "spec.overrides[0].selector: no device of 2 matches, so it does nothing; correct it, or label devices",
        ),
        ([override(args=["1"]), override(args=["2"], user="tel")], ""),
        (
            [override(args=["1"], env=[{"name": "A", "value": "1"}]), override(env=[{"name": "A", "value": "2"}])],
            "spec.overrides[1]: earlier overrides set all of its fields on each of its devices, so it does nothing; "
            "put it before them",
        ),
        (
            [override(artifact={"url": "/tel-arm"})],
            "spec.overrides[0].artifact.url: keeps the checksum of the template; write checksumSHA256, too, unless it "
            "is the same file elsewhere",
        ),
        ([override(artifact={"url": "/tel-arm", "checksumSHA256": "b" * 64})], ""),
        (
            [override(artifact={"url": "/1", "checksumSHA256": "b" * 64}), override(artifact={"url": "/2"})],
            "spec.overrides[1]: earlier overrides set all of its fields on each of its devices, so it does nothing; "
            "put it before them",
        ),
        (
            [override(workingDir="../x")],
            "OverrideInvalid: spec.overrides[0].execution.workingDir: leads out of the artifact; write an absolute "
            "path, or one inside; these devices would keep what they have",
        ),
    ],
)
def test_a_plan_warns_of_overrides_that_are_probably_a_mistake(overrides: list[dict[str, Any]], warning: str) -> None:
    data = json.loads(plan(lab_with(), *overrides, template=OLD | {"artifact": FILE}, output="json"))[0]
    assert (data["warnings"], data["fault"]) == ([warning] if warning else [], "")


def test_a_plan_goes_on_with_the_devices_that_an_override_does_not_hold() -> None:
    *_, covered, end, held = plan(lab_with(), override(command=["bin/tel"])).splitlines()
    assert (covered, end) == ("spec.overrides[0]: 1 device", "at the end: 1 of 2 devices are up to date")
    assert held.startswith("    OverrideInvalid: leaf-1 (spec.overrides[0].execution.command: 'bin/tel' is relative")


def test_a_plan_warns_of_an_object_that_only_an_override_refers_to() -> None:
    (warning,) = json.loads(plan(lab_with(), override(env=[REF]), output="json"))[0]["warnings"]
    assert warning.startswith("ReferenceMissing(configmap/settings key level): ")
    lab = lab_with()
    lab.put(CONFIG_MAPS, "settings", {"labels": {"azure.com/deliver": "true"}}, data={"level": "debug"})
    assert json.loads(plan(lab, override(env=[REF]), output="json"))[0]["warnings"] == []


def test_render_shows_which_overrides_a_device_gets() -> None:
    lab = lab_with(override(args=["--arm"]), override(args=["x"], artifact={"type": "file", "url": "/tel-arm"}))
    arm, x86 = (yaml.safe_load(lab.run("render", "tel", name).stdout) for name in ("leaf-1", "leaf-2"))
    assert arm["overrides"] == ["spec.overrides[0]", "spec.overrides[1]"]
    assert (arm["artifact"], arm["args"]) == ({"type": "file", "url": "/tel-arm"}, ["--arm"])
    assert (x86["overrides"], x86["artifact"], x86["args"]) == ([], None, [])
    ran = lab_with(override(command=["bin/tel"])).run("render", "tel", "leaf-1")
    assert ran.exit_code != 0
    assert ran.stderr.startswith("tel: spec.overrides[0].execution.command: 'bin/tel' is relative") or (
        "spec.overrides[0].execution.command: 'bin/tel' is relative" in ran.stderr
    )


def test_explain_says_which_overrides_a_device_gets() -> None:
    lab = lab_with(override(args=["--arm"]))
    assert "    it gets the template with spec.overrides[0]" in lab.run("explain", "leaf-1").output.splitlines()
    assert "spec.overrides" not in lab.run("explain", "leaf-2").output
    (found,) = json.loads(lab.run("explain", "leaf-1", "-o", "json").output)["deployments"]
    assert found["overrides"] == ["spec.overrides[0]"]


def test_what_a_device_runs_by_an_override_is_known_by_its_revision() -> None:
    lab = lab_with(override(args=["--arm"]))
    stored = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")
    template, uid = project_deployment(stored).template, stored["metadata"]["uid"]
    data = {"spec": {"template": stored["spec"]["template"], "overrides": stored["spec"]["overrides"]}}
    marks = {"labels": {"azure.com/deployment": "tel"}} | owned_by("tel", uid)
    lab.put(CONTROLLER_REVISIONS, "tel-1", marks, revision=1, data=data)
    name = lab.kube.objects(DEVICE_PROCESSES)[Key(NAMESPACE, "tel-leaf-1")]["metadata"]["name"]
    reported = template.resolved({"cpu": "arm64"}).spec_hash
    lab.patch(DEVICE_PROCESSES, name, "status", status={"observedSpecHash": reported, "phase": "Running"})
    (found,) = json.loads(lab.run("explain", "leaf-1", "-o", "json").output)["deployments"]
    assert found["running"] == template.revision


def revision(lab: Lab, number: int, *overrides: dict[str, Any]) -> None:
    uid = lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["metadata"]["uid"]
    data = {"spec": {"template": {"spec": STORED}} | ({"overrides": [*overrides]} if overrides else {})}
    marks = {"labels": {"azure.com/deployment": "tel"}} | owned_by("tel", uid)
    lab.put(CONTROLLER_REVISIONS, f"tel-{number}", marks, revision=number, data=data)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([override(args=["1"])], [override(args=["2"])]),
        ([override(args=["1"])], []),
        ([], [override(args=["2"])]),
    ],
)
def test_undo_brings_the_overrides_back_and_history_shows_them(before: list[Any], now: list[Any]) -> None:
    lab = lab_with(*now, template=STORED)
    revision(lab, 1, *before)
    revision(lab, 2, *now)
    lines = lab.run("rollout", "history", "tel", "--revision", "2").output.splitlines()
    assert ("overrides:" in lines) is bool(now)
    assert [line.strip() for line in lines if line[2:3] in ("+", "-") and "- '" in line] == [
        *(["-    - '1'"] if before else []),
        *(["+    - '2'"] if now else []),
    ]
    listed = json.loads(lab.run("rollout", "history", "tel", "-o", "json").output)
    assert [each.get("overrides", []) for each in listed] == [before, now]
    assert lab.run("rollout", "undo", "tel", "--to-revision", "1").output == "tel: back to the template of revision 1\n"
    assert lab.stored(DEVICE_PROCESS_DEPLOYMENTS, "tel")["spec"].get("overrides", []) == before
    again = lab.run("rollout", "undo", "tel", "--to-revision", "1").output
    assert again == "tel: has the template of revision 1 already\n"
