# SPDX-License-Identifier: Apache-2.0
"""A gateway on loopback that speaks the real protocol, for tests: long polls, ETags, and faults on demand."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Any

import pytest

from praetor_agent.backends import procfs
from praetor_agent.backends.command import Command
from praetor_agent.backends.process import ProcessBackend
from praetor_api.backports import dataclass
from praetor_api.canonical import desired_etag, etag_matches, spec_hash
from praetor_api.protocol import (
    DEFAULT_HEARTBEAT_SECONDS,
    INTERVAL_HEADER,
    POLL_HEADER,
    RESYNC_HEADER,
    TOKEN_HEADER,
    Observation,
    Report,
    read_report,
)
from praetor_api.wire import parse_json

WITHIN_SECONDS = 300.0
"""Seconds that an overloaded machine may take to start an agent."""

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer that replaces the right one for the next *times* requests whose path ends in *path*."""

    path: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    times: int = 1


def _digest(item: Mapping[str, Any]) -> str:
    return f" {item['valuesHash']}" if "valuesHash" in item else ""


class FakeGateway:
    """Serves one desired state to every device and keeps what was reported. A context manager."""

    def __init__(
        self,
        *,
        token: str | None = None,
        heartbeat_seconds: int = DEFAULT_HEARTBEAT_SECONDS,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
    ) -> None:
        self.token = token
        self.heartbeat_seconds = heartbeat_seconds
        self.resync = False
        self.quiet = False  # whether polls are heartbeats
        self.numbers: list[str] = []  # of the polls that are
        self.reports: list[Report] = []
        self.observations: dict[str, Observation] = {}
        self.history: list[Observation] = []
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.sources: dict[str, set[int]] = {}  # ports of the connections, by address
        self.connections = 0  # that are open
        self.changed = Condition()
        self._items: tuple[dict[str, Any], ...] = ()
        self._faults: list[Fault] = []
        self._closing = False
        self._host = f"[{host}]" if ":" in host else host
        self._scheme = "https" if certificate else "http"
        self._server = (_Server6 if ":" in host else _Server)((host, 0), _handler(self))
        if certificate is not None:
            _use_tls(self._server, certificate)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://{self._host}:{self._server.server_address[1]}"

    @property
    def etag(self) -> str:
        """The ETag of what is desired now."""
        return desired_etag(
            (item["uid"], item["namespace"], item["name"], item["generation"], item["specHash"] + _digest(item))
            for item in self._items
        )

    def desire(self, *items: dict[str, Any]) -> None:
        """Change what is desired and answer every poll that waits."""
        with self.changed:
            self._items = items
            self.changed.notify_all()

    def fail(self, *faults: Fault) -> None:
        """Answer coming requests with *faults*."""
        with self.changed:
            self._faults += faults

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = WITHIN_SECONDS) -> None:
        """Return when *condition* holds, checked after each request; AssertionError after *seconds*."""
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise AssertionError(f"never came: {what}; observations: {self.observations}")

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return status, headers and body of the answer to one request."""
        with self.changed:
            self.requests.append((method, path, headers))
            self.changed.notify_all()
            fault = self._fault(path)
            if fault is not None:
                return fault.status, fault.headers, fault.body
            if self.token is not None and headers.get(TOKEN_HEADER) != self.token:
                return 401, {}, b'{"title": "Unauthorized", "status": 401}'
            if method == "GET":
                return self._desired(path.split("/")[3], headers)
            return self._posted(path, body)

    def _fault(self, path: str) -> Fault | None:
        for index, fault in enumerate(self._faults):
            if path.endswith(fault.path):
                left = fault.times - 1
                self._faults[index : index + 1] = [Fault(**{**vars(fault), "times": left})] if left else []
                return fault
        return None

    def _desired(self, device: str, headers: Mapping[str, str]) -> Answer:
        wait = headers.get("Prefer", "").removeprefix("wait=")
        known, extra = headers.get("If-None-Match"), {}
        if wait.isdigit():
            extra["Preference-Applied"] = f"wait={wait}"
        number = headers.get(POLL_HEADER)
        if self.quiet and number is not None:
            self.numbers.append(number)
            extra[INTERVAL_HEADER] = str(self.heartbeat_seconds)
            if self.resync:
                self.resync = False
                return 304, {"ETag": self.etag, **extra, RESYNC_HEADER: "1"}, b""
        if wait.isdigit():
            self.changed.wait_for(lambda: self._closing or not etag_matches(known, self.etag), float(wait))
        if etag_matches(known, self.etag):
            return 304, {"ETag": self.etag, **extra}, b""
        body = {
            "deviceName": device,
            "heartbeatIntervalSeconds": self.heartbeat_seconds,
            "pollIsHeartbeat": self.quiet,
            "items": list(self._items),
        }
        return 200, {"ETag": self.etag, **extra}, json.dumps(body).encode()

    def _posted(self, path: str, body: bytes) -> Answer:
        ack = {
            "ack": True,
            "desiredETag": self.etag,
            "heartbeatIntervalSeconds": self.heartbeat_seconds,
            "pollIsHeartbeat": self.quiet,
            "resync": self.resync,
        }
        if path.endswith("/report"):
            report, observations, _ = read_report(parse_json(body))
            self.reports.append(report)
            self.history += observations
            self.observations |= {seen.name: seen for seen in observations}
            self.resync = False
            self.changed.notify_all()
        return 200, {}, json.dumps(ack).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # many devices come at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closed its connection."""


def _use_tls(server: _Server, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


class _Server6(_Server):
    address_family = socket.AF_INET6


def item(name: str, spec: Mapping[str, Any], *, uid: str = "", generation: int = 1) -> dict[str, Any]:
    """Return a desired item as the gateway writes it."""
    return {
        "uid": uid or f"uid-{name}",
        "namespace": "default",
        "name": name,
        "generation": generation,
        "spec": dict(spec),
        "specHash": spec_hash(spec),
    }


def process_spec(*command: str, **more: Any) -> dict[str, Any]:
    """Return the spec of *command* under the backend `process`; *more* are further fields of the spec."""
    execution = {"backend": "process", "command": list(command), "terminationGracePeriodSeconds": 5}
    return {"execution": execution | more.pop("execution", {})} | more


def until(condition: Callable[[], bool], what: str, seconds: float = WITHIN_SECONDS) -> None:
    """Return when *condition* holds, checked often; AssertionError after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.01)


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self) -> None:
            self._connected(1)
            try:
                super().handle()
            finally:
                self._connected(-1)

        def _connected(self, more: int) -> None:
            with gateway.changed:
                gateway.connections += more
                gateway.changed.notify_all()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host, port = self.client_address[:2]
            gateway.sources.setdefault(str(host), set()).add(port)
            status, headers, content = gateway.answer(self.command, self.path, dict(self.headers.items()), body)
            with suppress(ConnectionError):  # an agent that was killed does not wait for its answer
                self._send(status, headers, content)

        def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in ({"Date": self.date_time_string()} | dict(headers)).items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def running_agent(
    gateway: FakeGateway,
    state: Path,
    *flags: str,
    program: Sequence[str] = ("-m", "praetor_agent"),
    log: Path = Path(os.devnull),
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent of the device leaf-1, whose token is `t`, in a process of its own; its processes end with it.

    *program* are the words for Python that start it, and *log* is where it logs.
    """
    command = (
        sys.executable, *program, "run", "--gateway", gateway.url, "--device", "leaf-1",
        "--state-dir", str(state), "--start-splay", "0", *flags,
    )  # fmt: skip
    environment = {**os.environ, "PRAETOR_AGENT_TOKEN": "t", **environment}
    with log.open("ab") as errors:
        agent = subprocess.Popen(command, env=environment, stderr=errors)
    try:
        yield agent
    finally:
        agent.kill()
        agent.wait(WITHIN_SECONDS)
        end_processes(state)


def end_processes(state: Path) -> None:
    """Kill the processes that an agent left running."""
    backend = ProcessBackend(state / "processes", procfs.boot_id() or "")
    for uid in backend.observe():
        backend.stop(uid, grace_seconds=0, force=True)


@contextmanager
def http_server(serve: Callable[[BaseHTTPRequestHandler], None], certificate: Path | None = None) -> Iterator[str]:
    """Answer each GET on loopback with *serve*, and yield host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # an agent that was killed does not listen
                serve(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            _use_tls(server, certificate)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def respond(
    status: int, body: bytes = b"", headers: Mapping[str, str | None] | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return what answers a request so; a header of None is left out."""

    def serve(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return serve


def command(*argv: str, **more: Any) -> Command:
    """Return a service of the agent's own user; *more* are further fields."""
    plain: dict[str, Any] = {
        "uid": "u1", "namespace": "net", "name": "fw", "spec_hash": "v1", "env": {"PATH": "/bin:/usr/bin"},
        "working_dir": "/", "user": None, "resources": None, "grace_seconds": 5, "at_boot": True,
    }  # fmt: skip
    return Command(argv=argv, **plain | more)


def certificates(place: Path) -> tuple[Path, Path]:
    """Create a CA certificate that no device trusts, and a certificate with key for 127.0.0.1 that it signed."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    commands = (
        ("req", "-x509", *key, "-subj", "/CN=our authority", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", *key[:-2], "-subj", "/CN=server", "-keyout", "key.pem", "-out", "request.pem"),
        ("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "cert.pem"),
    )  # fmt: skip
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for words in commands:
        subprocess.run(("openssl", *words), cwd=place, check=True, capture_output=True)
    served = place / "served.pem"
    served.write_text((place / "key.pem").read_text() + (place / "cert.pem").read_text())
    return place / "ca.pem", served


class FakeClock:
    """Both clocks of a device, set by the test: *seconds* since its boot, and the *time* of day."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.time = datetime(2025, 1, 31, 12, tzinfo=timezone.utc)

    def now(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        return self.time


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """Mount a small file system at *place*."""
    place.mkdir()
    done = subprocess.run(("mount", *options, str(place)), capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user cannot mount")
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(place)), check=True)
