# SPDX-License-Identifier: Apache-2.0
"""What is checked of a gateway, by playing one of its devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from praetor_api.protocol import MAX_BODY_BYTES, MAX_OBSERVATIONS, ReportAck, read_desired
from praetor_api.wire import WireError, read
from praetor_controller.ctl.conformance.checks import Broken, Check, Skipped, expect
from praetor_controller.ctl.conformance.client import Answer, DeviceClient
from praetor_controller.ctl.conformance.vectors import vectors

WAIT_S = 2
MOST_REQUESTS = 200
"""Sent in a row until one is too fast; `--device-rate` may be higher than that."""
MOST_REPLICAS = 8
"""Each of them takes a poll once."""
TAKEN = "praetor-heartbeat-interval"
NOT_DESIRED = "vectors.not-desired"
UNKNOWN = {"praetorConformance": {"of": ["a", "later", "version"]}}

GatewayCheck = Check[DeviceClient]


def _status(answer: Answer, status: int, what: str) -> Answer:
    expect(answer.status == status, f"{what}: {status} expected, the answer is {answer.status}")
    return answer


def _etag(client: DeviceClient) -> str:
    return _status(client.desired(), 200, "GET desired").headers.get("etag", "")


def _acknowledged(answer: Answer, what: str) -> ReportAck:
    try:
        ack = read(ReportAck, _status(answer, 200, what).json())
    except WireError as e:
        raise Broken(f"{what}: {e}") from e
    expect(ack.ack, f"{what}: ack is false")
    return ack


def _problem(answer: Answer, status: int, what: str) -> Any:
    kind = _status(answer, status, what).headers.get("content-type", "")
    expect(kind.startswith("application/problem+json"), f"{what}: the content type is {kind or 'not given'}")
    body = answer.json()
    expect(isinstance(body, dict) and body.get("status") == status, f"{what}: status in the body is not {status}")
    return body


def strong_etag(client: DeviceClient) -> None:
    answer = _status(client.desired(), 200, "GET desired")
    etag = answer.headers.get("etag", "")
    expect(len(etag) > 2 and etag[0] == etag[-1] == '"', f"ETag: {etag or 'is missing'}")
    again = client.desired().headers.get("etag")
    expect(again == etag, f"the next answer has another ETag, {again}")


def names_the_device(client: DeviceClient) -> None:
    body = _status(client.desired(), 200, "GET desired").json()
    try:
        desired = read_desired(body)
    except WireError as e:
        raise Broken(str(e)) from e
    expect(desired.device_name == client.device, f"deviceName is {desired.device_name!r}")


def items_in_order(client: DeviceClient) -> None:
    names = [(item.get("namespace"), item.get("name")) for item in client.desired().json().get("items", [])]
    expect(names == sorted(names), f"the order is {names}")


def known_etag(client: DeviceClient) -> None:
    etag = _etag(client)
    for form in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = _status(client.desired(If_None_Match=form), 304, f"If-None-Match: {form}")
        expect(not answer.body, "the 304 has a body")
    _status(client.desired(If_None_Match='"other"'), 200, 'If-None-Match: "other"')


def held_poll(client: DeviceClient) -> None:
    answer = client.desired(If_None_Match=_etag(client), Prefer=f"wait={WAIT_S}")
    applied = answer.headers.get("preference-applied", "is missing")
    expect(applied == f"wait={WAIT_S}", f"Preference-Applied: {applied}")
    early = answer.status == 304 and answer.seconds < WAIT_S * 0.9
    expect(not early, f"the 304 came after {answer.seconds:.1f} s of {WAIT_S} s")


def not_held(client: DeviceClient) -> None:
    answer = client.desired(If_None_Match=_etag(client))
    expect("preference-applied" not in answer.headers, "a poll without Prefer was held")


def takes_polls(client: DeviceClient) -> None:
    body = client.desired().json()
    if not isinstance(body, dict) or not body.get("pollIsHeartbeat"):
        raise Skipped("this gateway does not take polls for heartbeats")
    poll = {"If_None_Match": _etag(client), "Praetor_Poll": f"conformance-{time.time_ns()}/7"}
    interval = client.desired(**poll).headers.get(TAKEN, "is missing")
    expect(interval.isdigit() and int(interval) >= 1, f"Praetor-Heartbeat-Interval: {interval}")
    refused = any(TAKEN not in client.desired(**poll).headers for _ in range(MOST_REPLICAS))
    expect(refused, f"Praetor-Heartbeat-Interval is there, though the poll was sent {MOST_REPLICAS} times before")


def connects(client: DeviceClient) -> None:
    for body in (b"", b"{}"):
        _acknowledged(client.post("connect", body), f"POST connect with the body {body.decode() or 'of no bytes'}")


def accepts(client: DeviceClient) -> None:
    _acknowledged(client.post("report", {}), "POST report of {}")
    report = {"agentVersion": "conformance", "heartbeat": True, "observations": []}
    ack = _acknowledged(client.post("report", report), "POST report")
    expect(ack.heartbeat_interval_seconds >= 1, "heartbeatIntervalSeconds is less than 1")


def saves_a_poll(client: DeviceClient) -> None:
    before, ack = _etag(client), _acknowledged(client.post("report", {}), "POST report")
    after = _etag(client)
    expect(ack.desired_etag in (before, after), f"desiredETag is {ack.desired_etag}, and the ETag is {after}")


def ignores_unknown(client: DeviceClient) -> None:
    _acknowledged(client.post("report", {"observations": [], **UNKNOWN}), "a field that no version has")


def rejects_one(client: DeviceClient) -> None:
    bad, unknown = {"name": "bad", "pid": "one"}, {"name": "praetor-conformance.not-desired"}
    ack = _acknowledged(client.post("report", {"observations": [bad, unknown]}), "a bad observation")
    names = [each.name for each in ack.rejected]
    expect("bad" in names, f"rejected names {names or 'none'} when a pid is a text")
    expect(all(each.reason for each in ack.rejected), "a rejected observation has no reason")


def answers_vectors(client: DeviceClient) -> None:
    for each in vectors("reports"):
        answer = client.post("report", each["body"].encode())
        _status(answer, each["status"], each["name"])
        if answer.status == HTTPStatus.OK:
            rejected = _acknowledged(answer, each["name"]).rejected
            names = [one.name for one in rejected if one.name != NOT_DESIRED]  # a gateway may reject it, too
            expect(names == each["rejected"], f"{each['name']}: rejected names {names}")
        elif "fields" in each:
            found = sorted(str(one.get("field")) for one in answer.json().get("errors", []))
            expect(found == each["fields"], f"{each['name']}: errors names {found}")


def names_each_field(client: DeviceClient) -> None:
    body = _problem(client.post("report", {"seq": -1, "facts": []}), 400, "seq: -1 and a list of facts")
    fields = sorted(str(each.get("field")) for each in body.get("errors", []))
    expect(fields == ["facts", "seq"], f"errors names {fields}")
    _problem(client.post("report", b"{"), 400, "a body that is cut off")


def limits_observations(client: DeviceClient) -> None:
    many = [{"name": f"p{number}"} for number in range(MAX_OBSERVATIONS + 1)]
    _acknowledged(client.post("report", {"observations": many[1:]}), f"{MAX_OBSERVATIONS} observations")
    _problem(client.post("report", {"observations": many}), 400, f"{MAX_OBSERVATIONS + 1} observations")


def limits_bodies(client: DeviceClient) -> None:
    fits = b"{}".ljust(MAX_BODY_BYTES)
    _acknowledged(client.post("report", fits), "a body of 256 KiB")
    _problem(client.post("report", fits + b" "), 413, "a body of a byte more")


def refuses_encoded(client: DeviceClient) -> None:
    answer = client.ask("POST", client.path("report"), {"Content-Encoding": "gzip"}, b"{}")
    _problem(answer, 415, "Content-Encoding: gzip")


def refuses_tokens(client: DeviceClient) -> None:
    for action, method in (("desired", "GET"), ("report", "POST"), ("connect", "POST")):
        body = None if method == "GET" else b"{}"
        for words, token in (("no token", ""), ("a wrong token", client.token[::-1] + "0")):
            answer = client.ask(method, client.path(action), {}, body, token=token)
            _problem(answer, 401, f"{method} {action} with {words}")


def same_refusal(client: DeviceClient) -> None:
    answers = [
        client.ask("GET", client.path("desired", device), {}, token="0").body  # noqa: S106 - a wrong one
        for device in (client.device, "praetor-conformance.does-not-exist")
    ]
    expect(answers[0] == answers[1], "the answer to a wrong token says which devices exist")


def one_device_each(client: DeviceClient) -> None:
    if client.shared:
        raise Skipped("the token is the fleet's shared one")
    answer = client.ask("GET", client.path("desired", f"not-{client.device}"[:253]), {})
    expect(answer.status == 401, f"another device's state is answered with {answer.status}; is it --shared-token?")


def missing_paths(client: DeviceClient) -> None:
    _problem(client.ask("GET", "/v1/nothing", {}), 404, "GET /v1/nothing")
    _problem(client.ask("DELETE", client.path("desired"), {}), 405, "DELETE desired")
    _problem(client.ask("GET", client.path("report"), {}), 405, "GET report")


def plain_names(client: DeviceClient) -> None:
    first = f"%{ord(client.device[0]):02x}{client.device[1:]}"
    for name in (first, f"{client.device}%2f..", client.device.upper() + "_"):
        answer = client.ask("GET", client.path("desired", name), {})
        expect(answer.status in (400, 404), f"the name {name} is answered with {answer.status}")


def one_connection(client: DeviceClient) -> None:
    with client.connect() as sock:
        raw = f"GET {client.path('desired')} HTTP/1.1\r\nHost: {client.host}\r\nX-Device-Token: {client.token}\r\n\r\n"
        for number in (1, 2, 3):
            answer = client.send(raw.encode(), sock=sock)
            expect(answer.status in (200, 429), f"request {number} on a connection is answered with {answer.status}")


def prior_knowledge(client: DeviceClient) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    _status(client.send(preface), 505, "the preface of HTTP/2")


def absolute_form(client: DeviceClient) -> None:
    _status(client.ask("GET", f"http://{client.host}{client.path('desired')}", {}), 200, "GET http://…/desired")


def ignores_upgrades(client: DeviceClient) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    _status(client.desired(**headers), 200, "Upgrade: h2c")


def large_heads(client: DeviceClient) -> None:
    _status(client.desired(X_Padding="x" * 17 * 1024), 431, "a head of 17 KiB")
    _status(client.desired(**{f"X-{number}": "x" for number in range(120)}), 431, "a head of 120 lines")


def upper_case(client: DeviceClient) -> None:
    _status(client.ask("get", client.path("desired"), {}), 400, "the method get")


def ignores_replays(client: DeviceClient) -> None:
    report: Mapping[str, object] = {"bootID": f"conformance-{time.time_ns()}", "seq": 7}
    for _ in range(2):
        _acknowledged(client.post("report", report), "a report that is sent twice")


def too_fast(client: DeviceClient) -> None:
    raw = f"POST {client.path('connect')} HTTP/1.1\r\nHost: {client.host}\r\nX-Device-Token: {client.token}\r\n"
    whole = f"{raw}Content-Length: 0\r\n\r\n".encode()
    for _ in range(MOST_REQUESTS):
        answer = client.send(whole)
        if answer.status != 200:
            _problem(answer, 429, "requests in a row")
            after = answer.headers.get("retry-after", "is missing")
            expect(after.isdigit() and int(after) > 0, f"Retry-After {after}")
            return
    raise Skipped(f"{MOST_REQUESTS} requests in a row were not too fast; see --device-rate of the gateway")


_TABLE: Sequence[tuple[str, str, Callable[[DeviceClient], None]]] = (
    ("etag", "200 the desired state, with a strong ETag", strong_etag),
    ("device", "deviceName is the device of the path.", names_the_device),
    ("order", "Items are sorted by namespace and name.", items_in_order),
    ("known", "304 If-None-Match names the current ETag", known_etag),
    ("hold", "the answer has Preference-Applied: wait=N", held_poll),
    ("at-once", "Without it the gateway answers at once.", not_held),
    ("poll", "has Praetor-Heartbeat-Interval: N", takes_polls),
    ("connect", "with an empty body or {}; the answer is that of a report", connects),
    ("report", "A report is accepted when the answer is 200 and ack is true.", accepts),
    ("same-etag", "desiredETag saves a poll when nothing changed.", saves_a_poll),
    ("unknown", "Unknown fields are ignored on both sides", ignores_unknown),
    ("vectors", "A report of the vectors is answered as they say.", answers_vectors),
    ("rejected", "observations that were refused; the others were accepted", rejects_one),
    ("replay", "not newer than the last one of the same boot is ignored", ignores_replays),
    ("fields", "400 the request does not fit; errors names each field", names_each_field),
    ("many", "64 observations a report", limits_observations),
    ("large", "413, 415, 431 the body is too large", limits_bodies),
    ("encoded", "it is encoded", refuses_encoded),
    ("token", "401 no token, a wrong one or a revoked one", refuses_tokens),
    ("secrecy", "the same for devices that do not exist", same_refusal),
    ("others", "The token of a device is refused for every other device", one_device_each),
    ("path", "404, 405 there is no such path; wrong method", missing_paths),
    ("name", "RFC 1123 subdomain of at most 253 characters, never percent-encoded", plain_names),
    ("keep", "between two requests 75 s", one_connection),
    ("http2", "HTTP/2 with prior knowledge gets a 505", prior_knowledge),
    ("absolute", "A target in absolute form is served as one in origin form.", absolute_form),
    ("upgrade", "an Upgrade is ignored", ignores_upgrades),
    ("head", "16 KiB and 100 lines 431, and the connection ends", large_heads),
    ("method", "in upper case 400", upper_case),
    ("rate", "20 at once 429 with Retry-After", too_fast),
)
GATEWAY_CHECKS: Sequence[GatewayCheck] = tuple(Check(*row) for row in _TABLE)
"""In this order: the last one makes the next seconds' requests too fast."""
