# SPDX-License-Identifier: Apache-2.0
"""The manifests of docs/values.md, files.md and rollouts.md, as they are printed: what the pages say comes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctl_testing import Lab, connected
from praetor_api.kube.client.resource import CONFIG_MAPS
from praetor_api.protocol import AGENT_FEATURES

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FEATURES = {"features": ",".join(sorted(AGENT_FEATURES))}
PROGRAM = {"backend": "process", "command": ["/opt/x"]}


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def manifest_in(text: str) -> dict[str, Any]:
    """Return the deployment in a block of YAML; what a part of one does not say is filled in."""
    found = next(each for each in yaml.safe_load_all(text) if each.get("kind") in (None, "DeviceProcessDeployment"))
    if "files" in found:
        found = {"template": {"spec": {"execution": PROGRAM | found}}}
    if "template" in found:
        found = {"spec": {"template": {"spec": {"execution": PROGRAM}} | found["template"]}}
    head = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment", "metadata": {"name": "telemetry"}}
    manifest: dict[str, Any] = head | found | {"spec": {"selector": {}, **found["spec"]}}
    return manifest


def block_with(name: str, words: str) -> str:
    """Return the only block of the page *name* that has *words*."""
    (found,) = (text for _, text in BLOCK.findall(page(name)) if words in text)
    return str(found)


def applied(lab: Lab, text: str) -> str:
    """Create the deployment in *text* and return its name."""
    manifest = manifest_in(text)
    name: str = manifest["metadata"]["name"]
    lab.deployment(name, spec=manifest["spec"])
    return name


def switch(lab: Lab, name: str, labels: Mapping[str, str], facts: Mapping[str, str], **spec: str) -> None:
    status = {"facts": FEATURES | dict(facts), "conditions": [connected()]}
    lab.switch(name, {"role": "leaf", **labels}, spec=spec, status=status)


def rendered(lab: Lab, deployment: str, device: str) -> dict[str, Any]:
    ran = lab.run("render", deployment, device, "-o", "json")
    assert ran.exit_code == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


MANIFESTS = [
    pytest.param(text, id=f"{name}-{number}")
    for name in ("values.md", "files.md", "rollouts.md")
    for number, (language, text) in enumerate(BLOCK.findall(page(name)))
    if language == "yaml"
]


@pytest.mark.parametrize("text", MANIFESTS)
def test_every_manifest_is_taken_by_the_api_to_the_last_field(text: str) -> None:
    ran = Lab().run("plan", "-f", "-", input=yaml.safe_dump(manifest_in(text)))
    assert ran.exit_code == 0, ran.stderr
    assert "cannot be acted on" not in ran.stdout


def test_a_device_gets_what_the_page_of_values_prints() -> None:
    lab = Lab()
    name = applied(lab, block_with("values.md", "--id=$(SWITCH)"))
    facts = {"os": "Debian GNU/Linux 12 (bookworm)"}
    switch(lab, "leaf-1", {"rack": "r7"}, facts, managementAddress="192.0.2.7")
    command, _, printed = block_with("values.md", "$ praetorctl render ").partition("\n")
    ran = lab.run(*command.removeprefix("$ praetorctl ").split())
    assert (ran.stdout, ran.stderr) == (printed, "")
    assert name == "telemetry"


def test_values_of_objects_are_those_of_the_page() -> None:
    lab = Lab()
    name = applied(lab, block_with("values.md", "secretKeyRef"))
    switch(lab, "leaf-1", {}, {})
    lab.put(CONFIG_MAPS, "telemetry", {"labels": {"azure.com/deliver": "true"}}, data={"level": "debug"})
    assert rendered(lab, name, "leaf-1")["env"] == {
        "LEVEL": "debug",
        "PASSWORD": "(of secret/telemetry-login key password)",
    }


def test_variables_become_what_the_page_says_and_the_unknown_one_is_warned_of() -> None:
    lab = Lab()
    text = block_with("values.md", "--tag=$(UNKNOWN)")
    name = applied(lab, text)
    switch(lab, "leaf-1", {}, {})
    sentence = page("values.md").partition(text)[2].partition("\n\n|")[0]
    assert rendered(lab, name, "leaf-1")["args"] == re.findall(r"`(--\S+?)`", sentence)
    said = lab.run("render", name, "leaf-1").stderr
    assert said.startswith(f"{name}: spec.template.spec.execution: args[2] refers to UNKNOWN, which env does not have")


def test_overrides_give_devices_what_the_page_says() -> None:
    lab = Lab()
    name = applied(lab, block_with("values.md", "--low-memory"))
    for device, labels in (
        ("plain", {}), ("arm", {"cpu": "arm64"}), ("small", {"model": "s4100"}),
        ("both", {"cpu": "arm64", "model": "s4112"}),
    ):  # fmt: skip
        switch(lab, device, labels, {})
    found = {device: rendered(lab, name, device) for device in ("plain", "arm", "small", "both")}
    assert {device: each["artifact"]["url"].rpartition("-")[2] for device, each in found.items()} == {
        "plain": "x86_64", "arm": "arm64", "small": "x86_64", "both": "arm64",
    }  # fmt: skip
    assert {device: each["env"] for device, each in found.items()} == {
        "plain": {"CACHE": "64Mi", "SITE": "fra1"}, "arm": {"CACHE": "64Mi", "SITE": "fra1"},
        "small": {"CACHE": "8Mi", "SITE": "fra1"}, "both": {"CACHE": "8Mi", "SITE": "fra1"},
    }  # fmt: skip
    assert {device: "--low-memory" in each["args"] for device, each in found.items()} == {
        "plain": False, "arm": False, "small": True, "both": True,
    }  # fmt: skip


def test_the_first_example_of_files_gets_its_file_below_a_named_placeholder() -> None:
    lab = Lab()
    name = applied(lab, block_with("files.md", "sleep 1000000"))
    switch(lab, "leaf-1", {}, {})
    found = rendered(lab, name, "leaf-1")
    assert found["args"][-1] == "<PRAETOR_FILES>/etc/exporter.conf"
    assert [each["content"] for each in found["files"]] == ["listen 9100\ninterval 30s\n"]


def test_requirements_hold_the_device_that_the_page_names() -> None:
    lab = Lab()
    name = applied(lab, block_with("rollouts.md", "  requirements:"))
    for device, version, arch in (("leaf-1", "11", "x86_64"), ("leaf-2", "12", "x86_64"), ("leaf-3", "12", "arm64")):
        switch(lab, device, {}, {"os.version": version, "arch": arch})
    said = "RequirementNotMet(os.version 11 < 12)"
    assert f"`{said}`" in page("rollouts.md")
    assert lab.run("render", name, "leaf-1").stderr.startswith(f"{said}; leaf-1 keeps what it runs")
    assert lab.run("render", name, "leaf-2").stderr == ""
    assert "arch arm64 is not in x86_64" in lab.run("explain", "leaf-3").stdout
    planned = lab.run("plan", "-f", "-", input=block_with("rollouts.md", "  requirements:")).stdout
    assert "    RequirementNotMet: leaf-1 (os.version 11 < 12), leaf-3 (arch arm64 is not in x86_64): " in planned
    assert "at the end: 1 of 3 devices are up to date" in planned


def test_facts_select_the_devices_that_the_page_describes() -> None:
    lab = Lab()
    text = block_with("rollouts.md", "  factSelector:")
    name = applied(lab, text)
    reported = (("leaf-1", "sonic", "x86_64"), ("leaf-2", "debian", "x86_64"), ("leaf-3", "sonic", "arm64"))
    for device, os_id, arch in reported:
        switch(lab, device, {}, {"os.id": os_id, "arch": arch})
    lab.switch("leaf-4", {"role": "leaf"})
    assert name == "telemetry-sonic"
    (planned,) = json.loads(lab.run("plan", "-f", "-", "-o", "json", input=text).stdout)
    assert (planned["devices"], planned["steps"][0]["create"]) == (1, ["leaf-1"])


def test_a_misspelt_field_is_refused_in_the_words_of_the_page(tmp_path: Path) -> None:
    text = block_with("files.md", "trap show HUP")
    command, _, printed = block_with("files.md", "write onChange").partition("\n")
    (tmp_path / "exporter.yaml").write_text(text.replace("onChange: Signal", "onchange: Signal", 1))
    words = command.removeprefix("$ praetorctl ").replace("exporter.yaml", str(tmp_path / "exporter.yaml")).split()
    ran = Lab().run(*words)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (2, "", printed)
