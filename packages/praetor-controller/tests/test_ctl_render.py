# SPDX-License-Identifier: Apache-2.0
"""`praetorctl render`: what a device starts the template of a deployment with."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ctl_testing import Lab
from praetor_api.kube.client.errors import Forbidden
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICES, SECRETS
from praetor_api.protocol import AGENT_FEATURES
from praetor_api.spec import DeviceKind

ESCAPE = "\x1b[31mred"


def ref(name: str, path: str, **more: bool) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"deviceFieldRef": {"fieldPath": path, **more}}}


EXECUTION = {
    "backend": "process",
    "command": ["/opt/tel"],
    "args": ["--id=$(ID)", "$$(ID)", "$(SITE)"],
    "env": [
        ref("DEVICE", "metadata.name"),
        ref("RACK", "metadata.labels['rack']"),
        ref("ADDRESS", "spec.managementAddress", optional=True),
        ref("OS", "status.facts['os']"),
        ref("SITE", "metadata.labels['site']", optional=True),
        {"name": "ID", "value": "$(DEVICE)/$(RACK)"},
    ],
    "expandVariables": True,
}


def lab_with(execution: dict[str, Any]) -> Lab:
    lab = Lab()
    lab.deployment(
        "tel", spec={"selector": {"matchLabels": {"rack": "r1"}}, "template": {"spec": {"execution": execution}}}
    )
    facts = {"facts": {"os": ESCAPE, "features": ",".join(sorted(AGENT_FEATURES))}}
    lab.switch("leaf-1", {"rack": "r1"}, spec={"managementAddress": "192.0.2.7"}, status=facts)
    lab.switch("leaf-2", {"role": "leaf"})
    return lab


@pytest.mark.parametrize(
    ("output", "parse"), [("table", yaml.safe_load), ("yaml", yaml.safe_load), ("json", json.loads)]
)
def test_the_values_of_a_device_are_shown_as_it_gets_them(output: str, parse: Any) -> None:
    ran = lab_with(EXECUTION).run("render", "dpd/tel", "leaf-1", "-o", output)
    assert ran.exit_code == 0, ran.output
    assert parse(ran.stdout) == {
        "command": ["/opt/tel"],
        "args": ["--id=leaf-1/r1", "$(ID)", "$(SITE)"],
        "env": {"DEVICE": "leaf-1", "RACK": "r1", "ADDRESS": "192.0.2.7", "OS": ESCAPE, "ID": "leaf-1/r1"},
    }
    assert "\x1b" not in ran.output
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ("tel", "leaf-2"), "ReferenceMissing(metadata.labels['rack'], status.facts['os']): leaf-2", id="value"
        ),
        pytest.param(("tel", "leaf-9"), "check the name and --namespace", id="device"),
        pytest.param(("gone", "leaf-1"), "check the name and --namespace", id="deployment"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_sentence(words: tuple[str, ...], said: str) -> None:
    ran = lab_with(EXECUTION).run("render", *words)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert said in ran.stderr


def test_an_expansion_that_is_too_long_names_the_field() -> None:
    env = [{"name": f"V{n}", "value": f"$(V{n - 1})" * 2 if n else "xx"} for n in range(100)]
    ran = lab_with(EXECUTION | {"env": env}).run("render", "tel", "leaf-1")
    assert ran.exit_code == 1
    assert "spec.execution.env[16].value: is longer than" in ran.stderr


def test_files_are_shown_with_their_size() -> None:
    files = [
        {"path": "etc/a.conf", "content": "é\n", "onChange": "Signal"},
        {"path": "/etc/app/b", "mode": "0600", "owner": "app:adm", "content": ESCAPE},
    ]
    args = ["$(PRAETOR_FILES)/etc/a.conf"]
    execution = {"backend": "process", "command": ["/opt/x"], "args": args, "files": files, "expandVariables": True}
    ran = lab_with(execution).run("render", "tel", "leaf-1")
    assert ran.exit_code == 0, ran.output
    shown = yaml.safe_load(ran.stdout)
    assert shown["args"] == ["<PRAETOR_FILES>/etc/a.conf"]  # the path is the device's
    assert shown["files"] == [
        {"path": "etc/a.conf", "mode": "0644", "onChange": "Signal", "signal": "SIGHUP", "bytes": 3, "content": "é\n"},
        {"path": "/etc/app/b", "mode": "0600", "owner": "app:adm", "bytes": 8, "content": ESCAPE},
    ]
    assert "\x1b" not in ran.output


def test_a_device_that_the_deployment_does_not_select_is_shown_with_a_warning() -> None:
    ran = lab_with({"backend": "process", "command": ["/opt/$(X)"]}).run("render", "tel", "leaf-2")
    assert ran.exit_code == 0
    assert yaml.safe_load(ran.stdout) == {"command": ["/opt/$(X)"], "args": [], "env": {}}
    assert "tel does not select leaf-2" in ran.stderr


LEVEL = {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}
REFERS = {"backend": "process", "command": ["/opt/tel"], "args": ["$(LEVEL)"], "env": [LEVEL], "expandVariables": True}


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        pytest.param({"azure.com/deliver": "true"}, "debug", id="delivered"),
        pytest.param({}, None, id="not-labelled"),
        pytest.param(None, None, id="missing"),
    ],
)
def test_values_of_config_maps_are_shown_as_the_gateway_resolves_them(
    labels: dict[str, str] | None, shown: str | None
) -> None:
    lab = lab_with(REFERS)
    if labels is not None:
        lab.put(CONFIG_MAPS, "settings", {"labels": labels}, data={"level": "debug"})
    ran = lab.run("render", "tel", "leaf-1", "-o", "json")
    if shown is None:
        assert ran.exit_code == 1
        assert "ReferenceMissing(configmap/settings key level): leaf-1 has no such value" in ran.stderr
    else:
        assert json.loads(ran.stdout)["args"] == [shown]


def test_what_the_user_may_not_read_is_said_and_not_shown() -> None:
    lab = lab_with(REFERS)
    lab.kube.fail_next(Forbidden(403, "Forbidden", "no"), verb="get", resource=CONFIG_MAPS)
    ran = lab.run("render", "tel", "leaf-1", "-o", "json")
    assert json.loads(ran.stdout)["env"] == {"LEVEL": "(of configmap/settings key level, which you may not read)"}
    assert "you may not read configmap/settings" in ran.stderr


@pytest.mark.parametrize("name", ["card-1", "DPU/card-1"])
def test_a_device_of_another_kind_is_rendered_by_its_own_name(name: str) -> None:
    lab = lab_with(EXECUTION)
    facts = {"facts": {"os": "linux"}}
    lab.put(DEVICES[DeviceKind.DPU], "card-1", {"labels": {"rack": "r1"}}, spec={}, status=facts)
    ran = lab.run("render", "tel", name, "-o", "json")
    assert json.loads(ran.stdout)["env"]["DEVICE"] == "card-1"
    assert "does not select" in ran.stderr


def test_secrets_are_neither_read_nor_shown() -> None:
    password = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
    env = [password, {"name": "URL", "value": "u:$(PASSWORD)@h"}]
    lab = lab_with({"backend": "process", "command": ["/opt/tel"], "env": env, "expandVariables": True})
    lab.put(SECRETS, "login", {"labels": {"azure.com/deliver": "true"}}, data={"password": "aHVudGVyMg=="})
    lab.kube.requests.clear()
    ran = lab.run("render", "tel", "leaf-1", "-o", "json")
    said = "(of secret/login key password)"
    assert json.loads(ran.stdout)["env"] == {"PASSWORD": said, "URL": f"u:{said}@h"}
    assert [each for each in lab.kube.requests if each.resource == SECRETS] == []


def test_files_of_config_maps_are_shown_and_those_of_secrets_are_named() -> None:
    keys = {kind: {"name": "conf", "key": "a"} for kind in ("configMapKeyRef", "secretKeyRef")}
    gone = {"path": "gone", "configMapKeyRef": {"name": "none", "key": "a", "optional": True}}
    files = [
        {"path": "a", "configMapKeyRef": keys["configMapKeyRef"], "mode": "640"},
        {"path": "b", "secretKeyRef": keys["secretKeyRef"], "onChange": "None"},
        gone,
        {"path": "c", "content": "x"},
    ]
    lab = lab_with({"backend": "process", "command": ["/opt/x"], "files": files})
    missing = lab.run("render", "tel", "leaf-1")
    assert missing.exit_code == 1
    assert "ReferenceMissing(configmap/conf key a): leaf-1" in missing.stderr
    for kind in (CONFIG_MAPS, SECRETS):
        content = {CONFIG_MAPS: "shown", SECRETS: "bWFya2Vy"}[kind]
        lab.put(kind, "conf", {"labels": {"azure.com/deliver": "true"}}, data={"a": content})
    ran = lab.run("render", "tel", "leaf-1")
    assert ran.exit_code == 0, ran.output
    assert yaml.safe_load(ran.stdout)["files"] == [
        {"path": "a", "mode": "0640", "from": "configmap/conf key a", "bytes": 5, "content": "shown"},
        {"path": "b", "mode": "0600", "onChange": "None", "from": "secret/conf key a"},
        {"path": "c", "mode": "0644", "bytes": 1, "content": "x"},
    ]
    assert "marker" not in ran.output


def test_a_file_that_is_no_text_is_shown_in_base64_and_one_that_may_not_be_read_is_named() -> None:
    files = [{"path": "a", "configMapKeyRef": {"name": "conf", "key": "a"}}]
    lab = lab_with({"backend": "process", "command": ["/opt/x"], "files": files})
    lab.put(CONFIG_MAPS, "conf", {"labels": {"azure.com/deliver": "true"}}, binaryData={"a": "/wA="})
    ran = lab.run("render", "tel", "leaf-1", "-o", "json")
    named = {"path": "a", "mode": "0644", "from": "configmap/conf key a"}
    assert json.loads(ran.stdout)["files"] == [{**named, "bytes": 2, "contentBase64": "/wA="}]


def test_a_secret_in_an_argument_is_said_to_be_refused() -> None:
    password = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
    execution = {"backend": "process", "command": ["/opt/tel"], "args": ["$(PASSWORD)"], "env": [password]}
    ran = lab_with(execution | {"expandVariables": True}).run("render", "tel", "leaf-1")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "tel: spec.template.spec.execution.args[0] names the secret variable PASSWORD, and everyone" in ran.stderr
    assert "leaf-1 keeps what it runs" in ran.stderr
    assert "ReferenceMissing" not in ran.stderr


def test_files_that_are_too_large_together_are_refused_as_by_the_gateway() -> None:
    files = [{"path": key, "configMapKeyRef": {"name": "conf", "key": key}} for key in ("a", "b")]
    lab = lab_with({"backend": "process", "command": ["/opt/x"], "files": files})
    lab.put(CONFIG_MAPS, "conf", {"labels": {"azure.com/deliver": "true"}}, data=dict.fromkeys("ab", "x" * 100_000))
    ran = lab.run("render", "tel", "leaf-1")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "ReferenceRefused(TooLarge files of more than 131072 bytes): leaf-1 keeps what it runs" in ran.stderr


def requiring(version: str, files: list[dict[str, Any]], facts: dict[str, str] | None) -> Lab:
    lab = Lab()
    execution = {"backend": "process", "command": ["/opt/x"], "files": files}
    requirement = {"fact": "os.version", "operator": "Ge", "values": [version]}
    template = {"spec": {"execution": execution}}
    lab.deployment("tel", spec={"selector": {}, "template": template, "requirements": [requirement]})
    lab.switch("leaf-1", {}, **({"status": {"facts": facts}} if facts is not None else {}))
    return lab


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(None, ["FactsNotReported(its agent has reported no facts)"], id="no-facts"),
        pytest.param({"os.version": "12", "features": "files.v1"}, [], id="fits"),
        pytest.param(
            {"os.version": "11", "features": "probes.v1", "agent.fileRoots": "none"},
            [
                "RequirementNotMet(os.version 11 < 12)",
                "AgentTooOld(files.v1)",
                "NotAllowed: execution.files[0].path: /etc/a is in no directory that is allowed there",
            ],
            id="nothing-fits",
        ),
    ],
)
def test_why_the_device_would_not_take_it_is_warned_of(facts: dict[str, str] | None, said: list[str]) -> None:
    ran = requiring("12", [{"path": "/etc/a", "content": "x"}], facts).run("render", "tel", "leaf-1")
    assert ran.exit_code == 0
    lines = ran.stderr.splitlines()
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(words)
        assert line.endswith("; leaf-1 keeps what it runs, and shown is what it would get")


def test_a_variable_that_stays_as_it_is_is_warned_of() -> None:
    env = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "$(A)"}]
    execution = {"backend": "process", "command": ["/opt/x"], "env": env, "expandVariables": True}
    ran = lab_with(execution).run("render", "tel", "leaf-1", "-o", "json")
    assert json.loads(ran.stdout)["env"] == {"A": "$(B)", "B": "$(B)"}
    assert "tel: spec.template.spec.execution: the variable A and the variable B refer to each other" in ran.stderr


def test_what_is_not_known_before_is_named_in_one_line() -> None:
    password = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
    of_config_map = lab_with(REFERS)
    of_config_map.put(CONFIG_MAPS, "settings", {"labels": {"azure.com/deliver": "true"}}, data={"level": "debug"})
    ran = of_config_map.run("render", "tel", "leaf-1")
    assert ran.stderr == "not known here: whether the gateway may read in lab (NotEnabled, NotReadable)\n"
    ran = lab_with({"backend": "process", "command": ["/opt/tel"], "env": [password]}).run("render", "tel", "leaf-1")
    assert ran.stderr == (
        "not known here: whether the gateway may read in lab (NotEnabled, NotReadable), how large Secrets are, and "
        "whether leaf-1 has a token of its own and TLS (SharedToken, PlainText)\n"
    )


def test_the_directory_of_own_files_is_a_named_placeholder() -> None:
    execution = {"backend": "process", "command": ["/opt/x"], "args": ["$(PRAETOR_FILES)"], "expandVariables": True}
    own, elsewhere = ({"path": path, "content": "x"} for path in ("a", "/etc/a"))
    shown = json.loads(lab_with(execution | {"files": [own]}).run("render", "tel", "leaf-1", "-o", "json").stdout)
    assert (shown["args"], shown["env"]) == (["<PRAETOR_FILES>"], {"PRAETOR_FILES": "<PRAETOR_FILES>"})
    ran = lab_with(execution | {"files": [elsewhere]}).run("render", "tel", "leaf-1", "-o", "json")
    assert (json.loads(ran.stdout)["args"], json.loads(ran.stdout)["env"]) == (["$(PRAETOR_FILES)"], {})
    assert "args[0] refers to PRAETOR_FILES, which env does not have" in ran.stderr
