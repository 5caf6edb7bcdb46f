# SPDX-License-Identifier: Apache-2.0
"""Proxies before servers on real sockets: one that can hold requests up, and one that spreads them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import yaml

from e2e.clusters.api.credentials import write_kubeconfig
from e2e.stack.relay import Balancer, Proxy


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked, and by whom."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.path} {self.headers['User-Agent']} ".encode() + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def echoing() -> Iterator[str]:
    """Serve Echo; yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        serving.join()


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with echoing() as url:
        yield write_kubeconfig(tmp_path / "kubeconfig", url=url, user="me", credentials={"token": "t"})


def test_held_requests_pass_only_when_they_are_released(kubeconfig: Path, tmp_path: Path) -> None:
    with Proxy(kubeconfig, "agent-1", tmp_path) as proxy, requests.Session() as session:
        config = yaml.safe_load(proxy.kubeconfig.read_text())
        url = config["clusters"][0]["cluster"]["server"]
        assert config["users"][0]["user"] == {"token": "t"}
        for body in ("one", "two"):
            assert session.post(f"{url}/a", data=body, timeout=60).text == f"/a agent-1 {body}"
        proxy.hold("/leases")
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/leases/x", data="three", timeout=0.3)
        assert session.post(f"{url}/a", data="four", timeout=60).text == "/a agent-1 four"
        proxy.release()
        assert requests.post(f"{url}/leases/x", data="five", timeout=60).text == "/leases/x agent-1 five"


def test_requests_of_one_client_go_to_the_servers_in_turn_and_to_those_that_are_left() -> None:
    with ExitStack() as first, echoing() as other:
        one = first.enter_context(echoing())
        with Balancer([one, other]) as balancer:
            for path in ("a", "a", "a", "b"):
                assert requests.post(f"{balancer.url}/{path}", data="x", timeout=60).text.endswith("x")
            assert balancer.passed == {("/a", one): 2, ("/a", other): 1, ("/b", one): 1}
            first.close()
            for _ in range(2):
                assert requests.post(f"{balancer.url}/b", data="x", timeout=60).text.startswith("/b ")
            assert balancer.passed["/b", other] == 2
