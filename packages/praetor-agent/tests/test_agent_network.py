# SPDX-License-Identifier: Apache-2.0
"""Ways to the gateway: proxies, authorities, IPv6, and what the environment says; all on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, certificates, item, process_spec, until
from praetor_agent.errors import GatewayError, UsageError
from praetor_agent.link.client import Address, GatewayClient, proxies_for
from praetor_agent.settings import gateway_url, loose_mode, proxy_of

ITEM = item("a", process_spec("sleep", "1"))
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Proxy:
    """A forward proxy on loopback that notes what it was asked for: absolute URLs, and tunnels by CONNECT."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.asked))
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(asked: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            parts = urlsplit(self.path)
            with socket.create_connection((parts.hostname or "", parts.port or 80)) as onward:
                headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                onward.sendall(f"{self.command} {parts.path} HTTP/1.0\r\n{headers}Connection: close\r\n\r\n".encode())
                while chunk := onward.recv(65536):
                    self.wfile.write(chunk)
            self.close_connection = True

        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.path}")
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as onward:
                self.send_response(200)
                self.end_headers()
                back = Thread(target=_pump, args=(onward, self.connection), daemon=True)
                back.start()
                _pump(self.connection, onward)
                back.join(5)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(name.lower() for name in VARIABLES), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


def client(url: str, proxy: str | None = None, verify: str | bool = True) -> GatewayClient:
    proxies = proxies_for(url, proxy)
    return GatewayClient(Address(url=url, device="leaf-1", token=lambda: "t", verify=verify, proxies=proxies))


def etag(asking: GatewayClient) -> str | None:
    received = asking.desired(None)
    assert received is not None
    asking.close()
    return received.etag


def test_a_gateway_may_have_an_ipv6_address() -> None:
    try:
        gateway = FakeGateway(token="t", host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with gateway:
        gateway.desire(ITEM)
        assert gateway_url(gateway.url) == gateway.url
        assert gateway.url.startswith("http://[::1]:")
        assert etag(client(gateway.url)) == gateway.etag


def test_a_proxy_that_was_named_is_used(proxy: Proxy) -> None:
    with FakeGateway(token="t") as gateway:
        assert etag(client(gateway.url, proxy.url)) == gateway.etag
        assert proxy.asked == [f"{gateway.url}/v1/devices/leaf-1/desired"]


def test_a_gateway_with_tls_is_reached_through_a_tunnel_and_is_checked(
    proxy: Proxy, authority: tuple[Path, Path]
) -> None:
    bundle, certificate = authority
    with FakeGateway(token="t", certificate=certificate) as gateway:
        assert etag(client(gateway.url, proxy.url, str(bundle))) == gateway.etag
        assert proxy.asked == ["CONNECT " + gateway.url.removeprefix("https://")]
        with pytest.raises(GatewayError, match="certificate verify failed"):
            client(gateway.url, proxy.url).desired(None)


@pytest.mark.parametrize(
    ("no_proxy", "flag", "used"),
    [
        pytest.param("", None, True, id="environment"),
        pytest.param("127.0.0.0/8", None, False, id="no-proxy-network"),
        pytest.param("127.0.0.1", None, False, id="no-proxy-host"),
        pytest.param("", "none", False, id="flag-says-none"),
    ],
)
def test_without_the_flag_the_environment_chooses(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, no_proxy: str, flag: str | None, used: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.setenv("no_proxy", no_proxy)
    with FakeGateway(token="t") as gateway:
        assert etag(client(gateway.url, flag)) == gateway.etag
        assert bool(proxy.asked) is used


def test_a_proxy_that_is_away_is_an_error_that_passes() -> None:
    with FakeGateway(token="t") as gateway:
        with pytest.raises(GatewayError, match=r"gateway at \S+ through the proxy: Connection refused$"):
            client(gateway.url, "http://127.0.0.1:1").desired(None)
        assert not gateway.requests


def test_ca_bundle_and_passwords_of_the_environment_are_ignored(
    authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle, certificate = authority
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with FakeGateway(token="t", certificate=certificate) as gateway:
        with pytest.raises(GatewayError, match="certificate verify failed"):
            client(gateway.url).desired(None)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert etag(client(gateway.url, verify=str(bundle))) == gateway.etag
        assert "Authorization" not in gateway.requests[-1][2]


@pytest.mark.parametrize("text", ["socks5://x:1", "x:3128", "http://"])
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--proxy"):
        proxy_of(text)


def test_a_proxy_may_be_left_out() -> None:
    assert [proxy_of(text) for text in (None, "", "none", "https://p:1")] == [None, None, "none", "https://p:1"]


def test_the_client_calls_back_when_the_gateway_accepts_a_request() -> None:
    took: list[str] = []
    with FakeGateway(token="t") as gateway:
        address = Address(url=gateway.url, device="leaf-1", token=lambda: "t", answered=lambda: took.append("yes"))
        GatewayClient(address).connect()
        assert took == ["yes"]
        gateway.token = "another"
        with pytest.raises(GatewayError):
            GatewayClient(address).connect()
        assert took == ["yes"]


@pytest.mark.parametrize(("mode", "loose"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_token_that_others_may_read_is_reported_with_a_remedy(tmp_path: Path, mode: int, loose: bool) -> None:
    file = tmp_path / "token"
    file.touch()
    file.chmod(mode)
    said = loose_mode(file)
    assert said is None if not loose else said is not None and f"chmod 600 {file}" in said


def test_the_agent_says_at_its_start_that_its_token_is_no_secret_and_runs(tmp_path: Path) -> None:
    token, log = tmp_path / "token", tmp_path / "log"
    token.write_text("t")
    token.chmod(0o644)
    with FakeGateway(token="t") as gateway, log.open("wb") as errors:
        command = (
            sys.executable, "-m", "praetor_agent", "run", "--gateway", gateway.url, "--device", "leaf-1",
            "--state-dir", str(tmp_path / "state"), "--token-file", str(token), "--start-splay", "0",
        )  # fmt: skip
        agent = subprocess.Popen(command, stderr=errors, env=dict(os.environ))
        try:
            gateway.wait_for(lambda: bool(gateway.reports), "a report")
            until(lambda: "mode 0644" in log.read_text(), "the warning")
        finally:
            agent.terminate()
            assert agent.wait(WITHIN_SECONDS) == 0


def test_the_agent_waits_for_a_token_that_is_not_there_yet(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with FakeGateway(token="t") as gateway:
        gateway.desire(ITEM)
        command = (
            sys.executable, "-m", "praetor_agent", "run", "--gateway", gateway.url, "--device", "leaf-1",
            "--state-dir", str(tmp_path / "state"), "--token-file", str(token), "--start-splay", "0",
        )  # fmt: skip
        with (tmp_path / "log").open("wb") as errors:
            agent = subprocess.Popen(command, stderr=errors, env=dict(os.environ))
        try:
            until(lambda: "cannot poll" in (tmp_path / "log").read_text(), "an attempt without a token")
            assert f"the token file {token} cannot be read" in (tmp_path / "log").read_text()
            token.touch(mode=0o600)
            token.write_text("t")
            gateway.wait_for(lambda: bool(gateway.reports), "a report")
        finally:
            agent.terminate()
            assert agent.wait(WITHIN_SECONDS) == 0
