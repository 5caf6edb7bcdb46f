"""The agent pulls from Debian's docker-registry what was pushed to it, over its own protocol."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from praetor_agent.artifacts.fetcher import device_sources
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import Registries
from praetor_api.spec import Artifact, ArtifactType

REGISTRY = shutil.which("docker-registry")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

pytestmark = pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(REGISTRY), "serve", str(config)], stdout=log, stderr=log)
        try:
            await_answer(f"http://{host}/v2/")
            yield host
        finally:
            process.terminate()
            process.wait(20)


def await_answer(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            requests.get(url, timeout=2).raise_for_status()
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def push(host: str, content: bytes, media_type: str) -> dict[str, Any]:
    """Push one blob and return its descriptor."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    begun = requests.post(f"http://{host}/v2/team/app/blobs/uploads/", timeout=10)
    begun.raise_for_status()
    where = begun.headers["Location"]
    done = requests.put(f"{where}{'&' if '?' in where else '?'}digest={digest}", data=content, timeout=10)
    done.raise_for_status()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def push_image(host: str, *layers: dict[str, str]) -> str:
    """Push an image of *layers* and return its digest."""
    config = push(host, b"{}", "application/vnd.oci.empty.v1+json")
    pushed = [push(host, layer(files), "application/vnd.oci.image.layer.v1.tar+gzip") for files in layers]
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": pushed}).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    url = f"http://{host}/v2/team/app/manifests/{digest}"
    requests.put(url, data=body, headers={"Content-Type": MANIFEST}, timeout=10).raise_for_status()
    return digest


def layer(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue())


def test_an_image_is_pulled_and_a_broken_one_is_refused(host: str, tmp_path: Path) -> None:
    digest = push_image(host, {"bin/app": "1", "old": "1"}, {"bin/app": "2", ".wh.old": ""})
    source = device_sources(Registries(insecure=frozenset({host})))[ArtifactType.OCI]()
    wanted = Artifact(type=ArtifactType.OCI, url=f"{host}/team/app@{digest}")
    state = ArtifactStore(tmp_path / "store").add(wanted, source.fetch)
    root = Path(state.path or "")
    assert (root / "bin/app").read_text() == "2"
    assert not (root / "old").exists()

    broken = push_image(host, {"x": "y" * 5000})
    for path in (tmp_path / "registry").rglob("data"):
        if path.stat().st_size < 1000 and path.read_bytes()[:2] == b"\x1f\x8b":
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        ArtifactStore(tmp_path / "other").add(
            Artifact(type=ArtifactType.OCI, url=f"{host}/team/app@{broken}"), source.fetch
        )
    assert caught.value.reason == "DigestMismatch"
