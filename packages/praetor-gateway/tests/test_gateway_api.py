"""The device protocol, spoken to the application on fakes."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway_testing import (
    Answer,
    GatewayLab,
    conditions,
    process_object,
    run_in_virtual_time,
    running_lab,
    switch_object,
)
from praetor_api.canonical import desired_etag, spec_hash
from praetor_api.kube.client.resource import DEVICE_PROCESSES, EVENTS, NETWORK_SWITCHES, Key
from praetor_api.protocol import MAX_BODY_BYTES, MAX_OBSERVATIONS

DESIRED = "/v1/devices/leaf-1/desired"
REPORT = "/v1/devices/leaf-1/report"


async def test_a_device_gets_its_processes_as_they_are_stored() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        await lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1", name="a"))
        await lab.clock.settle()
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
async def test_a_known_etag_is_answered_with_304(form: str) -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        etag = (await lab.client.get(DESIRED)).headers["etag"]
        answer = await lab.client.get(DESIRED, if_none_match=form.format(etag))
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert "preference-applied" not in answer.headers


async def test_another_etag_is_answered_with_200() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        assert (await lab.client.get(DESIRED, if_none_match='"other"')).status == 200


async def test_head_answers_like_get_and_never_waits() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
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
        assert lab.gateway.traces() == 0


async def test_a_process_that_is_being_deleted_is_no_longer_desired() -> None:
    async with running_lab() as lab:
        body = process_object("leaf-1")
        body["metadata"]["finalizers"] = ["example.com/hold"]
        await lab.kube.create(DEVICE_PROCESSES, "lab", body)
        await lab.clock.settle()
        assert len((await lab.desired("leaf-1"))["items"]) == 1
        await lab.kube.delete(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"))
        await lab.clock.settle()
        assert (await lab.desired("leaf-1"))["items"] == []


async def test_a_changed_spec_gets_another_etag_and_a_changed_status_does_not() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        first = (await lab.client.get(DESIRED)).headers["etag"]
        await lab.report("leaf-1", await lab.running("leaf-1"))
        await lab.clock.advance(1)
        assert lab.process("leaf-1")["status"]["phase"] == "Running"
        assert (await lab.client.get(DESIRED)).headers["etag"] == first
        key = Key("lab", "agent-leaf-1")
        await lab.kube.patch(DEVICE_PROCESSES, key, {"spec": {"restartPolicy": "Never"}})
        await lab.clock.settle()
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
async def test_a_bad_device_name_is_refused_before_anything_else(path: str) -> None:
    async with running_lab() as lab:
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
async def test_an_unknown_path_or_method_is_answered_with_a_problem(method: str, path: str, status: int) -> None:
    async with running_lab() as lab:
        answer = await lab.client.request(method, path)
    problem = answer.json()
    assert (answer.status, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert set(problem) >= {"title", "detail"}
    if status == 405:
        assert "OPTIONS" in answer.headers["allow"]


async def test_options_names_the_methods() -> None:
    async with running_lab() as lab:
        answer = await lab.client.request("OPTIONS", DESIRED)
    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_two_switches_of_one_name_are_ambiguous_and_get_an_event() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        await lab.kube.create(NETWORK_SWITCHES, "other", switch_object("leaf-1"))
        await lab.clock.settle()
        for answer in (await lab.client.get(DESIRED), await lab.client.post(REPORT)):
            assert answer.status == 409
        events = lab.kube.objects(EVENTS).values()
        assert {e["regarding"]["namespace"] for e in events if e["reason"] == "DeviceAmbiguous"} == {"lab", "other"}
        await lab.kube.delete(NETWORK_SWITCHES, Key("other", "leaf-1"))
        await lab.clock.settle()
        assert (await lab.client.get(DESIRED)).status == 200


async def test_a_process_needs_no_switch_and_cannot_reach_a_declared_one_from_elsewhere() -> None:
    async with running_lab() as lab:
        await lab.kube.create(DEVICE_PROCESSES, "elsewhere", process_object("leaf-1"))
        await lab.clock.settle()
        assert len((await lab.desired("leaf-1"))["items"]) == 1
        await lab.kube.create(NETWORK_SWITCHES, "lab", switch_object("leaf-1"))
        await lab.clock.settle()
        assert (await lab.desired("leaf-1"))["items"] == []
        ref = {"name": "leaf-1", "namespace": "lab"}
        await lab.kube.create(DEVICE_PROCESSES, "third", process_object("leaf-1", deviceRef=ref))
        await lab.clock.settle()
        assert [item["namespace"] for item in (await lab.desired("leaf-1"))["items"]] == ["third"]


async def test_processes_of_several_namespaces_without_a_switch_are_ambiguous() -> None:
    async with running_lab() as lab:
        await lab.kube.create(DEVICE_PROCESSES, "a", process_object("leaf-1"))
        await lab.kube.create(DEVICE_PROCESSES, "b", process_object("leaf-1"))
        await lab.clock.settle()
        assert (await lab.client.get(DESIRED)).status == 409


async def test_nothing_is_answered_from_a_cache_that_is_not_synced() -> None:
    async with running_lab() as source:
        kube = source.kube
        await source.declare("leaf-1")
        another = kube.another_client()
        another.unreachable = True
        async with running_lab(kube=another, clock=source.clock) as lab:
            assert lab.gateway.unready()
            answer = await lab.client.get(DESIRED)
            assert answer.status == 503
            assert "retry-after" in answer.headers
            another.heal()
            await lab.clock.advance(60)
            assert lab.gateway.unready() == ""
            assert len((await lab.desired("leaf-1"))["items"]) == 1


async def test_the_cache_serves_while_the_apiserver_is_away() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
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


# Reports


async def test_a_report_becomes_status_conditions_and_events() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        first = await lab.report("leaf-1", agentVersion="1.2", bootID="b1", seq=1, facts={"os": "linux"})
        assert first["resync"] is True
        answer = await lab.report("leaf-1", await lab.running("leaf-1"), agentVersion="1.2", bootID="b1", seq=2)
        await lab.clock.advance(10)
        status = lab.process("leaf-1")["status"]
        assert status["phase"] == "Running"
        assert (status["pid"], status["observedGeneration"]) == (42, 1)
        assert conditions(lab.process("leaf-1")) == {
            "AgentConnected": "True",
            "Healthy": "True",
            "ProcessStarted": "True",
            "SpecObserved": "True",
        }
        switch = lab.switch("leaf-1")["status"]
        assert (switch["agentVersion"], switch["bootID"], switch["facts"]) == ("1.2", "b1", {"os": "linux"})
        assert switch["processes"] == {"desired": 1, "running": 1, "healthy": 1}
        etag = (await lab.client.get(DESIRED)).headers["etag"]
        reasons = {event["reason"] for event in lab.kube.objects(EVENTS).values()}
    assert answer == {"ack": True, "desiredETag": etag, "heartbeatIntervalSeconds": 15, "resync": False}
    assert reasons == {"AgentConnected", "SpecObserved", "ProcessStarted", "Healthy"}


async def test_bad_observations_come_back_and_do_not_spoil_the_good_one() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        await lab.declare("leaf-2")
        good = await lab.running("leaf-1")
        other = await lab.running("leaf-2")
        answer = await lab.report(
            "leaf-1",
            other,
            {"name": 3},
            {**good, "uid": "older"},
            {**good, "startTime": "noon"},
            {**good, "startTime": "0001-01-01T00:00:00+01:00"},
            "junk",
            {**good, "startTime": "0001-01-01T00:00:00Z"},
        )
        await lab.clock.advance(1)
        assert lab.process("leaf-1")["status"]["phase"] == "Running"
        assert "startTime" not in lab.process("leaf-1")["status"]
        assert "ProcessStarted" not in conditions(lab.process("leaf-2"))
    reasons = [rejected["reason"] for rejected in answer["rejected"]]
    assert len(reasons) == 6
    assert {"no such process on this device"} < set(reasons)
    assert any("startTime" in reason for reason in reasons)
    assert any("uid" in reason for reason in reasons)


async def test_a_name_in_two_namespaces_needs_the_namespace() -> None:
    async with running_lab() as lab:
        ref = {"name": "leaf-1", "namespace": "lab"}
        for namespace in ("lab", "two"):
            await lab.kube.create(DEVICE_PROCESSES, namespace, process_object("leaf-1", deviceRef=ref))
        await lab.clock.settle()
        good = await lab.running("leaf-1")
        answer = await lab.report("leaf-1", {**good, "namespace": ""}, good)
    assert [rejected["reason"] for rejected in answer["rejected"]] == ["namespace: is needed, several have this name"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"{", "", id="cut-off"),
        pytest.param(b'{"seq": NaN}', "", id="nan"),
        pytest.param(b'{"seq": 1e999}', "", id="infinite"),
        pytest.param(b"[" * 200_000, "", id="deep"),
        pytest.param(b"\xff", "", id="not-utf8"),
        pytest.param(b"[]", "", id="a-list"),
        pytest.param(b'{"seq": -1}', "seq", id="negative"),
        pytest.param(b'{"bootID": 7}', "bootID", id="wrong-type"),
        pytest.param(json.dumps({"facts": {"x" * 318: "y"}}).encode(), "facts", id="long-name"),
        pytest.param(b'{"observations": {}}', "observations", id="no-list"),
        pytest.param(
            json.dumps({"observations": [{"name": "x"}] * (MAX_OBSERVATIONS + 1)}).encode(), "observations", id="many"
        ),
    ],
)
async def test_a_bad_report_names_the_field(body: bytes, field: str) -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        answer = await lab.client.post(REPORT, body)
    assert answer.status == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_unknown_fields_are_ignored() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        answer = await lab.client.post(REPORT, {"heartbeat": True, "mood": "fine", "observations": []})
    assert answer.status == 200


async def test_a_body_beyond_the_limit_is_refused_while_it_streams() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        announced = await lab.client.request("POST", REPORT, headers={"Content-Length": str(MAX_BODY_BYTES + 1)})
        streamed = await lab.client.request("POST", REPORT, chunks=[b" " * 65536] * 5)
        lying = await lab.client.request("POST", REPORT, headers={"Content-Length": "x"})
    assert [answer.status for answer in (announced, streamed, lying)] == [413, 413, 413]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 200),
        ({"Content-Length": "2", "Transfer-Encoding": "chunked"}, 400),
    ],
)
async def test_unclear_bodies_are_refused(headers: dict[str, str], status: int) -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        answer = await lab.client.request("POST", REPORT, headers=headers, chunks=[b"{}"])
    assert answer.status == status


def test_a_body_that_does_not_come_ends_after_a_while() -> None:
    async def scenario() -> int:
        async with running_lab() as lab:
            await lab.declare("leaf-1")
            return (await lab.client.request("POST", REPORT, chunks=[])).status

    assert run_in_virtual_time(scenario()) == 408


async def test_a_connection_that_ends_within_the_body_is_a_bad_request() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        gone = asyncio.Event()
        gone.set()
        assert (await lab.client.request("POST", REPORT, chunks=[], gone=gone)).status == 400


async def test_too_many_reports_of_one_device_are_slowed_down() -> None:
    async with running_lab(device_rate_per_s=0.5) as lab:
        await lab.declare("leaf-1")
        statuses = [(await lab.client.post(REPORT)).status for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
        answer = await lab.client.post(REPORT)
        assert answer.headers["retry-after"] == "3"
        await lab.clock.advance(2)
        assert (await lab.client.post(REPORT)).status == 200
        assert (await lab.client.get(DESIRED)).status == 200


async def test_a_report_that_was_overtaken_is_ignored() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        good = await lab.running("leaf-1")
        await lab.report("leaf-1", good, bootID="b", seq=5)
        await lab.report("leaf-1", {**good, "healthy": False}, bootID="b", seq=4)
        await lab.clock.advance(1)
        assert conditions(lab.process("leaf-1"))["Healthy"] == "True"
        await lab.report("leaf-1", {**good, "healthy": False}, bootID="c", seq=1)
        await lab.clock.advance(1)
        assert conditions(lab.process("leaf-1"))["Healthy"] == "False"


async def test_connect_is_acknowledged_like_a_heartbeat() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        answer = await lab.client.post("/v1/devices/leaf-1/connect")
        await lab.clock.advance(1)
        assert conditions(lab.switch("leaf-1")) == {"AgentConnected": "True"}
    assert answer.json()["ack"] is True
    assert answer.json()["resync"] is True


# Long polls


async def _etag(lab: GatewayLab) -> str:
    return (await lab.client.get(DESIRED)).headers["etag"]


async def test_a_held_poll_is_answered_when_something_changes() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="wait=30"))
        await lab.clock.settle()
        assert not poll.done()
        assert lab.value("waiters") == 1
        await lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), {"spec": {"restartPolicy": "Never"}})
        answer = await poll
        assert lab.value("waiters") == 0
    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=30")


async def test_a_held_poll_is_not_answered_for_changes_of_others() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="wait=30"))
        await lab.clock.settle()
        await lab.declare("leaf-2")
        await lab.report("leaf-1", await lab.running("leaf-1"))
        await lab.clock.advance(1)
        assert not poll.done()
        lab.gateway.drain()
        assert (await poll).status == 304


def test_a_held_poll_ends_with_304_when_its_time_is_up() -> None:
    async def scenario() -> tuple[float, Answer]:
        async with running_lab(max_wait_s=20) as lab:
            await lab.declare("leaf-1")
            loop = asyncio.get_running_loop()
            began = loop.time()
            answer = await lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="respond-async, wait=300")
            return loop.time() - began, answer

    took, answer = run_in_virtual_time(scenario())
    assert took == pytest.approx(20)
    assert (answer.status, answer.headers["preference-applied"]) == (304, "wait=20")


async def test_a_client_that_goes_away_waits_no_more() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        gone = asyncio.Event()
        headers = {"If-None-Match": await _etag(lab), "Prefer": "wait=30"}
        poll = asyncio.ensure_future(lab.client.request("GET", DESIRED, headers=headers, gone=gone))
        await lab.clock.settle()
        gone.set()
        assert (await poll).status == 0
        assert lab.value("waiters") == 0


async def test_a_device_that_is_declared_while_it_polls_is_answered() -> None:
    async with running_lab() as lab:
        poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=desired_etag(()), prefer="wait=30"))
        await lab.clock.settle()
        await lab.declare("leaf-1")
        assert len((await poll).json()["items"]) == 1
        assert lab.value("waiters") == 0


async def test_draining_answers_all_held_polls_at_once() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        etag = await _etag(lab)
        polls = [asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=etag, prefer="wait=30")) for _ in "abc"]
        await lab.clock.settle()
        lab.gateway.drain()
        assert [(await poll).status for poll in polls] == [304] * 3
        assert lab.gateway.unready() == "draining"
        late = await lab.client.get(DESIRED, if_none_match=etag, prefer="wait=30")
        assert late.status == 304


async def test_a_crash_is_answered_with_a_problem_without_a_traceback() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1")
        with pytest.raises(TypeError):
            await lab.client.request("POST", REPORT, headers={"Content-Length": "2"}, chunks=[None])  # type: ignore[list-item]
