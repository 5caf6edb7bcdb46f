# SPDX-License-Identifier: Apache-2.0
"""Container images: pulled by the runtime in a thread, before anything is stopped.

A file per image, named by its digest, contains its id; its path is what the agent remembers as the artifact's path.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from praetor_agent.artifacts.fetcher import Fetcher, Key
from praetor_agent.backends.container import Runtime
from praetor_agent.core.model import ArtifactState
from praetor_agent.errors import ArtifactError, BackendError
from praetor_agent.state import replace_file
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.spec import Artifact, ArtifactType, Backend

log = logging.getLogger(__name__)

PULL_SECONDS = 1800


class Images(Fetcher):
    """Fetches images for containers by *runtime*, and all other artifacts as its base does.

    An archive `<digest>.tar` in *directory* is loaded, so that no registry is needed. What the runtime cannot pull is
    fetched as any artifact is, by its mirrors and credentials, and loaded.
    """

    def __init__(self, runtime: Runtime, directory: Path, *rest: Any) -> None:
        super().__init__(*rest)
        self._runtime = runtime
        self._directory = directory

    def _obtain(self, key: Key, used: Iterable[str]) -> ArtifactState:
        if key[1] != Backend.CONTAINER:
            return super()._obtain(key, used)
        reference = key[0].url
        digest = reference.rpartition("@")[2]
        path = self._directory / digest.removeprefix("sha256:")
        try:
            image = self._image(key[0], digest, used)
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, f"{image} {reference}".encode())
        except OSError as e:
            raise ArtifactError(f"{path} cannot be written: {e.strerror}", Reason.DISK_FULL) from e
        except (BackendError, ValueError, LookupError) as e:
            raise ArtifactError(str(e)) from e
        return ArtifactState(path=str(path), digest=digest)

    def _image(self, artifact: Artifact, digest: str, used: Iterable[str]) -> str:
        """Return the id of the image; the runtime has the image afterwards."""
        with suppress(BackendError):
            return self._runtime.image_id(artifact.url)
        archive = self._directory / f"{digest.removeprefix('sha256:')}.tar"
        if archive.is_file():
            return self._load(archive, digest)
        try:
            self._runtime("pull", "--quiet", artifact.url, timeout=PULL_SECONDS)
            return self._runtime.image_id(artifact.url)
        except BackendError as e:
            log.warning("the runtime cannot pull, the agent fetches reference=%s reason=%s", artifact.url, e)
            try:
                return self._fetched_image(artifact, used)
            except ArtifactError as own:
                own.args = (f"{own}; {e}",)
                raise

    def _fetched_image(self, artifact: Artifact, used: Iterable[str]) -> str:
        """Fetch the image, load it into the runtime and return its id."""
        from praetor_agent.artifacts.oci import OciSource
        from praetor_agent.artifacts.oci_layout import FILE, name_of, pack

        source = self._source(ArtifactType.OCI)
        if not isinstance(source, OciSource):
            raise ArtifactError("the agent itself fetches no images here", Reason.UNSUPPORTED)
        packed = Artifact(type=ArtifactType.FILE, url=f"/{FILE}", checksum_sha256=artifact.url.rpartition("@")[2])
        state = self._store.add(packed, lambda _, work: source.fetch_with(artifact, work, pack), used)
        try:
            self._runtime("load", "--input", str(state.path), timeout=PULL_SECONDS)
            return self._runtime.image_id(name_of(artifact.url))
        finally:
            shutil.rmtree(Path(str(state.path)).parents[1], ignore_errors=True)

    def _load(self, archive: Path, digest: str) -> str:
        """Return the id of the image in *archive*, which an operator put there; BackendError if it is another."""
        loaded = self._runtime("load", "--input", str(archive), timeout=PULL_SECONDS).strip().rpartition(": ")[2]
        shown = json.loads(self._runtime("image", "inspect", loaded))[0]
        known = {shown.get("Digest"), *(name.rpartition("@")[2] for name in shown.get("RepoDigests") or ())}
        if digest not in known:
            raise BackendError(
                f"the image in {archive} is not {digest} but {', '.join(filter(None, known)) or 'unknown'}"
            )
        return str(shown["Id"])
