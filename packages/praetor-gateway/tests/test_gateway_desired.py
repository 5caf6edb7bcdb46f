# SPDX-License-Identifier: Apache-2.0
"""The desired state as devices get it, and the routes of the device protocol."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_testing import GatewayLab, conditions, one_device, process_object, running_lab
from praetor_api.canonical import desired_etag, spec_hash
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.protocol import read_desired

DESIRED = "/v1/devices/leaf-1/desired"
REPORT = "/v1/devices/leaf-1/report"
lab = pytest.fixture(one_device)


async def test_a_device_gets_its_processes_as_they_are_stored(lab: GatewayLab) -> None:
    await lab.settled(lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1", name="a")))
    answer = await lab.client.get(DESIRED)
    stored = lab.process("leaf-1")
    body = answer.json()
    assert (body["deviceName"], body["heartbeatIntervalSeconds"]) == ("leaf-1", 15)
    assert [item["name"] for item in body["items"]] == ["a", "agent-leaf-1"]
    item = body["items"][1]
    assert item["spec"] == stored["spec"]
    assert item["specHash"] == spec_hash(stored["spec"])
    assert (item["uid"], item["generation"]) == (stored["metadata"]["uid"], 1)
    versions = [(i["uid"], i["namespace"], i["name"], i["generation"], i["specHash"]) for i in body["items"]]
    assert answer.headers["etag"] == desired_etag(versions)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_a_known_etag_is_answered_with_304_and_another_with_200(lab: GatewayLab, form: str) -> None:
    etag = (await lab.client.get(DESIRED)).headers["etag"]
    answer = await lab.client.get(DESIRED, if_none_match=form.format(etag))
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert "preference-applied" not in answer.headers
    assert (await lab.client.get(DESIRED, if_none_match='"other"')).status == 200


async def test_head_answers_like_get_and_never_waits(lab: GatewayLab) -> None:
    etag = (await lab.client.get(DESIRED)).headers["etag"]
    headers = {"If-None-Match": etag, "Prefer": "wait=9"}
    assert (await lab.client.request("HEAD", DESIRED, headers=headers)).status == 304
    assert (await lab.client.request("HEAD", DESIRED)).headers["etag"] == etag


async def test_an_undeclared_device_gets_nothing_and_leaves_no_trace() -> None:
    async with running_lab() as lab:
        answer = await lab.client.get("/v1/devices/ghost/desired")
        assert (answer.status, answer.json()["items"]) == (200, [])
        assert answer.headers["etag"] == desired_etag(())
        acknowledged = await lab.report("ghost", {"name": "x"})
        assert acknowledged["ack"] is True
        assert acknowledged["resync"] is False
        assert (await lab.client.post("/v1/devices/ghost/connect")).json()["ack"] is True
        assert lab.value("devices") == 0
        assert lab.gateway.device_entries() == 0


async def test_a_process_that_is_being_deleted_is_no_longer_desired() -> None:
    async with running_lab() as lab:
        body = process_object("leaf-1")
        body["metadata"]["finalizers"] = ["example.com/hold"]
        await lab.settled(lab.kube.create(DEVICE_PROCESSES, "lab", body))
        assert len((await lab.desired("leaf-1"))["items"]) == 1
        await lab.settled(lab.kube.delete(DEVICE_PROCESSES, Key("lab", "agent-leaf-1")))
        assert (await lab.desired("leaf-1"))["items"] == []


async def test_a_changed_spec_gets_another_etag_and_a_changed_status_does_not(lab: GatewayLab) -> None:
    first = (await lab.client.get(DESIRED)).headers["etag"]
    await lab.report("leaf-1", await lab.running("leaf-1"), then_s=1)
    assert lab.process("leaf-1")["status"]["phase"] == "Running"
    assert (await lab.client.get(DESIRED)).headers["etag"] == first
    key = Key("lab", "agent-leaf-1")
    await lab.settled(lab.kube.patch(DEVICE_PROCESSES, key, {"spec": {"restartPolicy": "Never"}}))
    assert (await lab.client.get(DESIRED)).headers["etag"] != first


@pytest.mark.parametrize(
    "path",
    [
        "/v1/devices/leaf%2d1/desired",
        "/v1/devices/a%2f..%2fb/desired",
        "/v1/devices/Leaf-1/desired",
        "/v1/devices/-leaf/desired",
        "/v1/devices//desired",
        f"/v1/devices/{'a' * 254}/desired",
    ],
)
async def test_a_bad_device_name_is_refused_before_anything_else(lab: GatewayLab, path: str) -> None:
    lab.client.token = None
    answer = await lab.client.get(path)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/devices/leaf-1", 404),
        ("GET", "/v1/devices/leaf-1/desired/x", 404),
        ("GET", "/v2/devices/leaf-1/desired", 404),
        ("POST", DESIRED, 405),
        ("GET", REPORT, 405),
        ("DELETE", "/v1/devices/leaf-1/connect", 405),
    ],
)
async def test_an_unknown_path_or_method_is_answered_with_a_problem(
    lab: GatewayLab, method: str, path: str, status: int
) -> None:
    answer = await lab.client.request(method, path)
    problem = answer.json()
    assert (answer.status, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert set(problem) >= {"title", "detail"}
    if status == 405:
        assert "OPTIONS" in answer.headers["allow"]


async def test_options_names_the_methods(lab: GatewayLab) -> None:
    answer = await lab.client.request("OPTIONS", DESIRED)
    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_nothing_is_answered_from_a_cache_that_is_not_synced(lab: GatewayLab) -> None:
    kube = lab.kube.another_client()
    kube.unreachable = True
    async with running_lab(kube=kube, clock=lab.clock) as other:
        assert other.gateway.unready()
        answer = await other.client.get(DESIRED)
        assert answer.status == 503
        assert "retry-after" in answer.headers
        kube.heal()
        await other.clock.advance(60)
        assert other.gateway.unready() == ""
        assert len((await other.desired("leaf-1"))["items"]) == 1


async def test_the_cache_serves_while_the_apiserver_is_away(lab: GatewayLab) -> None:
    lab.kube.unreachable = True
    lab.kube.end_watches()
    await lab.clock.advance(300)
    assert lab.gateway.unready() == ""
    assert len((await lab.desired("leaf-1"))["items"]) == 1
    assert lab.value("cache_age_seconds") >= 290


async def test_only_the_given_namespaces_are_watched() -> None:
    async with running_lab(namespaces=("lab", "two")) as lab:
        for namespace in ("lab", "two", "three"):
            await lab.kube.create(DEVICE_PROCESSES, namespace, process_object(f"in-{namespace}"))
        await lab.clock.settle()
        served = [len((await lab.desired(f"in-{each}"))["items"]) for each in ("lab", "two", "three")]
    assert served == [1, 1, 0]


FLASH = {"execution": {"backend": "process", "command": ["flash"], "reboot": "Expected"}, "restartPolicy": "Never"}


@pytest.mark.parametrize(
    ("feature", "spec"),
    [
        ("reboot.v1", FLASH | {"postCheck": {"command": ["true"]}}),
        ("probes.v1", {"healthCheck": {"exec": None, "httpGet": {"port": 80}}}),
        ("probes.v1", {"healthCheck": {"exec": None, "tcpSocket": {"port": 80}}}),
    ],
    ids=["reboot", "http-get", "tcp-socket"],
)
async def test_an_agent_without_a_feature_is_not_sent_the_spec_that_needs_it_and_keeps_what_it_has(
    feature: str, spec: dict[str, Any]
) -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        running = await lab.running("leaf-1")
        key = Key("lab", "agent-leaf-1")
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, key, {"spec": spec}))
        old = await lab.client.get(DESIRED, praetor_features="files.v1")
        new = await lab.client.get(DESIRED, praetor_features=f"files.v1, {feature}")
        assert old.headers["etag"] != new.headers["etag"]
        (item,) = old.json()["items"]
        assert {"spec", "specHash"}.isdisjoint(item)
        assert item["features"] == [feature]
        assert read_desired(old.json()).invalid[0].uid == item["uid"]  # what makes an agent keep what it has
        assert new.json()["items"][0]["spec"] == lab.process("leaf-1")["spec"]

        assert (await lab.client.get(DESIRED, if_none_match=old.headers["etag"])).status == 304
        await lab.report("leaf-1", running | {"errorMessage": "spec: is required"}, then_s=1)
        status = lab.process("leaf-1")["status"]
        held = next(each for each in status["conditions"] if each["type"] == "UpdateHeld")
        assert (held["status"], held["reason"], status["phase"]) == ("True", "AgentTooOld", "Running")
        assert held["message"].startswith(f"AgentTooOld({feature}): ")

        upgraded = await lab.client.get(DESIRED, if_none_match=old.headers["etag"], praetor_features=feature)
        assert upgraded.json()["items"][0]["specHash"] == spec_hash(lab.process("leaf-1")["spec"])
        ack = await lab.report(
            "leaf-1", running | {"observedSpecHash": upgraded.json()["items"][0]["specHash"]}, then_s=1
        )
        assert ack["desiredETag"] == upgraded.headers["etag"]
        assert conditions(lab.process("leaf-1"))["UpdateHeld"] == "False"
        far = await lab.client.get(DESIRED, praetor_features=f"{feature}," + "x" * 2000)
        assert "spec" not in far.json()["items"][0]
