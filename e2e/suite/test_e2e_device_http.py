# SPDX-License-Identifier: Apache-2.0
"""The HTTP API for devices, in raw requests: 200 and 304, ETags, long poll, bad requests."""

from __future__ import annotations

import re
import threading
import time

import pytest
import requests

from e2e.clusters.cluster import Capability
from e2e.stack.kube import DEPLOYMENTS, Kube
from e2e.stack.manifests import deployment, device_process
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.workloads import change_template, sleeping

PROBLEM = "application/problem+json"
WAIT_S = 50


@pytest.fixture
def device(stack: Stack, fleet: AgentFleet, kube: Kube) -> DeviceApi:
    """A device with one process and no agent: the test is its agent."""
    name = fleet.declare()
    kube.apply(deployment("sleeper", sleeping()))
    device = DeviceApi.of(stack, name)
    eventually(lambda: device.desired().json()["items"], what="it has a process")
    return device


def waiters(stack: Stack) -> int:
    """How many polls the gateway holds."""
    found = re.search(r"^praetor_gateway_waiters (\S+)$", stack.gateway.metrics(), re.MULTILINE)
    assert found is not None
    return int(float(found.group(1)))


def test_an_unchanged_desired_state_is_answered_with_304(device: DeviceApi) -> None:
    first = device.desired()
    again = device.desired(first.headers["ETag"])
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert first.headers["ETag"].startswith('"')


def test_lists_weak_forms_and_the_star_of_if_none_match_are_understood(device: DeviceApi) -> None:
    etag = device.desired().headers["ETag"]
    matching = (f'"other", {etag}', f"W/{etag}", f'W/"x",W/{etag} , "y"', "*")
    assert [device.desired(header).status_code for header in matching] == [304] * 4
    others = ('"other"', 'W/"other"', etag.strip('"') + "x", "")
    assert [device.desired(header).status_code for header in others] == [200] * 4


def test_a_changed_template_changes_the_etag_and_the_body(device: DeviceApi, kube: Kube) -> None:
    before = device.desired()
    change_template(kube, "sleeper", sleeping("2"))
    etag = before.headers["ETag"]
    after = eventually(lambda: device.desired(etag), lambda answer: answer.status_code == 200, what="a new state")
    assert after.headers["ETag"] != etag
    old, new = before.json()["items"][0], after.json()["items"][0]
    assert (new["uid"], new["generation"]) == (old["uid"], old["generation"] + 1)
    assert new["specHash"] != old["specHash"]


@pytest.mark.needs(Capability.PROGRAMS)  # whose metrics are read
def test_a_long_poll_is_held_until_something_changes(stack: Stack, device: DeviceApi, kube: Kube) -> None:
    etag = device.desired().headers["ETag"]
    answers: list[tuple[requests.Response, float]] = []

    def poll() -> None:
        answers.append((device.desired(etag, wait_s=WAIT_S), time.monotonic()))

    waiting = threading.Thread(target=poll)
    before, asked = waiters(stack), time.monotonic()
    waiting.start()
    eventually(lambda: waiters(stack), lambda count: count > before, what="the poll is held")
    change_template(kube, "sleeper", sleeping("2"))
    waiting.join()
    ((answer, answered),) = answers
    assert (answer.status_code, answer.headers["ETag"] != etag) == (200, True)
    assert answer.headers.get("Preference-Applied", "").startswith("wait")
    assert answered - asked < WAIT_S  # not at the end of the wait


def test_a_long_poll_without_a_change_ends_with_304_after_its_wait(device: DeviceApi) -> None:
    etag = device.desired().headers["ETag"]
    started = time.monotonic()
    answer = device.desired(etag, wait_s=1)
    assert answer.status_code == 304
    assert 0.7 < time.monotonic() - started < WAIT_S  # it may be answered 0.25 s early, together with others


def test_an_undeclared_device_gets_an_empty_state(stack: Stack, kube: Kube) -> None:
    stranger = DeviceApi.of(stack, f"{kube.namespace}-stranger")
    answer = stranger.desired()
    assert (answer.status_code, answer.json()["items"]) == (200, [])
    assert stranger.desired(answer.headers["ETag"]).status_code == 304
    assert stranger.connect().json()["ack"] is True


def test_the_answer_to_a_report_has_the_etag_that_saves_the_next_poll(device: DeviceApi) -> None:
    ack = device.report(agentVersion="x", timestamp="2026-01-01T00:00:00Z", heartbeat=True, observations=[]).json()
    assert ack["ack"] is True
    assert ack["desiredETag"] == device.desired().headers["ETag"]
    assert ack["heartbeatIntervalSeconds"] == 1


def test_the_original_agents_report_is_accepted(device: DeviceApi, kube: Kube) -> None:
    item = device.desired().json()["items"][0]
    observation = {
        "namespace": item["namespace"],
        "name": item["name"],
        "observedSpecHash": item["specHash"],
        "processStarted": True,
        "healthy": True,
    }
    answer = device.report(
        agentVersion="go-1.0", timestamp="2026-01-01T00:00:00Z", heartbeat=True, observations=[observation]
    )
    assert answer.status_code == 200
    eventually(
        lambda: kube.process(item["name"])["status"], lambda status: status.get("phase") == "Running", what="it runs"
    )


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        pytest.param(b"{", 400, "", id="no-json"),
        pytest.param(b'{"heartbeat": "yes"}', 400, "heartbeat", id="a-word-for-a-truth-value"),
        pytest.param(b'{"observations": {}}', 400, "observations", id="no-list"),
        pytest.param(b"[" * 20_000, 400, "", id="nested-without-end"),
        pytest.param(b'{"agentVersion": "' + b"x" * 300_000 + b'"}', 413, "", id="too-large"),
    ],
)
def test_a_bad_report_is_refused_with_the_field_in_fault(
    device: DeviceApi, body: bytes, status: int, named: str
) -> None:
    answer = device.request("POST", "report", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM)
    assert named in answer.text


def test_one_bad_observation_does_not_spoil_the_others(device: DeviceApi, kube: Kube) -> None:
    item = device.desired().json()["items"][0]
    good = {"namespace": item["namespace"], "name": item["name"], "uid": item["uid"], "processStarted": True}
    good |= {"observedSpecHash": item["specHash"], "healthy": True}
    ack = device.report(heartbeat=True, observations=[{"name": "x", "pid": "many"}, good]).json()
    assert [(bad["name"], "pid" in bad["reason"]) for bad in ack["rejected"]] == [("x", True)]
    eventually(
        lambda: kube.process(item["name"])["status"], lambda status: status.get("phase") == "Running", what="it runs"
    )


def test_a_device_cannot_report_on_the_process_of_another(stack: Stack, fleet: AgentFleet, kube: Kube) -> None:
    mine, others = fleet.declare(), fleet.declare()
    kube.apply(device_process("victim", others, sleeping()))
    owner, attacker = DeviceApi.of(stack, others), DeviceApi.of(stack, mine)
    item = eventually(lambda: owner.desired().json()["items"], what="it has a process")[0]
    lie = {key: item[key] for key in ("namespace", "name", "uid")} | {"observedSpecHash": item["specHash"]}
    answer = attacker.report(heartbeat=True, observations=[{**lie, "processStarted": False, "healthy": False}])
    assert answer.status_code == 200
    owner.report(heartbeat=True, observations=[{**lie, "processStarted": True, "healthy": True}])
    status = eventually(
        lambda: kube.process("victim").get("status") or {}, lambda seen: seen.get("phase"), what="a phase is reported"
    )
    assert status["phase"] == "Running"


@pytest.mark.parametrize("path", ["/v1/devices/UPPER/desired", "/v1/devices/a%2fb/desired", "/v1/devices/-/desired"])
def test_a_name_that_is_no_device_name_is_never_served(stack: Stack, path: str) -> None:
    answer = requests.get(stack.gateway_url + path, headers={"X-Device-Token": stack.token("a")}, timeout=60)
    assert answer.status_code in (400, 401, 404)


def test_a_deleted_deployment_empties_the_desired_state(device: DeviceApi, kube: Kube) -> None:
    kube.delete(DEPLOYMENTS, "sleeper")
    eventually(lambda: device.desired().json()["items"] == [], what="nothing is desired")
