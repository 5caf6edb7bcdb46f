# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry on the loopback interface, and what is pushed to it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from e2e.stack.waiting import eventually

PROGRAM = "docker-registry"
REPOSITORY = "team/app"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a registry that keeps its things in *folder*; yield its host and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([str(shutil.which(PROGRAM)), "serve", str(config)], stdout=log, stderr=log)
        try:
            eventually(lambda: requests.get(f"http://{host}/v2/", timeout=10).ok, what="the registry answers")
            yield host
        finally:
            process.terminate()
            process.wait(20)


def push(host: str, content: bytes, media_type: str) -> dict[str, Any]:
    """Push one blob and return its descriptor."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    begun = requests.post(f"http://{host}/v2/{REPOSITORY}/blobs/uploads/", timeout=60)
    begun.raise_for_status()
    where = begun.headers["Location"]
    done = requests.put(f"{where}{'&' if '?' in where else '?'}digest={digest}", data=content, timeout=60)
    done.raise_for_status()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def push_manifest(host: str, body: Mapping[str, Any], media_type: str = MANIFEST) -> dict[str, Any]:
    """Push a manifest or an index and return its descriptor."""
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **body}).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    url = f"http://{host}/v2/{REPOSITORY}/manifests/{digest}"
    requests.put(url, data=content, headers={"Content-Type": media_type}, timeout=60).raise_for_status()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def push_runnable(host: str, *layers: Mapping[str, bytes]) -> str:
    """Push an image that a container runtime runs, below an index as build tools make them; return its reference."""
    packed = [archive(files) for files in layers]
    history = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in packed]
    said = {
        "os": "linux", "architecture": ARCHITECTURE, "config": {"Env": ["FROM_IMAGE=1"]},
        "rootfs": {"type": "layers", "diff_ids": history},
    }  # fmt: skip
    config = push(host, json.dumps(said).encode(), CONFIG)
    pushed = [push(host, gzip.compress(layer, mtime=0), LAYER) for layer in packed]
    manifest = push_manifest(host, {"config": config, "layers": pushed})
    entry = {**manifest, "platform": {"os": "linux", "architecture": ARCHITECTURE}}
    return f"{host}/{REPOSITORY}@{push_manifest(host, {'manifests': [entry]}, INDEX)['digest']}"


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of *files*; those in bin/ and lib are executable, and a name with `->` is a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            packed.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name.partition("->")[0])
            entry.size, entry.mode = len(content), 0o755 if name.startswith(("bin/", "lib")) else 0o644
            if "->" in name:
                entry.type, entry.linkname = tarfile.SYMTYPE, name.partition("->")[2]
            packed.addfile(entry, io.BytesIO(content))
    return out.getvalue()
