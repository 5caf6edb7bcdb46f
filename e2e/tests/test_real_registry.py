# SPDX-License-Identifier: Apache-2.0
"""The agent pulls from Debian's docker-registry what was pushed to it, over its own protocol."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab.registry import LAYER, PROGRAM, archive, push, push_manifest, serving
from praetor_agent.artifacts.fetcher import device_sources
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import Registries
from praetor_api.spec import Artifact, ArtifactType

pytestmark = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="docker-registry is not installed")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as host:
        yield host


def push_image(host: str, *layers: dict[str, bytes]) -> str:
    """Push what holds *layers* and return its digest."""
    config = push(host, b"{}", "application/vnd.oci.empty.v1+json")
    pushed = [push(host, gzip.compress(archive(files)), LAYER) for files in layers]
    return str(push_manifest(host, {"config": config, "layers": pushed})["digest"])


def test_an_image_is_pulled_and_a_broken_one_is_refused(host: str, tmp_path: Path) -> None:
    digest = push_image(host, {"bin/app": b"1", "old": b"1"}, {"bin/app": b"2", ".wh.old": b""})
    source = device_sources(Registries(insecure=frozenset({host})))[ArtifactType.OCI]()
    wanted = Artifact(type=ArtifactType.OCI, url=f"{host}/team/app@{digest}")
    state = ArtifactStore(tmp_path / "store").add(wanted, source.fetch)
    root = Path(state.path or "")
    assert (root / "bin/app").read_text() == "2"
    assert not (root / "old").exists()

    broken = push_image(host, {"x": b"y" * 5000})
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
