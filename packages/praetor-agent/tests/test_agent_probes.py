# SPDX-License-Identifier: Apache-2.0
"""Health checks over the network against servers on real sockets, good and bad ones."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, certificates, item, process_spec, running_agent
from praetor_agent.backends.probes import MAX_UNWANTED, Prober, last_line
from praetor_api.spec import HealthCheck, HttpGetProbe, HttpHeader, HttpScheme, TcpSocketProbe

TIMEOUT = 3600
"""So long that nothing ends by itself within a test."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

Serve = Callable[[socket.socket, bytes], None]


class Server:
    """Gives each connection on 127.0.0.1 and what it asked first to *serve*; with *context*, after a handshake."""

    def __init__(self, serve: Serve, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[bytes] = []
        self.came, self.left = Event(), Event()
        self._serve, self._context = serve, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                peer = self._context.wrap_socket(peer, server_side=True)
            with peer:
                request = b""
                while b"\r\n\r\n" not in request and (chunk := peer.recv(65536)):
                    request += chunk
                    if request.startswith(b"\x16"):  # a TLS handshake
                        break
                self.asked.append(request)
                self.came.set()
                self._serve(peer, request)
        self.left.set()


@contextmanager
def serving(serve: Serve, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(serve, context)
    try:
        yield server
    finally:
        server.close()


def answering(answer: bytes) -> Serve:
    return lambda peer, _: peer.sendall(answer)


def http(port: int, **fields: Any) -> HealthCheck:
    return HealthCheck(http_get=HttpGetProbe(port=port, **fields), timeout_seconds=TIMEOUT)


def tcp(port: int, host: str = "127.0.0.1") -> HealthCheck:
    return HealthCheck(tcp_socket=TcpSocketProbe(port=port, host=host), timeout_seconds=TIMEOUT)


class Probed:
    """One prober; `ended` is set whenever a check over the network ends."""

    def __init__(self) -> None:
        self.ended = Event()
        self.prober = Prober(self.ended.set)

    def problem(self, check: HealthCheck, uid: str = "uid") -> str | None:
        """Make *check* and return why it failed."""
        assert self.prober.start(uid, "h", check, 0.0) is None
        while uid not in (results := self.prober.results(0.0)):
            assert self.ended.wait(WITHIN_SECONDS)
            self.ended.clear()
        return results[uid].problem

    def timed_out(self, check: HealthCheck, hangs: Event) -> str | None:
        """Return the problem of *check* when its time is over, once *hangs* is set; its thread must have ended."""
        self.ended.clear()
        assert self.prober.start("uid", "h", check, 0.0) is None
        assert hangs.wait(WITHIN_SECONDS)
        assert self.prober.results(TIMEOUT - 1) == {}
        assert self.prober.next_deadline() == TIMEOUT
        problem = self.prober.results(TIMEOUT)["uid"].problem
        assert self.ended.wait(WITHIN_SECONDS)
        return problem


@pytest.fixture
def probed() -> Probed:
    return Probed()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(OK, None, id="200"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nall is well", None, id="until-the-end"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", None, id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\n\r\n", None, id="304"),
        pytest.param(b"HTTP/1.1 302 Found\r\n\r\n", None, id="302-to-nowhere"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, None, id="100-then-200"),
        pytest.param(AWAY, " answered 503: Service Unavailable", id="503"),
        pytest.param(b"HTTP/1.1 404 \x1b[31mNot\x07 here\r\n\r\n", " answered 404: Not here", id="404-in-colours"),
        pytest.param(b"HTTP/1.1 500\r\n\r\n", " answered 500", id="500-without-words"),
        pytest.param(b"HTTP/1.1 500 " + b"x" * 9999 + b"\r\n\r\n", " answered 500: " + "x" * 200, id="500-long"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", " failed: SSH-2.0-OpenSSH_9.2", id="no-http"),
        pytest.param(b"", " failed (Remote end closed connection without response)", id="closed"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", " failed: the answer was cut off", id="cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, " failed: got more than 100 headers", id="headers"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", " failed: Invalid IPv6 URL", id="to-what-is-no-url"
        ),
    ],
)  # fmt: skip
def test_the_status_of_the_answer_is_the_health(probed: Probed, answer: bytes, problem: str | None) -> None:
    with serving(answering(answer)) as server:
        expected = None if problem is None else f"httpGet 127.0.0.1:{server.port}{problem}"
        assert probed.problem(http(server.port)) == expected


def test_what_is_asked_is_a_plain_get_with_the_given_headers_and_no_proxy(
    probed: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(answering(OK)) as server:
        assert probed.problem(http(server.port)) is None
        headers = tuple(HttpHeader(name=name, value=f"{name}-1") for name in ("host", "X-A", "User-Agent", "X-A"))
        assert probed.problem(http(server.port, path="/ready?deep=1", http_headers=headers)) is None
    plain, full = (request.decode().split("\r\n") for request in server.asked)
    assert (plain[0], full[0]) == ("GET / HTTP/1.1", "GET /ready?deep=1 HTTP/1.1")
    assert f"Host: 127.0.0.1:{server.port}" in plain
    assert [line.partition("/")[0] for line in plain if line.startswith("User-Agent")] == ["User-Agent: praetor-agent"]
    assert sorted(full[1:-2]) == [
        "Accept: */*", "Connection: close", "User-Agent: User-Agent-1", "X-A: X-A-1", "X-A: X-A-1", "host: host-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("location", "requests", "problem"),
    [
        pytest.param("/new?x=1", 2, " answered 503: Service Unavailable", id="here"),
        pytest.param("http://127.0.0.1:{port}/new", 2, " answered 503: Service Unavailable", id="same-host"),
        pytest.param("http://localhost:{port}/new", 1, None, id="another-host"),
        pytest.param("ftp://127.0.0.1:{port}/new", 1, None, id="another-scheme"),
        pytest.param("/", 11, " redirects more than 10 times", id="loop"),
    ],
)
def test_redirects_are_followed_on_the_same_host_only(
    probed: Probed, location: str, requests: int, problem: str | None
) -> None:
    def serve(peer: socket.socket, request: bytes) -> None:
        there = location.format(port=server.port)
        peer.sendall(AWAY if b" /new" in request else f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode())

    with serving(serve) as server:
        expected = None if problem is None else f"httpGet 127.0.0.1:{server.port}{problem}"
        assert probed.problem(http(server.port)) == expected
    assert len(server.asked) == requests


def trickle(peer: socket.socket, _: bytes) -> None:
    """Send a header one byte at a time, without an end."""
    peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    with suppress(OSError):
        peer.settimeout(0.05)
        while True:
            peer.sendall(b"x")
            with suppress(TimeoutError, socket.timeout):
                if not peer.recv(1):
                    return


def wait_for_the_end(peer: socket.socket, _: bytes) -> None:
    peer.recv(1)


@pytest.mark.parametrize("serve", [pytest.param(trickle, id="trickle"), pytest.param(wait_for_the_end, id="silence")])
def test_a_slow_answer_is_bounded_as_a_whole_and_hung_up_on(probed: Probed, serve: Serve) -> None:
    with serving(serve) as server:
        problem = probed.timed_out(http(server.port), server.came)
        assert server.left.wait(WITHIN_SECONDS)  # nothing is left open at the server either
    assert problem == f"no answer within {TIMEOUT} s"


def test_an_answer_that_comes_too_late_is_none(probed: Probed) -> None:
    with serving(wait_for_the_end) as server:
        check = HealthCheck(http_get=HttpGetProbe(port=server.port), timeout_seconds=1)
        assert probed.problem(check) == "no answer within 1 s"


def test_a_probe_that_is_no_longer_needed_is_hung_up_on(probed: Probed) -> None:
    with serving(wait_for_the_end) as server:
        assert probed.prober.start("uid", "h", http(server.port), 0.0) is None
        assert server.came.wait(WITHIN_SECONDS)
        probed.prober.forget("uid")
        assert server.left.wait(WITHIN_SECONDS)
    assert probed.prober.results(TIMEOUT) == {}


def test_no_more_of_a_body_is_read_than_its_beginning(probed: Probed) -> None:
    def endless(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with serving(endless) as server:
        assert probed.problem(http(server.port)) is None
        assert server.left.wait(WITHIN_SECONDS)


def reset(peer: socket.socket, _: bytes) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_connection_that_is_reset_fails(probed: Probed) -> None:
    with serving(reset) as server:
        assert probed.problem(http(server.port)) == f"httpGet 127.0.0.1:{server.port} failed (Connection reset by peer)"


def test_a_certificate_is_not_verified_but_a_server_without_tls_fails(probed: Probed, tmp_path: Path) -> None:
    _, certificate = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(answering(AWAY), context) as server:
        problem = probed.problem(http(server.port, scheme=HttpScheme.HTTPS, host="localhost"))
        assert problem == f"httpGet localhost:{server.port} answered 503: Service Unavailable"
    with serving(answering(OK), context) as server:
        assert probed.problem(http(server.port, scheme=HttpScheme.HTTPS)) is None
    with serving(lambda peer, _: peer.sendall(b"no TLS here\r\n")) as server:
        problem = probed.problem(http(server.port, scheme=HttpScheme.HTTPS)) or ""
        assert problem.startswith(f"httpGet 127.0.0.1:{server.port} failed (")


def test_a_handshake_that_hangs_is_hung_up_on(probed: Probed) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    came = Event()

    def accept() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1)
            came.set()
            while peer.recv(65536):
                pass

    Thread(target=accept, daemon=True).start()
    with listener:
        check = http(listener.getsockname()[1], scheme=HttpScheme.HTTPS)
        assert probed.timed_out(check, came) == f"no answer within {TIMEOUT} s"


def test_a_port_that_takes_connections_is_healthy(probed: Probed) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])
    with listener:
        assert probed.problem(tcp(port)) is None
        assert probed.problem(tcp(port, "localhost")) is None  # by its second address, where ::1 is the first
    assert probed.problem(tcp(port)) == f"tcpSocket 127.0.0.1:{port} failed (Connection refused)"


def test_a_host_that_can_have_no_address_fails(probed: Probed) -> None:
    host = "a" * 64 + ".invalid"
    assert (probed.problem(tcp(80, host)) or "").startswith(f"tcpSocket {host}:80 failed: ")


def test_threads_that_wait_for_a_name_server_do_not_pile_up(probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, waiting = Event(), Event()

    def resolver(*_: object, **__: object) -> list[Any]:
        waiting.set()
        answers.wait(WITHIN_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    for _ in range(MAX_UNWANTED):
        waiting.clear()
        assert probed.prober.start("uid", "h", tcp(80, "slow.example"), 0.0) is None
        assert waiting.wait(WITHIN_SECONDS)
        assert probed.prober.results(TIMEOUT)["uid"].problem == f"no answer within {TIMEOUT} s"
    assert probed.prober.start("uid", "h", tcp(80, "slow.example"), 0.0) == "the name server does not answer"
    answers.set()
    problem = probed.problem(tcp(80, "slow.example"), uid="other")
    assert problem == "tcpSocket slow.example:80 failed (Temporary failure in name resolution)"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("starting\nno link on eth0\n\n", "no link on eth0"),
        ("no link\r\n", "no link"),
        ("no link\n\x1b[0m\n", "no link"),
        ("\x1b[1;31mno\x07 link\x1b[0m", "no link"),
        ("is\tno\u202elink", "is no link"),
        ("x" * 500, "x" * 200),
    ],
)
def test_of_what_a_probe_said_the_last_line_is_kept(said: str, line: str) -> None:
    assert last_line(said) == line


def test_health_over_the_network_is_reported_at_once(tmp_path: Path) -> None:
    answer = [AWAY]
    with serving(lambda peer, _: peer.sendall(answer[0])) as server, FakeGateway(token="t") as gateway:
        check = {"httpGet": {"port": server.port}, "periodSeconds": 1, "failureThreshold": 1}
        gateway.heartbeat_seconds = 3600
        spec = process_spec("sleep", "1000")
        several = {**check, "exec": {"command": ["true"]}}
        gateway.desire(item("a", spec | {"healthCheck": check}), item("b", spec | {"healthCheck": several}))
        with running_agent(gateway, tmp_path / "state"):
            gateway.wait_for(lambda: seen(gateway, "a")[0] is False, "unhealthy")
            message = f"health check failed: httpGet 127.0.0.1:{server.port} answered 503: Service Unavailable"
            assert seen(gateway, "a") == (False, message)
            answer[0] = OK
            gateway.wait_for(lambda: seen(gateway, "a") == (True, ""), "healthy")
            answer[0] = b""
            gateway.wait_for(lambda: seen(gateway, "a")[0] is False, "unhealthy again")
            assert "closed connection" in seen(gateway, "a")[1]
            assert "write exactly one of exec, httpGet and tcpSocket" in seen(gateway, "b")[1]


def seen(gateway: FakeGateway, name: str) -> tuple[bool | None, str]:
    observation = gateway.observations.get(name)
    return (None, "") if observation is None else (observation.healthy, observation.error_message or "")
