# SPDX-License-Identifier: Apache-2.0
"""False and missed disconnections of simulated devices, by what their statuses say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Condition
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent_testing import WITHIN_SECONDS, FakeClock, FakeGateway, http_server, item, process_spec, respond, until
from praetor_agent.errors import AgentError
from praetor_agent.simulate import statuses
from praetor_agent.simulate.device import SimulatedDevice, SimulatedFleet
from praetor_agent.simulate.disconnections import Called, Contact, Disconnections
from praetor_agent.simulate.flags import settings_of
from praetor_agent.simulate.http import Endpoint, Link
from praetor_agent.simulate.statistics import Census, Histogram, Tally, as_json, table
from praetor_agent.simulate.statuses import PLURALS, Statuses

LIMIT = 45.0


def judged(contact: Contact | None, *calls: Called, known_until: float = 1e9) -> Disconnections:
    found = Disconnections()
    found.follow([] if contact is None else [contact], calls)
    found.decide(known_until)
    return found


def lost(at: float, connected: str = "False") -> Called:
    return Called("leaf-1", connected, lost=True, at=at)


@pytest.mark.parametrize(
    ("contact", "at", "false"),
    [
        (Contact("leaf-1", 100.0, None, LIMIT), 145.0, 1),
        (Contact("leaf-1", 100.0, None, LIMIT), 144.0, 0),  # it may have been decided before it was heard
        (Contact("leaf-1", 100.0, 200.0, LIMIT), 244.0, 1),  # too early
        (Contact("leaf-1", 100.0, 200.0, LIMIT), 245.0, 0),
        (Contact("leaf-1", 100.0, 200.0, LIMIT, silent=True), 245.0, 0),
        (Contact("leaf-1", 100.0, 100.0, LIMIT, silent=True), 300.0, 0),  # it never connected
        (Contact("leaf-2", 100.0, None, LIMIT), 300.0, 0),
        (None, 300.0, 0),
    ],
)
def test_a_disconnection_is_false_if_the_device_was_heard_for_a_limit_before_and_still_was(
    contact: Contact | None, at: float, false: int
) -> None:
    assert judged(contact, lost(at)).as_json(400.0)["false"] == false


def test_each_false_disconnection_counts_also_one_that_is_over_already() -> None:
    found = judged(Contact("leaf-1", 0.0, None, LIMIT), lost(100.0), lost(200.0, "True"))
    said = found.as_json(300.0)
    assert (said["false"], said["falseDevices"], said["statuses"]) == (2, ["leaf-1"], 1)
    assert judged(Contact("leaf-1", 0.0, None, LIMIT), Called("leaf-1", "False", False, 9e5)).as_json(1e6)["false"] == 0


def test_a_call_is_decided_on_when_what_the_devices_did_until_then_is_known() -> None:
    found = judged(Contact("leaf-1", 0.0, None, LIMIT), lost(100.0), known_until=99.0)
    assert found.as_json(100.0)["false"] == 0
    found.follow([Contact("leaf-1", 0.0, 50.0, LIMIT)], ())
    found.decide(101.0)
    assert found.as_json(101.0)["false"] == 0


@pytest.mark.parametrize(
    ("contact", "connected", "now", "missed"),
    [
        (Contact("leaf-1", 0.0, 100.0, LIMIT, silent=True), "True", 246.0, ["leaf-1"]),
        (Contact("leaf-1", 0.0, 100.0, LIMIT, silent=True), "True", 245.0, []),
        (Contact("leaf-1", 0.0, 100.0, LIMIT, silent=True), "False", 999.0, []),
        (Contact("leaf-1", 0.0, 100.0, LIMIT, silent=True), "Unknown", 999.0, []),
        (Contact("leaf-1", 0.0, 100.0, LIMIT, silent=True), "", 999.0, []),
        (Contact("leaf-1", 0.0, 100.0, LIMIT), "True", 999.0, []),  # its network is broken, not the device
        (Contact("leaf-1", 0.0, None, LIMIT), "True", 999.0, []),
    ],
)
def test_a_device_that_is_silent_on_purpose_is_missed_when_its_status_says_connected_for_too_long(
    contact: Contact, connected: str, now: float, missed: list[str]
) -> None:
    said = judged(contact, Called("leaf-1", connected, lost=False, at=1.0)).as_json(now)
    assert (said["missed"], said["missedDevices"]) == (len(missed), missed)


def a_device(*flags: str) -> SimulatedDevice:
    fleet = SimulatedFleet(
        settings=settings_of(["--gateway", "http://127.0.0.1:1", "--count", "1", *flags]),
        link=Link(endpoints=[Endpoint(host="127.0.0.1", port=1)]),
        clock=FakeClock(),
        tally=Tally,
        most_reporting=1,
        crowded=False,
    )
    return SimulatedDevice("sim-1", None, fleet, 0)


def test_a_contact_breaks_after_a_limit_without_an_answer_and_begins_again_with_the_next_one() -> None:
    device = a_device()
    assert device.contact(1000.0) is None
    device._was_heard(1000.0)
    assert device.contact(1000.0) == Contact("sim-1", 1000.0, None, LIMIT)
    device._was_heard(1045.0)
    assert device.contact(1090.0) is None  # nothing is new
    assert device.contact(1091.0) == Contact("sim-1", 1000.0, 1045.0, LIMIT)
    device._fleet.clock.seconds = 1100.0  # type: ignore[attr-defined]
    device._was_heard(1099.0)
    assert device.contact(1100.0) == Contact("sim-1", 1100.0, None, LIMIT)
    device.silent = True
    assert device.contact(1101.0) == Contact("sim-1", 1100.0, 1099.0, LIMIT, silent=True)
    assert a_device("--dead-rate", "1").contact(1001.0) == Contact("sim-1", 1000.0, 1000.0, LIMIT, silent=True)


def test_the_summary_says_both_counts_with_names_within_80_columns() -> None:
    found = Disconnections()
    names = [f"a-device-with-a-long-name-{number}" for number in range(20)]
    found.follow(
        [Contact(name, 0.0, None, LIMIT) for name in names], [Called(name, "False", True, 99.0) for name in names]
    )
    found.decide(100.0)
    said = {**found.as_json(100.0), "failure": None}
    text = table(as_json(Census(), Tally(), Histogram(), 1.0, said))
    assert "disconnections: 20 false, 0 missed, by the statuses of 20 devices" in text
    assert "false: a-device-with-a-long-name-0, " in text
    assert len(said["falseDevices"]) == 10
    assert "statuses out of date" not in text
    out_of_date = table(as_json(Census(), Tally(), Histogram(), 1.0, {**said, "failure": "Connection refused " * 9}))
    assert "statuses out of date: Connection refused" in out_of_date
    assert max(map(len, out_of_date.splitlines())) <= 80
    assert "disconnections" not in table(as_json(Census(), Tally(), Histogram(), 1.0))


class FakeApi:
    """Serves NetworkSwitches as an API server does: lists in pages, and watches that begin at a version."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.page = 500
        self._changed = Condition()
        self._version = 1
        self._items: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._ended = 0

    def set(self, name: str, connected: str, time: str = "t1") -> None:
        """Write the status of a device."""
        condition = {"type": "AgentConnected", "status": connected, "lastTransitionTime": time}
        kind = "MODIFIED" if name in self._items else "ADDED"
        with self._changed:
            self._version += 1
            metadata = {"name": name, "resourceVersion": str(self._version)}
            self._items[name] = {"metadata": metadata, "status": {"conditions": [condition]}}
            self._tell({"type": kind, "object": self._items[name]})

    def delete(self, name: str) -> None:
        """Delete a device."""
        with self._changed:
            self._version += 1
            gone = self._items.pop(name)
            gone["metadata"]["resourceVersion"] = str(self._version)
            self._tell({"type": "DELETED", "object": gone})

    def forget(self) -> None:
        """Forget all events, as after a compaction, and end the watches with that."""
        with self._changed:
            self._version += 1
            self._events.clear()
            self._tell({"type": "ERROR", "object": {"code": 410}})

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self._changed:
            self.requests.append(handler.path)
        if not url.path.endswith("/networkswitches"):
            respond(404)(handler)
        elif "watch" in query:
            self._watch(handler, int(query["resourceVersion"]))
        else:
            self._list(handler, int(query["limit"]), query.get("continue", ""))

    def _tell(self, event: dict[str, Any]) -> None:
        self._events.append((self._version, json.loads(json.dumps(event))))
        self._changed.notify_all()

    def _list(self, handler: BaseHTTPRequestHandler, limit: int, after: str) -> None:
        with self._changed:
            names = [name for name in sorted(self._items) if name > after]
            some = names[: min(limit, self.page)]
            metadata = {"resourceVersion": str(self._version), "continue": some[-1] if some != names else ""}
            body = {"metadata": metadata, "items": [{"metadata": {"name": name}, **self._items[name]} for name in some]}
        respond(200, json.dumps(body).encode())(handler)

    def _after(self, version: int) -> list[tuple[int, dict[str, Any]]]:
        return [(at, event) for at, event in self._events if at > version]

    def _watch(self, handler: BaseHTTPRequestHandler, version: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            with self._changed:
                while not (found := self._after(version)):
                    self._changed.wait()
            for at, event in found:
                version = at
                line = json.dumps(event).encode() + b"\n"
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                if event["type"] == "ERROR":
                    handler.wfile.write(b"0\r\n\r\n")
                    return


@contextmanager
def followed(api: FakeApi, *devices: str) -> Iterator[Statuses]:
    with http_server(api.serve) as host:
        found = Statuses(f"http://{host}", "net", devices, FakeClock())
        found.begin()
        found.follow()
        yield found


def calls(following: Statuses, count: int) -> list[tuple[str, str, bool]]:
    found: list[Called] = []

    def enough() -> bool:
        found.extend(following.take())
        return len(found) >= count

    until(enough, f"{count} calls")
    return [(each.device, each.connected, each.lost) for each in found]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(statuses, "PAUSE_SECONDS", 0.01)


def test_statuses_are_listed_in_pages_and_watched() -> None:
    api = FakeApi()
    api.page = 2
    for number in range(1, 6):
        api.set(f"leaf-{number}", "True")
    with followed(api, "leaf-1", "leaf-5", "leaf-6") as following:
        assert calls(following, 2) == [("leaf-1", "True", False), ("leaf-5", "True", False)]
        api.set("leaf-2", "False", "t2")  # of another fleet
        api.set("leaf-5", "False", "t2")
        api.set("leaf-5", "False", "t2")  # for another reason
        api.set("leaf-6", "False", "t2")
        api.delete("leaf-1")
        expected = [("leaf-5", "False", True), ("leaf-6", "False", False), ("leaf-1", "", False)]
        assert calls(following, 3) == expected
        assert following.failure is None
    assert all("/namespaces/net/" in path for path in api.requests)


def test_after_forgotten_events_a_device_that_was_disconnected_meanwhile_is_known_by_the_time_of_its_status() -> None:
    api = FakeApi()
    api.set("leaf-1", "True", "t1")
    api.set("leaf-2", "True", "t1")
    with followed(api, "leaf-1", "leaf-2") as following:
        assert len(calls(following, 2)) == 2
        with api._changed:  # neither event is ever seen
            api._items["leaf-1"]["status"]["conditions"][0]["lastTransitionTime"] = "t3"
            api._items.pop("leaf-2")
        api.forget()
        assert calls(following, 2) == [("leaf-1", "True", True), ("leaf-2", "", False)]


def test_an_api_server_that_is_gone_is_said_and_followed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    api.set("leaf-1", "True")
    broken: list[int] = []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        respond(broken[0])(handler) if broken else api.serve(handler)

    with http_server(serve) as host:
        following = Statuses(f"http://{host}", None, ["leaf-1"], FakeClock())
        following.begin()
        following.follow()
        until(lambda: any("watch" in path for path in api.requests), "it is watched")
        broken.append(503)
        api.forget()
        until(lambda: "503" in (following.failure or ""), "it is said")
        broken.clear()
        until(lambda: following.failure is None, "it is followed again")
        api.set("leaf-1", "False", "t2")
        assert calls(following, 2)[1:] == [("leaf-1", "False", True)]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "serves no /apis/azure.com/v1alpha1; install Praetor's CRDs there"),
        (401, "cannot be read: 401"),
        (200, ""),
    ],
)
def test_an_api_server_that_cannot_be_read_is_said_before_anything_starts(status: int, said: str) -> None:
    with http_server(respond(status, b"no JSON")) as host:
        with pytest.raises(AgentError) as caught:
            Statuses(f"http://{host}", None, ["leaf-1"], FakeClock()).begin()
        assert said in str(caught.value)
    with pytest.raises(AgentError, match=r"cannot be read: .*refused.*; give the URL that kubectl proxy prints"):
        Statuses(f"http://{host}", None, ["leaf-1"], FakeClock()).begin()


def test_the_kinds_are_those_of_the_api() -> None:
    objects = pytest.importorskip("praetor_api.kube.objects")
    assert set(PLURALS) == set(objects.DEVICE_PLURALS.values())
    assert f"/apis/{objects.API_VERSION}" == statuses.API


def test_the_simulator_counts_false_and_missed_disconnections(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    for name in ("sim-1", "sim-2"):
        api.set(name, "True")
    with FakeGateway(heartbeat_seconds=1) as gateway, http_server(api.serve) as host:
        gateway.desire(item("a", process_spec("good")))
        words = ["simulate", "--gateway", gateway.url, "--count", "2", "--start-splay", "0", "--silent-on", "deadly"]
        words += ["--api", f"http://{host}", "--namespace", "net", "--output", "json", "--summary-seconds", "0.2"]
        pipe = subprocess.PIPE
        fleet = subprocess.Popen([sys.executable, "-m", "praetor_agent", *words], stdout=pipe, stderr=pipe, text=True)
        assert fleet.stdout is not None

        def found() -> dict[str, Any]:
            disconnections: dict[str, Any] = json.loads(fleet.stdout.readline())["disconnections"]  # type: ignore[union-attr]
            return disconnections

        try:
            until(lambda: found()["statuses"] == 2, "statuses are known")
            flips = iter(range(2, 10_000))

            def flip() -> int:
                api.set("sim-1", "False", f"t{next(flips)}")
                api.set("sim-1", "True", f"t{next(flips)}")
                return int(found()["false"])

            until(lambda: flip() > 0, "a device that polls is called disconnected")  # once it has polled for a limit
            gateway.desire(item("a", process_spec("deadly"), generation=2))
            until(lambda: found()["missed"] == 2, "silent devices are missed")
            api.set("sim-2", "False", "t99999")
            until(lambda: found()["missed"] == 1, "one is found")
        finally:
            fleet.send_signal(signal.SIGTERM)
            out, _ = fleet.communicate(timeout=WITHIN_SECONDS)
    last = json.loads(out.splitlines()[-1])
    assert last["final"]
    assert last["disconnections"]["falseDevices"] == ["sim-1"]
    assert last["disconnections"]["missedDevices"] == ["sim-1"]
    assert last["disconnections"]["failure"] is None
