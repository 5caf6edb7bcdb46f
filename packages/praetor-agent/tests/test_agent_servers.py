# SPDX-License-Identifier: Apache-2.0
"""The whole agent and servers of artifacts: authorities of one's own, and an agent that is killed in mid-download."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from agent_testing import (
    WITHIN_SECONDS,
    FakeGateway,
    certificates,
    http_server,
    item,
    process_spec,
    running_agent,
    until,
)
from praetor_agent.artifacts.oci import this_machine
from praetor_agent.backends import procfs

PROGRAM = b"#!/bin/sh\nexec sleep 1000\n# " + os.urandom(600_000).hex().encode() + b"\n"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Shop:
    """Holds the program as a file and as an image of one layer. Until *free* is set, it sends half of it and waits."""

    def __init__(self) -> None:
        self.free = Event()
        self.free.set()
        self.ranges: list[str | None] = []
        self._pages: dict[str, bytes] = {"/app": PROGRAM}
        self.big = {"/app"}
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo("app")
            info.size, info.mode = len(PROGRAM), 0o755
            archive.addfile(info, io.BytesIO(PROGRAM))
        layer = gzip.compress(out.getvalue(), mtime=0)
        machine = ARCHITECTURES.get(this_machine(), this_machine())
        config = json.dumps({"os": "linux", "architecture": machine}).encode()
        body = {"schemaVersion": 2, "config": self._blob(config, CONFIG), "layers": [self._blob(layer, LAYER)]}
        manifest = json.dumps(body).encode()
        self.digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        self._pages[f"/v2/team/app/manifests/{self.digest}"] = manifest
        self.big.add(f"/v2/team/app/blobs/sha256:{hashlib.sha256(layer).hexdigest()}")

    def _blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._pages[f"/v2/team/app/blobs/{digest}"] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        content, asked = self._pages.get(handler.path, b""), handler.headers.get("Range")
        if handler.path in self.big:
            self.ranges.append(asked)
        start = int(asked[6:-1]) if asked else 0
        headers = {"Content-Length": str(len(content) - start), "ETag": '"1"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send_response(206 if start else 200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        half = len(content) // 2 if handler.path in self.big and not start else len(content)
        handler.wfile.write(content[start:half])
        handler.wfile.flush()
        self.free.wait(WITHIN_SECONDS)
        handler.wfile.write(content[half:])

    def artifact(self, kind: str, host: str, scheme: str) -> dict[str, str]:
        if kind == "oci":
            return {"type": "oci", "url": f"{host}/team/app@{self.digest}"}
        return {"type": "http", "url": f"{scheme}://{host}/app", "checksumSHA256": hashlib.sha256(PROGRAM).hexdigest()}


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("ca"))


def reported(gateway: FakeGateway) -> Mapping[str, Any]:
    seen = gateway.observations.get("a")
    return {} if seen is None else {"pid": seen.pid, "reason": seen.artifact_reason, "error": seen.error_message or ""}


@pytest.mark.parametrize("kind", ["http", "oci"])
def test_servers_that_only_an_own_authority_vouches_for_are_trusted_when_it_is_named(
    gateway: FakeGateway, tmp_path: Path, authority: tuple[Path, Path], kind: str
) -> None:
    bundle, served = authority
    shop = Shop()
    with http_server(shop.answer, served) as host:
        gateway.desire(item("a", process_spec("./app", artifact=shop.artifact(kind, host, "https"))))
        with running_agent(gateway, tmp_path / "state"):
            gateway.wait_for(lambda: bool(reported(gateway).get("reason")), "a reason")
            assert reported(gateway)["reason"] == "Unreachable"
            assert "is not trusted" in reported(gateway)["error"]
            assert shop.ranges == []
        with running_agent(gateway, tmp_path / "state", "--artifact-ca-bundle", str(bundle)):
            gateway.wait_for(lambda: bool(reported(gateway).get("pid")), "the process")
            assert reported(gateway)["reason"] is None


@pytest.mark.parametrize("kind", ["http", "oci"])
def test_a_download_in_which_the_agent_was_killed_is_gone_on_with(
    gateway: FakeGateway, tmp_path: Path, kind: str
) -> None:
    shop, parts = Shop(), tmp_path / "state" / "artifacts" / ".parts"
    with http_server(shop.answer) as host:
        flags = ("--insecure-registry", host)
        gateway.desire(item("a", process_spec("sleep", "1000")))
        with running_agent(gateway, tmp_path / "state", *flags) as process:
            gateway.wait_for(lambda: bool(reported(gateway).get("pid")), "the old process")
            pid = reported(gateway)["pid"]
            shop.free.clear()
            gateway.desire(item("a", process_spec("./app", artifact=shop.artifact(kind, host, "http")), generation=2))
            until(lambda: bool(shop.ranges) and _largest(parts) >= 300_000, "half of it")
            process.kill()
            process.wait(WITHIN_SECONDS)
            had = _largest(parts)
            assert procfs.start_ticks(pid) is not None
            shop.free.set()
            gateway.observations.clear()
            with running_agent(gateway, tmp_path / "state", *flags):
                gateway.wait_for(lambda: reported(gateway).get("pid") not in (None, pid), "the new process")
                assert procfs.start_ticks(pid) is None
    assert shop.ranges[0] is None
    assert shop.ranges[1:] == [f"bytes={had}-"]
    (program,) = (path for path in (tmp_path / "state" / "artifacts").rglob("app") if path.is_file())
    assert program.read_bytes() == PROGRAM
    assert [path.name for path in parts.glob("*") if re.fullmatch("[0-9a-f]+", path.name)] == []


def _largest(parts: Path) -> int:
    return max((path.stat().st_size for path in parts.glob("*")), default=0) if parts.is_dir() else 0
