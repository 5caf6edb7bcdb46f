# SPDX-License-Identifier: Apache-2.0
"""Random templates on a device, while what they refer to comes, changes and goes: what the process is started with.

The model below is written from what Kubernetes documents for a Pod, one variable after the other.
"""

from __future__ import annotations

import asyncio
import base64
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
PROCESS, SWITCH = Key("lab", "agent-leaf-1"), Key("lab", "leaf-1")
OBJECTS = {"configMap": (CONFIG_MAPS, "settings"), "secret": (SECRETS, "login")}
KEYS = ("k", "l")

PIECES = ["$", "$$", "(", ")", "$(", "A", "B", "$(A)", "$(B)", "\n", "é", "x", '"', "'", "\\", "`", "{}", "%"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
SECRET_TEXTS = st.lists(st.sampled_from([*PIECES, "$(S)", "$(T)"]), max_size=6).map("".join)
CONTENTS = st.one_of(TEXTS.map(str.encode), st.sampled_from([b"\xff", b"\x00\xfe"]))


def by_reference(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    keys = {"name": st.just(OBJECTS[kind][1]), "key": st.sampled_from(KEYS), "optional": st.booleans()}
    return st.fixed_dictionaries(keys).map(lambda named: {f"{kind}KeyRef": named})


FIELDS = st.sampled_from(["metadata.name", "metadata.labels['rack']"])
OF_DEVICE = st.builds(
    lambda path, optional: {"deviceFieldRef": {"fieldPath": path, "optional": optional}}, FIELDS, st.booleans()
)
PLAIN = st.one_of(
    TEXTS.map(lambda text: {"value": text}),
    st.one_of(OF_DEVICE, by_reference("configMap")).map(lambda source: {"valueFrom": source}),
)
HIDDEN = by_reference("secret").map(lambda source: {"valueFrom": source})
VARIABLES = {"A": PLAIN, "B": PLAIN, "S": HIDDEN, "T": HIDDEN, "U": SECRET_TEXTS.map(lambda text: {"value": text})}


@st.composite
def executions(draw: st.DrawFn) -> dict[str, Any]:
    """A template; arguments refer to no Secret, which is refused elsewhere."""
    names = draw(st.permutations(sorted(VARIABLES)))[: draw(st.integers(0, len(VARIABLES)))]
    files = [{"path": path, **draw(st.one_of(by_reference("configMap"), by_reference("secret")))} for path in "ab"]
    return {
        "backend": "process",
        "command": ["/bin/tool", draw(TEXTS)],
        "args": draw(st.lists(TEXTS, max_size=3)),
        "env": [{"name": name, **draw(VARIABLES[name])} for name in names],
        "files": files[: draw(st.integers(0, 2))],
        "expandVariables": draw(st.booleans()),
    }


CHANGES = st.one_of(
    st.tuples(st.just("rack"), st.sampled_from(["r1", "r2", None])),
    st.tuples(st.sampled_from(sorted(OBJECTS)), st.dictionaries(st.sampled_from(KEYS), CONTENTS)),
    st.tuples(st.sampled_from(sorted(OBJECTS)), st.none()),
)
STEPS = st.lists(st.tuples(st.lists(CHANGES, max_size=2), executions()), min_size=22, max_size=28)


@dataclass
class World:
    """What the device and the namespace have, and what a process of a template is started with there."""

    rack: str | None = None
    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def source(self, source: dict[str, Any], *, as_text: bool) -> tuple[str | bytes | None, str]:
        """Return the value of *source*, or what is missing."""
        ((kind, named),) = source.items()
        if kind == "deviceFieldRef":
            path = named["fieldPath"]
            value = "leaf-1" if path == "metadata.name" else self.rack
            return value, "" if value is not None or named["optional"] else path
        kind = kind.removesuffix("KeyRef")
        content = self.objects.get(kind, {}).get(named["key"])
        said = f"{kind.lower()}/{named['name']} key {named['key']}"
        if content is None:
            return None, "" if named["optional"] else said
        if not as_text:
            return content, ""
        try:
            return content.decode(), "" if "\x00" not in content.decode() else f"{said} is no text"
        except UnicodeDecodeError:
            return None, f"{said} is no text"

    def start(self, execution: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Return what is missing, and what the process is started with."""
        missing: list[str] = []
        env: dict[str, str] = {}
        expand = by_the_rules if execution["expandVariables"] else lambda text, _: text
        for each in execution["env"]:
            if "value" in each:
                env[each["name"]] = expand(each["value"], env)
                continue
            value, lacks = self.source(each["valueFrom"], as_text=True)
            missing += [lacks] if lacks else []
            if isinstance(value, str):
                env[each["name"]] = value
        files = {}
        for each in execution["files"]:
            content, lacks = self.source({key: named for key, named in each.items() if key != "path"}, as_text=False)
            missing += [lacks] if lacks else []
            if content is not None:
                files[each["path"]] = content
        words = [expand(word, env) for word in (*execution["command"], *execution["args"])]
        return missing, {"argv": words, "env": env, "files": files}


async def change(lab: GatewayLab, world: World, what: str, new: Any) -> None:
    if what == "rack":
        world.rack = new
        await lab.settled(lab.kube.patch(NETWORK_SWITCHES, SWITCH, {"metadata": {"labels": {"rack": new}}}))
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
    token = device_token(ALL_DEVICES.encode(), "leaf-1")
    async with running_lab(references_namespaces=("lab",), credentials=Credentials(secrets=(ALL_DEVICES,))) as lab:
        world = World()
        digests: dict[str | None, str] = {}
        await lab.declare("leaf-1")
        client = AsgiClient(lab.gateway.app, token, "https")
        for changes, execution in steps:
            template = {"spec": {"execution": execution}}
            await lab.settled(lab.kube.patch(DEVICE_PROCESSES, PROCESS, template))
            for each in (None, *changes):  # while it is on the device, too
                if each is not None:
                    await change(lab, world, *each)
                await lab.clock.advance(1)  # a device may ask so often
                answer = await client.get("/v1/devices/leaf-1/desired", praetor_features=KNOWS)
                (item,) = answer.json()["items"]
                missing, expected = world.start(execution)
                assert sorted(item.get("missing", ())) == sorted(set(missing))
                assert ("spec" in item) == (not missing)
                if missing:
                    continue
                (read,) = read_desired({"items": [item], "deviceName": "leaf-1"}).items
                started = started_with(read.spec.execution, read.values or {})
                contents = {each["path"]: base64.b64decode(each["content"]) for each in item.get("fileValues", ())}
                assert {
                    "argv": [*started.command, *started.args],
                    "env": dict(started.env),
                    "files": contents,
                } == expected
                values = repr((sorted((read.values or {}).items()), sorted(contents.items())))
                assert digests.setdefault(item.get("valuesHash"), values) == values


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_a_process_is_started_with_what_a_pod_of_its_template_would_be(
    steps: list[tuple[list[tuple[str, Any]], dict[str, Any]]],
) -> None:
    """50 examples of 22 templates or more: at least 1,100."""
    asyncio.run(live(steps))
