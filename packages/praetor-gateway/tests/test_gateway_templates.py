# SPDX-License-Identifier: Apache-2.0
"""Random templates on two devices, while what they refer to comes, changes and goes: what the processes start with.

The model below is written from what Kubernetes documents for a Pod, one variable after the other. Contents that were
approved are given as docs/files.md says.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expansion_testing import by_the_rules
from gateway_testing import AsgiClient, GatewayLab, running_lab
from kube_testing import body_of
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, NETWORK_SWITCHES, SECRETS, Key
from praetor_api.protocol import read_desired
from praetor_api.tokens import device_token
from praetor_api.values import started_with
from praetor_gateway.settings import Credentials

ALL_DEVICES = "of all devices"
LABEL = {"azure.com/deliver": "true"}
KNOWS = "file-references.v1, files.v1, references.v1, secrets.v1, values.v1"
LEAVES = ("leaf-1", "leaf-2")
OBJECTS = {"configMap": (CONFIG_MAPS, "settings"), "secret": (SECRETS, "login")}
KEYS = ("k", "l")

PIECES = ["$", "$$", "(", ")", "$(", "A", "B", "$(A)", "$(B)", "\n", "é", "x", '"', "'", "\\", "`", "{}", "%"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
SECRET_TEXTS = st.lists(st.sampled_from([*PIECES, "$(S)", "$(T)"]), max_size=6).map("".join)
CONTENTS = st.one_of(TEXTS.map(str.encode), st.sampled_from([b"\xff", b"\x00\xfe"]))


def by_reference(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    keys = {"name": st.just(OBJECTS[kind][1]), "key": st.sampled_from(KEYS), "optional": st.booleans()}
    return st.fixed_dictionaries(keys).map(lambda named: {f"{kind}KeyRef": named})


FIELDS = {
    "metadata.labels['rack']": "rack",
    "spec.managementAddress": "address",
    "status.facts['os']": "os",
}
OF_DEVICE = st.builds(
    lambda path, optional: {"deviceFieldRef": {"fieldPath": path, "optional": optional}},
    st.sampled_from(["metadata.name", "metadata.namespace", *FIELDS]),
    st.booleans(),
)
PLAIN = st.one_of(
    TEXTS.map(lambda text: {"value": text}),
    st.one_of(OF_DEVICE, by_reference("configMap")).map(lambda source: {"valueFrom": source}),
)
HIDDEN = by_reference("secret").map(lambda source: {"valueFrom": source})
VARIABLES = {"A": PLAIN, "B": PLAIN, "S": HIDDEN, "T": HIDDEN, "U": SECRET_TEXTS.map(lambda text: {"value": text})}

REFERRED = st.builds(
    lambda source, on_change: source | on_change,
    st.one_of(by_reference("configMap"), by_reference("secret")),
    st.sampled_from([{}, {"onChange": "Restart"}, {"onChange": "Signal"}, {"onChange": "None"}]),
)
FILES = st.one_of(REFERRED, REFERRED, TEXTS.map(lambda text: {"content": text}))


@st.composite
def executions(draw: st.DrawFn) -> dict[str, Any]:
    """A template; arguments refer to no Secret, which is refused elsewhere."""
    names = draw(st.permutations(sorted(VARIABLES)))[: draw(st.integers(0, len(VARIABLES)))]
    files = [{"path": path, **draw(FILES)} for path in "abc"]
    return {
        "backend": "process",
        "command": ["/bin/tool", draw(TEXTS)],
        "args": draw(st.lists(TEXTS, max_size=3)),
        "env": [{"name": name, **draw(VARIABLES[name])} for name in names],
        "files": files[: draw(st.integers(0, 3))],
        "expandVariables": draw(st.booleans()),
    }


CHANGES = st.one_of(
    st.tuples(st.sampled_from(sorted(FIELDS.values())), st.tuples(st.sampled_from(LEAVES), st.sampled_from("12-"))),
    st.tuples(st.sampled_from(sorted(OBJECTS)), st.dictionaries(st.sampled_from(KEYS), CONTENTS)),
    st.tuples(st.sampled_from(sorted(OBJECTS)), st.none()),
)
STEPS = st.lists(st.tuples(st.lists(CHANGES, max_size=2), executions()), min_size=22, max_size=28)


@dataclass
class World:
    """What the devices and the namespace have, and what a process of a template is started with there.

    *approved* are contents by the paths of files: those that the controller found when it rolled the template out.
    """

    devices: dict[str, dict[str, str | None]] = field(default_factory=lambda: {name: {} for name in LEAVES})
    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    approved: dict[str, bytes | None] = field(default_factory=dict)

    def content(self, file: Mapping[str, Any]) -> tuple[str, bool, bytes | None]:
        """Return the source of *file*, by its words, whether it is optional, and its content, if there is one."""
        ((kind, named),) = ((key, each) for key, each in file.items() if key.endswith("KeyRef"))
        kind = kind.removesuffix("KeyRef")
        said = f"{kind.lower()}/{named['name']} key {named['key']}"
        return said, named["optional"], self.objects.get(kind, {}).get(named["key"])

    def roll_out(self, execution: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
        """Return *execution* as the controller writes it, with what *digests* say; it waits where one is lacking."""
        self.approved.clear()
        files = []
        for each in execution["files"]:
            written = dict(each)
            if "content" not in each and each.get("onChange", "Restart") == "Restart":
                said, optional, content = self.content(each)
                if content is not None or optional:
                    self.approved[each["path"]] = content
                    written["approved"] = digests[said] if content is not None else "absent"
            files.append(written)
        return {**execution, "files": files}

    def source(self, device: str, source: dict[str, Any]) -> tuple[str | bytes | None, str]:
        """Return the value of *source* on *device*, or what is missing."""
        ((kind, named),) = source.items()
        if kind == "deviceFieldRef":
            path = named["fieldPath"]
            of_object = {"metadata.name": device, "metadata.namespace": "lab"}
            value = of_object[path] if path in of_object else self.devices[device].get(FIELDS[path])
            return value, "" if value is not None or named["optional"] else path
        said, optional, content = self.content(source)
        if content is None:
            return None, "" if optional else said
        try:
            return content.decode(), "" if "\x00" not in content.decode() else f"{said} is no text"
        except UnicodeDecodeError:
            return None, f"{said} is no text"

    def start(self, device: str, execution: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Return what is missing, and what the process is started with on *device*, which keeps some files."""
        missing: list[str] = []
        kept: list[str] = []
        env: dict[str, str] = {}
        expand = by_the_rules if execution["expandVariables"] else lambda text, _: text
        for each in execution["env"]:
            if "value" in each:
                env[each["name"]] = expand(each["value"], env)
                continue
            value, lacks = self.source(device, each["valueFrom"])
            missing += [lacks] if lacks else []
            if isinstance(value, str):
                env[each["name"]] = value
        files = {}
        for each in (file for file in execution["files"] if "content" not in file):
            said, optional, content = self.content(each)
            if each["path"] in self.approved and content != self.approved[each["path"]]:
                kept.append(each["path"])
            elif content is not None:
                files[each["path"]] = content
            elif not optional:
                missing.append(said)
        words = [expand(word, env) for word in (*execution["command"], *execution["args"])]
        return missing, {"argv": words, "env": env, "files": files, "kept": kept}


async def change(lab: GatewayLab, world: World, what: str, new: Any) -> None:
    if what in FIELDS.values():
        device, value = new[0], None if new[1] == "-" else new[1]
        world.devices[device][what] = value
        patch, subresource = {
            "rack": ({"metadata": {"labels": {"rack": value}}}, None),
            "address": ({"spec": {"managementAddress": value}}, None),
            "os": ({"status": {"facts": {"os": value}}}, "status"),
        }[what]
        await lab.settled(lab.kube.patch(NETWORK_SWITCHES, Key("lab", device), patch, subresource=subresource))
        return
    resource, name = OBJECTS[what]
    known = Key("lab", name) in lab.kube.objects(resource)
    if known:
        await lab.settled(lab.kube.delete(resource, Key("lab", name)))
    world.objects.pop(what, None)
    if new is not None:
        world.objects[what] = new
        encoded = {key: base64.b64encode(content).decode() for key, content in new.items()}
        data = {"data": encoded} if what == "secret" else {"binaryData": encoded}
        await lab.settled(lab.kube.create(resource, "lab", body_of(resource, name, {"labels": LABEL}, **data)))


async def live(steps: list[tuple[list[tuple[str, Any]], dict[str, Any]]]) -> None:
    async with running_lab(references_namespaces=("lab",), credentials=Credentials(secrets=(ALL_DEVICES,))) as lab:
        world = World()
        digests: dict[str | None, str] = {}
        clients = {}
        for device in LEAVES:
            await lab.declare(device)
            clients[device] = AsgiClient(lab.gateway.app, device_token(ALL_DEVICES.encode(), device), "https")
        for changes, execution in steps:
            written = world.roll_out(execution, lab.gateway._fleet.references.digests("lab", {}))
            for device in LEAVES:
                patch = {"spec": {"execution": written}}
                await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", f"agent-{device}"), patch))
            for each in (None, *changes):  # while it is on the devices, too
                if each is not None:
                    await change(lab, world, *each)
                await lab.clock.advance(1)  # a device may ask so often
                for device, client in clients.items():
                    answer = await client.get(f"/v1/devices/{device}/desired", praetor_features=KNOWS)
                    (item,) = answer.json()["items"]
                    check(item, device, world, lab.process(device)["spec"], digests)


def check(
    item: dict[str, Any], device: str, world: World, spec: dict[str, Any], digests: dict[str | None, str]
) -> None:
    """Check what *device* is given against the *world*; *digests* are what each hash of values stood for so far."""
    missing, expected = world.start(device, spec["execution"])
    assert sorted(item.get("missing", ())) == sorted(set(missing))
    assert ("spec" in item) == (not missing)
    if missing:
        return
    assert item["spec"] == spec
    (read,) = read_desired({"items": [item], "deviceName": device}).items
    started = started_with(read.spec.execution, read.values or {})
    contents = {each["path"]: base64.b64decode(each["content"]) for each in item.get("fileValues", ())}
    assert {
        "argv": [*started.command, *started.args],
        "env": dict(started.env),
        "files": contents,
        "kept": item.get("keptFiles", []),
    } == expected
    values = repr((sorted((read.values or {}).items()), sorted(contents.items()), expected["kept"]))
    assert digests.setdefault(item.get("valuesHash"), values) == values


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_a_process_is_started_with_what_a_pod_of_its_template_would_be(
    steps: list[tuple[list[tuple[str, Any]], dict[str, Any]]],
) -> None:
    """50 examples of 22 templates or more: at least 1,100."""
    asyncio.run(live(steps))
