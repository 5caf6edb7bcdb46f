# SPDX-License-Identifier: Apache-2.0
"""An image as one file for a container runtime to load: an OCI layout that old dockers read, too."""

from __future__ import annotations

import io
import json
import tarfile
from typing import IO

from praetor_agent.artifacts.oci import Image
from praetor_agent.artifacts.partial_download import Work
from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason as Reason

FILE = "image.oci"


def name_of(reference: str) -> str:
    """Return the name that an image has once it is loaded; one without a name would be removed as a leftover."""
    return f"localhost/praetor-image:{reference.rpartition(':')[2]}"


def pack(image: Image, work: Work) -> None:
    """Write the image's archive into *work*."""
    if not image.runs:
        raise ArtifactError("the registry holds no image that a container runtime could run", Reason.UNSUPPORTED)
    blobs = {each.digest: each.size for each in (image.config, *image.layers)}
    image.parts[image.config.digest].make_sure(sum(blobs.values()))
    name = name_of(image.reference)
    names = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
    entry = {"mediaType": image.media_type, "digest": f"sha256:{image.digest}", "size": len(image.manifest)}
    texts = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {"schemaVersion": 2, "manifests": [{**entry, "annotations": names}]},
        "manifest.json": [  # for docker before 25
            {
                "Config": _path(image.config.digest),
                "RepoTags": [name],
                "Layers": [_path(x.digest) for x in image.layers],
            }
        ],
    }
    with tarfile.open(work.root / FILE, "w") as archive:
        for path, value in texts.items():
            _add(archive, path, len(content := json.dumps(value).encode()), io.BytesIO(content))
        _add(archive, _path(image.digest), len(image.manifest), io.BytesIO(image.manifest))
        for digest, size in blobs.items():
            image.parts[digest].file.seek(0)
            _add(archive, _path(digest), size, image.parts[digest].file)


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _add(archive: tarfile.TarFile, path: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = size
    archive.addfile(entry, content)
