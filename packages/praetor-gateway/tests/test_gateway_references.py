# SPDX-License-Identifier: Apache-2.0
"""Values of ConfigMaps in the desired state: who gets them, what a change wakes, and what holds a process."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway_testing import AsgiClient, GatewayLab, conditions, process_object, running_lab, switch_object
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_api.files import MAX_CONTENT
from praetor_api.kube.client.errors import Forbidden
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, NETWORK_SWITCHES, SECRETS, Key, Resource
from praetor_api.protocol import read_desired
from praetor_api.tokens import device_token
from praetor_api.values import MAX_VALUE
from praetor_gateway.fleet.references import ReferenceStore
from praetor_gateway.settings import Credentials, load_verifier

DESIRED = "/v1/devices/leaf-1/desired"
KNOWS = "file-references.v1, files.v1, references.v1, values.v1"
SETTINGS_MAP = Key("lab", "settings")
LABEL = {"azure.com/deliver": "true"}


def ref(name: str, key: str = "level", of: str = "settings", **more: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": of, "key": key, **more}}}


def execution(*env: dict[str, Any]) -> dict[str, Any]:
    return {"backend": "process", "command": ["sleep", "9"], "env": list(env)}


def config_map(name: str = "settings", labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return body_of(CONFIG_MAPS, name, {"labels": LABEL if labels is None else labels}, data=data)


async def item_of(lab: GatewayLab, device: str = "leaf-1") -> dict[str, Any]:
    answer = await lab.client.get(f"/v1/devices/{device}/desired", praetor_features=KNOWS)
    item: dict[str, Any] = answer.json()["items"][0]
    return item


def file_of(path: str, key: str = "level", of: str = "settings", **more: Any) -> dict[str, Any]:
    return {"path": path, "configMapKeyRef": {"name": of, "key": key, **more}}


def held(lab: GatewayLab) -> dict[str, Any]:
    found: list[dict[str, Any]] = lab.process("leaf-1")["status"]["conditions"]
    return next(each for each in found if each["type"] == "UpdateHeld")


async def test_an_item_has_the_values_of_labelled_objects_of_its_own_namespace() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="debug", other="x"))
        name = {"name": "NAME", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.name"}}}
        env = (ref("LEVEL"), name, ref("GONE", "gone", optional=True), ref("NONE", of="none", optional=True))
        await lab.declare("leaf-1", execution=execution(*env))
        item = await item_of(lab)
        assert item["values"] == {"LEVEL": "debug", "NAME": "leaf-1"}
        assert item["spec"] == lab.process("leaf-1")["spec"]
        (read,) = read_desired({"items": [item], "deviceName": "leaf-1"}).items
        assert read.values == item["values"]


async def test_an_agent_without_the_feature_is_not_sent_a_reference() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.declare("leaf-1", execution=execution(ref("LEVEL")))
        (item,) = (await lab.client.get(DESIRED, praetor_features="values.v1")).json()["items"]
        assert item["features"] == ["references.v1"]


async def test_a_changed_object_answers_the_polls_of_those_that_refer_to_it_alone() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        for name in ("settings", "others"):
            await lab.kube.create(CONFIG_MAPS, "lab", config_map(name, level="info"))
        await lab.declare("leaf-1", execution=execution(ref("LEVEL")))
        await lab.declare("leaf-2", execution=execution(ref("LEVEL", of="others")))
        polls = []
        for device in ("leaf-1", "leaf-2"):
            path = f"/v1/devices/{device}/desired"
            etag = (await lab.client.get(path, praetor_features=KNOWS)).headers["etag"]
            waits = lab.client.get(path, praetor_features=KNOWS, if_none_match=etag, prefer="wait=50")
            polls.append(asyncio.ensure_future(waits))
        await lab.clock.settle()
        patch = {"data": {"level": "debug"}}
        await lab.settled(lab.kube.patch(CONFIG_MAPS, SETTINGS_MAP, {"metadata": {"annotations": {"a": "b"}}}))
        assert not any(poll.done() for poll in polls)
        await lab.settled(lab.kube.patch(CONFIG_MAPS, SETTINGS_MAP, patch))
        assert [poll.done() for poll in polls] == [True, False]
        assert (await polls[0]).json()["items"][0]["values"] == {"LEVEL": "debug"}
        polls[1].cancel()


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        pytest.param(None, "configmap/settings key level", id="no-object"),
        pytest.param(config_map(other="x"), "configmap/settings key level", id="no-key"),
        pytest.param(config_map(labels={}, level="x"), "configmap/settings key level", id="no-label"),
        pytest.param(
            config_map(labels={"azure.com/deliver": "yes"}, level="x"), "configmap/settings key level", id="not-true"
        ),
        pytest.param(
            config_map() | {"binaryData": {"level": "AAE="}}, "configmap/settings key level is no text", id="binary"
        ),
        pytest.param(
            config_map(level="x" * (MAX_VALUE + 1)),
            f"configmap/settings key level has more than {MAX_VALUE} characters",
            id="long",
        ),
    ],
)
async def test_what_is_missing_holds_the_process_until_it_is_there(obj: dict[str, Any] | None, said: str) -> None:
    async with running_lab(devices=["leaf-1"], references_namespaces=("lab",)) as lab:
        running = await lab.running("leaf-1")
        if obj is not None:
            await lab.kube.create(CONFIG_MAPS, "lab", obj)
        wanted = {"spec": {"execution": execution(ref("LEVEL"))}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), wanted))
        item = await item_of(lab)
        assert (item["missing"], "spec" in item, "values" in item) == ([said], False, False)
        await lab.report("leaf-1", running, then_s=1)
        assert (held(lab)["status"], held(lab)["reason"]) == ("True", "ReferenceMissing")
        assert held(lab)["message"].startswith(f"ReferenceMissing({said}): its namespace has no such object")
        assert lab.process("leaf-1")["status"]["phase"] == "Running"
        good = config_map(level="debug")
        if obj is None:
            await lab.settled(lab.kube.create(CONFIG_MAPS, "lab", good))
        else:
            patch = {"metadata": {"labels": LABEL}, "data": {"level": "debug"}, "binaryData": None}
            await lab.settled(lab.kube.patch(CONFIG_MAPS, SETTINGS_MAP, patch))
        item = await item_of(lab)
        assert item["values"] == {"LEVEL": "debug"}
        await lab.report("leaf-1", running | {"observedSpecHash": item["specHash"]}, then_s=1)
        assert conditions(lab.process("leaf-1"))["UpdateHeld"] == "False"


async def test_a_namespace_that_was_not_named_is_refused_and_its_objects_are_not_asked_for() -> None:
    async with running_lab(devices=["leaf-1"], references_namespaces=("elsewhere",)) as lab:
        running = await lab.running("leaf-1")
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="debug"))
        wanted = {"spec": {"execution": execution(ref("LEVEL", optional=True))}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), wanted))
        assert (await item_of(lab))["refused"] == "NotEnabled in lab"
        await lab.report("leaf-1", running, then_s=1)
        assert held(lab)["reason"] == "ReferenceRefused"
        assert held(lab)["message"].startswith(
            "ReferenceRefused(NotEnabled in lab): apply deploy/components/references"
        )
        assert len(lab.gateway._fleet.references) == 0


async def test_a_gateway_without_the_right_serves_other_devices_and_says_what_it_may_not_read() -> None:
    clock = FakeClock()
    kube = InProcessKube(clock)
    kube.fail_next(Forbidden(403, "Forbidden", "no"), verb="list", resource=CONFIG_MAPS, times=999)
    async with running_lab(kube, clock, references_namespaces=("lab",), namespaces=("lab",)) as lab:
        await lab.clock.advance(6)
        await lab.declare("leaf-1", execution=execution(ref("LEVEL")))
        await lab.declare("leaf-2")
        assert (await item_of(lab))["refused"] == "NotReadable configmaps in lab"
        assert "spec" in await item_of(lab, "leaf-2")
        assert lab.value("references_unreadable") == 1
        lab.kube.heal()
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="debug"))
        await lab.clock.advance(60)
        assert (await item_of(lab))["values"] == {"LEVEL": "debug"}
        assert lab.value("references_unreadable") == 0


async def test_what_all_devices_refer_to_is_resolved_and_kept_once() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="info"))
        for number in range(1, 6):
            await lab.declare(f"leaf-{number}", execution=execution(ref("LEVEL")))
        store, fleet = lab.gateway._fleet.references, lab.gateway._fleet
        assert store.templates == 1
        found = [device.resolved(row) for device in fleet for row in device.served]
        assert len(found) == 5
        assert all(each is found[0] for each in found)
        rows = [row for device in fleet for row in device.served]
        assert len({id(row.features) for row in rows}) == len({id(row.references) for row in rows}) == 1
        for number in range(1, 6):
            await lab.settled(lab.kube.delete(DEVICE_PROCESSES, Key("lab", f"agent-leaf-{number}")))
        assert (store.templates, store._naming) == (0, {})


async def test_a_spec_that_no_longer_refers_is_not_woken() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="info"))
        await lab.declare("leaf-1", execution=execution(ref("LEVEL")))
        store: ReferenceStore = lab.gateway._fleet.references
        wanted = {"spec": {"execution": {"env": [{"name": "LEVEL", "value": "x"}]}}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), wanted))
        assert (store.templates, store._naming) == (0, {})
        assert (await item_of(lab)).get("values") is None


async def test_what_no_process_refers_to_asks_no_device_to_report_again() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="info", other="x"))
        await lab.kube.create(CONFIG_MAPS, "lab", config_map("others", level="info"))
        await lab.declare("leaf-1", execution=execution(ref("LEVEL"), ref("GONE", "gone", optional=True)))
        await lab.declare("leaf-2", execution=execution(ref("LEVEL")) | {"files": [file_of("a", of="others")]})
        for device in ("leaf-1", "leaf-2"):
            item = await item_of(lab, device)
            seen = {"name": item["name"], "observedSpecHash": item["specHash"], "processStarted": True, "healthy": True}
            await lab.report(device, seen, then_s=5)

        def asked() -> set[str]:
            uids = {lab.process(device)["metadata"]["uid"]: device for device in ("leaf-1", "leaf-2")}
            return {uids[uid] for device in lab.gateway._fleet for uid in device.session.unreported if uid in uids}

        assert asked() == set()
        await change({"metadata": {"annotations": {"a": "b"}}}, lab)
        await change({"data": {"other": "y", "more": "z"}, "binaryData": {"image": "/wA="}}, lab)
        assert asked() == set()
        await change({"data": {"gone": "here"}}, lab)
        assert asked() == {"leaf-1"}
        await change({"data": {"level": "debug"}}, lab, "others")
        assert asked() == {"leaf-1", "leaf-2"}


async def change(patch: dict[str, Any], lab: GatewayLab, name: str = "settings") -> None:
    await lab.settled(lab.kube.patch(CONFIG_MAPS, Key("lab", name), patch))


async def test_a_rotated_secret_costs_a_fleet_no_write_beyond_one_status_of_each_process() -> None:
    """The file is signalled, and the variable waits for the next start, which is what the status says."""
    devices = [f"leaf-{number}" for number in range(1, 1001)]
    login = {"secretKeyRef": {"name": "login", "key": "password"}}
    env = {"name": "PASSWORD", "valueFrom": login}
    spec = execution(env) | {"files": [{"path": "key", **login, "onChange": "Signal", "signal": "SIGUSR1"}]}
    credentials = Credentials(secrets=("of all devices",))
    async with running_lab(references_namespaces=("lab",), credentials=credentials, heartbeat_s=600) as lab:
        data = {"password": "b25l"}
        await lab.kube.create(SECRETS, "lab", body_of(SECRETS, "login", {"labels": LABEL}, data=data))
        for name in devices:
            await lab.kube.create(NETWORK_SWITCHES, "lab", switch_object(name))
            await lab.kube.create(DEVICE_PROCESSES, "lab", process_object(name, execution=spec))
        await lab.clock.settle()
        clients = {
            name: AsgiClient(lab.gateway.app, device_token(b"of all devices", name), "https") for name in devices
        }

        async def report(name: str, revision: int, **more: Any) -> str:
            """Fetch, and report what came; return the content of the file."""
            path = f"/v1/devices/{name}"
            answer = await clients[name].get(f"{path}/desired", praetor_features=f"{KNOWS}, secrets.v1")
            (item,) = answer.json()["items"]
            seen = {
                "name": item["name"],
                "observedSpecHash": item["specHash"],
                "processStarted": True,
                "healthy": True,
                "revision": revision,
            }
            body = {"heartbeat": True, "bootID": "b", "seq": revision, "observations": [seen | more]}
            answer = await clients[name].post(f"{path}/report", body)
            assert answer.status == 200, answer.body
            content: str = item["fileValues"][0]["content"]
            return content

        for name in devices:
            assert await report(name, 1) == "b25l"
        await lab.clock.advance(60)  # all statuses, and what follows them, are written
        lab.kube.requests.clear()
        await lab.clock.advance(30)
        idle = Counter(_writes(lab))
        lab.gateway._replace_verifier(load_verifier(credentials))  # tokens were changed, and no secret
        await lab.clock.settle()
        assert not any(device.session.unreported for device in lab.gateway._fleet)
        lab.kube.requests.clear()
        await lab.settled(lab.kube.patch(SECRETS, Key("lab", "login"), {"data": {"password": "dHdv"}}))
        for revision in (2, 3):  # and again, as it was asked to
            for name in devices:
                assert await report(name, revision, valuesOutdated=True) == "dHdv"
        await lab.clock.advance(30)
        written = Counter(_writes(lab)) - idle
        assert written.pop(("patch", SECRETS)) == 1  # the rotation itself
        digests = written.pop(("patch", CONFIG_MAPS))
        assert digests == 1  # for the controller, whatever the number of devices
        assert written == {("patch", DEVICE_PROCESSES): len(devices)}
        assert conditions(lab.process("leaf-1000"))["ValuesOutdated"] == "True"


def _writes(lab: GatewayLab) -> Iterator[tuple[str, Resource]]:
    """Yield what was written since: verbs and kinds, Events and Leases too."""
    reads = ("get", "list", "watch")
    return ((each.verb, each.resource) for each in lab.kube.requests if each.verb not in reads)


async def test_an_item_has_the_contents_of_its_files_text_or_not() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="é\n") | {"binaryData": {"image": "/wA="}})
        files = [
            file_of("etc/level"),
            {"path": "inline", "content": "x"},
            file_of("/opt/image", "image"),
            file_of("gone", "gone", optional=True),
        ]
        await lab.declare("leaf-1", execution=execution() | {"files": files})
        item = await item_of(lab)
        assert item["fileValues"] == [
            {"path": "etc/level", "content": "w6kK"},
            {"path": "/opt/image", "content": "/wA="},
        ]
        assert item["spec"] == lab.process("leaf-1")["spec"]
        assert "values" not in item
        (read,) = read_desired({"items": [item], "deviceName": "leaf-1"}).items
        assert read.values_hash == item["valuesHash"]
        (item,) = (await lab.client.get(DESIRED, praetor_features="files.v1, references.v1")).json()["items"]
        assert item["features"] == ["file-references.v1"]


async def test_changed_contents_answer_the_poll_and_values_of_the_device_stay_beside_them() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="one"))
        name = {"name": "NAME", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.name"}}}
        for device in ("leaf-1", "leaf-2"):
            await lab.declare(device, execution=execution(name) | {"files": [file_of("a")]})
        first, other = [await item_of(lab, device) for device in ("leaf-1", "leaf-2")]
        assert first["values"] == {"NAME": "leaf-1"}
        assert first["fileValues"] == other["fileValues"]
        assert first["valuesHash"] != other["valuesHash"]
        etag = (await lab.client.get(DESIRED, praetor_features=KNOWS)).headers["etag"]
        poll = asyncio.ensure_future(
            lab.client.get(DESIRED, praetor_features=KNOWS, if_none_match=etag, prefer="wait=50")
        )
        await lab.clock.settle()
        await lab.settled(lab.kube.patch(CONFIG_MAPS, SETTINGS_MAP, {"data": {"level": "two"}}))
        assert poll.done()
        (item,) = (await poll).json()["items"]
        assert item["fileValues"] == [{"path": "a", "content": "dHdv"}]
        assert (item["specHash"], item["generation"]) == (first["specHash"], first["generation"])


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        pytest.param([file_of("a", "gone")], {}, "ReferenceMissing(configmap/settings key gone)", id="no-key"),
        pytest.param(
            [file_of("a")],
            {"level": "é" * MAX_CONTENT},
            "ReferenceMissing(configmap/settings key level has more than 131072 bytes)",
            id="too-long",
        ),
        pytest.param(
            [file_of("a"), file_of("b")],
            {"level": "x" * (MAX_CONTENT // 2 + 1)},
            "ReferenceRefused(TooLarge files of more than 131072 bytes)",
            id="too-long-together",
        ),
    ],
)
async def test_files_without_content_hold_the_process(
    files: list[dict[str, Any]], data: dict[str, Any], said: str
) -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(**data))
        await lab.declare("leaf-1", execution=execution() | {"files": files})
        item = await item_of(lab)
        assert "spec" not in item
        seen = {"name": item["name"], "observedSpecHash": "sha256:older", "processStarted": True, "healthy": True}
        body = {"heartbeat": True, "observations": [seen]}
        await lab.client.post("/v1/devices/leaf-1/report", body)
        await lab.clock.advance(1)
        assert held(lab)["message"].startswith(f"{said}: ")


async def test_contents_just_small_enough_are_given() -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="x" * (MAX_CONTENT - 1), more="y"))
        await lab.declare("leaf-1", execution=execution() | {"files": [file_of("a"), file_of("b", "more")]})
        item = await item_of(lab)
        (read,) = read_desired({"items": [item], "deviceName": "leaf-1"}).items
        assert read.file_values is not None
        assert len(base64.b64decode(read.file_values[0].content)) == MAX_CONTENT - 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"env": [ref("A") | {"value": "x"}]}, "spec.execution.env[0] has a value and a", id="value"),
        pytest.param({"env": [{"name": "A", "valueFrom": {}}]}, "spec.execution.env[0].valueFrom has no", id="none"),
        pytest.param(
            {"files": [file_of("a") | {"content": "x"}]}, "spec.execution.files: a has several sources", id="file"
        ),
    ],
)
async def test_a_wrong_source_that_an_api_without_rules_lets_through_is_refused_with_what_to_write(
    fields: dict[str, Any], said: str
) -> None:
    async with running_lab(references_namespaces=("lab",)) as lab:
        await lab.kube.loosen(DEVICE_PROCESSES)
        await lab.kube.create(CONFIG_MAPS, "lab", config_map(level="x"))
        await lab.declare("leaf-1", execution=execution() | fields)
        item = await item_of(lab)
        assert "spec" not in item
        seen = {"name": item["name"], "observedSpecHash": "sha256:older", "processStarted": True, "healthy": True}
        await lab.client.post("/v1/devices/leaf-1/report", {"heartbeat": True, "observations": [seen]})
        await lab.clock.advance(1)
        message = held(lab)["message"]
        assert message.startswith(f"ReferenceRefused(InvalidSpec {said}")
        assert "): write one source for a variable or a file; and a Secret into no argument" in message
