# SPDX-License-Identifier: Apache-2.0
"""A gateway on the loopback that serves one device what a check wants, and keeps what the device sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

from attrs import field, frozen, mutable

from praetor_api.canonical import desired_etag, etag_matches
from praetor_api.protocol import (
    INTERVAL_HEADER,
    POLL_HEADER,
    RESYNC_HEADER,
    TOKEN_HEADER,
    Observation,
    Report,
    read_report,
)
from praetor_api.wire import WireError, parse_json

HEARTBEAT_S = 1
MAX_WAIT_S = 1.0
"""Longest that a poll is held, whatever the agent prefers."""
ADDED: Mapping[str, object] = {"addedLater": {"deep": [1, None]}}
"""What no version has: an agent ignores it."""


@mutable(kw_only=True)
class Request:
    """A request of the agent, when it came in seconds of this program, and its answer's status, 0 while it is held."""

    at: float
    action: str
    headers: Mapping[str, str]
    status: int = 0


@frozen(kw_only=True)
class Scripted:
    """An answer in place of the right one."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(factory=dict)


@mutable(eq=False)
class ScriptedGateway:
    """A context manager. *device* and *token* are what the agent was given; *token* may change.

    *quiet*: it takes polls for heartbeats.
    """

    device: str
    token: str = field(repr=False)
    away: bool = False
    resync: bool = False
    quiet: bool = False
    requests: list[Request] = field(factory=list)
    reports: list[tuple[Report, tuple[Observation, ...]]] = field(factory=list)
    faults: list[str] = field(factory=list)
    _items: tuple[Mapping[str, Any], ...] = ()
    _body: bytes | None = None
    _scripted: dict[str, list[Scripted]] = field(factory=dict)
    _changed: Condition = field(factory=Condition)
    _server: ThreadingHTTPServer = field(init=False)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self.away = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def etag(self) -> str:
        """The ETag of what is desired now."""
        return desired_etag(
            (item["uid"], item["namespace"], item["name"], item["generation"], item.get("specHash", ""))
            for item in self._items
        )

    def desire(self, *items: Mapping[str, Any]) -> None:
        """Change what is desired."""
        self._want(items, None)

    def serve(self, body: bytes) -> None:
        """Change what is desired to a *body* that is sent as it is; ValueError unless it is JSON with items."""
        self._want(tuple(json.loads(body)["items"]), body)

    def _want(self, items: tuple[Mapping[str, Any], ...], body: bytes | None) -> None:
        with self._changed:
            self._items, self._body = items, body
            self._changed.notify_all()

    def script(self, action: str, *answers: Scripted) -> None:
        """Answer the next requests for *action* with *answers*, also a poll that is held."""
        with self._changed:
            self._scripted.setdefault(action, []).extend(answers)
            self._changed.notify_all()

    def scripted(self, action: str) -> bool:
        """Return whether an answer of script() was not sent yet."""
        return bool(self._scripted.get(action))

    def leave(self, *, away: bool) -> None:
        """Answer no request while *away*."""
        with self._changed:
            self.away = away
            self._changed.notify_all()

    def wait(self, holds: Callable[[], object], seconds: float) -> bool:
        """Return whether *holds* became true within *seconds*; it is asked after each request."""
        with self._changed:
            return bool(self._changed.wait_for(holds, seconds))

    def of(self, action: str, status: int | None = None) -> list[Request]:
        """Return the requests for *action*, those that were answered with *status* if it is given."""
        return [each for each in self.requests if each.action == action and status in (None, each.status)]

    def complaint(self) -> str:
        """Return what was wrong with requests, if anything was, as a sentence."""
        if not self.requests:
            return "no request came"
        refused = sum(each.status == HTTPStatus.UNAUTHORIZED for each in self.requests)
        if refused:
            return f"{refused} of {len(self.requests)} requests had no token, or another one"
        return self.faults[0] if self.faults else ""

    def observations(self, name: str) -> list[Observation]:
        """Return what was reported of the process *name*, oldest first."""
        return [seen for _, found in self.reports for seen in found if seen.name == name]

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Scripted | None:
        """Return the answer to a request; None for none at all."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        came = Request(at=time.monotonic(), action=request.path.rpartition("/")[2], headers=headers)
        with self._changed:
            self.requests.append(came)
            self._changed.notify_all()
            found = self._answer(request, came.action, headers, body)
            came.status = found.status if found is not None else -1
            self._changed.notify_all()
            return found

    def _answer(
        self, request: BaseHTTPRequestHandler, action: str, headers: Mapping[str, str], body: bytes
    ) -> Scripted | None:
        if self.away:
            return None
        if request.path != f"/v1/devices/{self.device}/{action}" or action not in ("desired", "report", "connect"):
            self.faults.append(f"{request.command} {request.path} is no path of the protocol")
            return Scripted(status=404)
        if request.command != ("GET" if action == "desired" else "POST"):
            self.faults.append(f"{request.command} {action} is no method of the protocol")
            return Scripted(status=405)
        if headers.get(TOKEN_HEADER.lower()) != self.token:
            return Scripted(status=401)
        if action == "desired":
            return self._desired(headers)
        if self._scripted.get(action):
            return self._scripted[action].pop(0)
        return self._acknowledged(action, body)

    def _desired(self, headers: Mapping[str, str]) -> Scripted | None:
        known = headers.get("if-none-match")
        wait = headers.get("prefer", "").removeprefix("wait=")
        applied = {"Preference-Applied": f"wait={wait}"} if wait.isdigit() else {}
        if applied:
            self._changed.wait_for(lambda: self._is_due(known), min(float(wait), MAX_WAIT_S))
        if self.away:
            return None
        if self._scripted.get("desired"):
            return self._scripted["desired"].pop(0)
        if headers.get(TOKEN_HEADER.lower()) != self.token:
            return Scripted(status=401)
        tag = {"ETag": self.etag, **applied}
        if self.quiet and POLL_HEADER.lower() in headers:
            tag[INTERVAL_HEADER] = str(HEARTBEAT_S)
            if self.resync and etag_matches(known, self.etag):
                self.resync, tag[RESYNC_HEADER] = False, "1"
        if etag_matches(known, self.etag):
            return Scripted(status=304, body=b"", headers=tag)
        if self._body is not None:
            return Scripted(status=200, body=self._body, headers=tag)
        items = [{**item, **ADDED} for item in self._items]
        terms = {"heartbeatIntervalSeconds": HEARTBEAT_S, "pollIsHeartbeat": self.quiet}
        body = {"deviceName": self.device, **terms, "items": items, **ADDED}
        return Scripted(status=200, body=json.dumps(body).encode(), headers=tag)

    def _is_due(self, known: str | None) -> bool:
        return self.away or self.scripted("desired") or not etag_matches(known, self.etag)

    def _acknowledged(self, action: str, body: bytes) -> Scripted:
        rejected: list[dict[str, str]] = []
        if action == "report":
            try:
                report, observations, refused = read_report(parse_json(body))
            except WireError as e:
                self.faults.append(f"a report is not valid: {e}")
                return Scripted(status=400)
            self.faults.extend(f"an observation is not valid: {each.reason}" for each in refused)
            self.reports.append((report, observations))
        ack = {
            "ack": True,
            "desiredETag": self.etag,
            "heartbeatIntervalSeconds": HEARTBEAT_S,
            "pollIsHeartbeat": self.quiet,
            "resync": self.resync,
            "rejected": rejected,
            **ADDED,
        }
        if action == "report":
            self.resync = False
        return Scripted(status=200, body=json.dumps(ack).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closed its connection."""


def _handler(gateway: ScriptedGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            length = self.headers.get("Content-Length", "0")
            found = gateway.answer(self, self.rfile.read(int(length) if length.isdigit() else 0))
            if found is None:
                self.close_connection = True
                return
            self.send_response(found.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(found.body)), **found.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
