# SPDX-License-Identifier: Apache-2.0
"""Ways that hold requests up or swallow what they carry, before a server on a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import yaml

from e2e.clusters.api.credentials import write_kubeconfig
from e2e.clusters.embedded import Embedded
from e2e.stack.relay import Proxy, Relay
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import CONFIG_MAPS, Key
from praetor_api.kube.runtime import informer
from praetor_api.kube.runtime.clock import SystemClock


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


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield write_kubeconfig(tmp_path / "kubeconfig", url=url, user="me", credentials={"token": "t"})
        server.shutdown()
        serving.join()


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


async def test_an_informer_whose_connection_was_swallowed_follows_again_without_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer, "WATCH_TIMEOUT_S", (1.0, 1.0))
    monkeypatch.setattr(informer, "LATE_S", 0.5)
    verbs: list[str] = []
    watched, found = asyncio.Event(), asyncio.Event()

    def asked(verb: str, *_: object) -> None:
        verbs.append(verb)
        if verb == "watch":  # counts at its end; the next is open then, or about to be
            watched.set()

    with Embedded(tmp_path) as cluster, Relay(cluster.url) as way:
        config = cluster.kubeconfig.read_text()
        behind = cluster.kubeconfig.with_name("behind.kubeconfig")  # beside it, for the files that it names
        behind.write_text(config.replace(cluster.url, way.url))
        async with (
            await KubeClient.from_config(str(cluster.kubeconfig)) as direct,
            await KubeClient.from_config(str(behind)) as client,
            asyncio.timeout(100),  # less than the client takes to give a silent connection up by itself
            asyncio.TaskGroup() as group,
        ):
            client.on_request = asked
            follower = informer.Informer(client, CONFIG_MAPS, project=Key.of, clock=SystemClock(), namespace="default")
            follower.add_handler(lambda key, *_: found.set() if key.name == "new" else None)
            following = group.create_task(follower.run())
            await watched.wait()
            way.swallow()
            await direct.create(CONFIG_MAPS, "default", {"metadata": {"name": "new"}})
            await found.wait()
            following.cancel()
    assert verbs.count("list") == 1
