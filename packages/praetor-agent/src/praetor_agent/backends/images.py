# SPDX-License-Identifier: Apache-2.0
"""Container images: pulled by the runtime in a thread, before anything is stopped.

A file per image, named by its digest, contains its id; its path is what the agent remembers as the artifact's path.
`<digest>.size` is beside it if we brought the image: it contains bytes and id, and the image is removed once it is
neither desired nor current nor last good. What was in the runtime before is never removed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from praetor_agent.artifacts.fetcher import Fetcher, Key
from praetor_agent.backends.container import Runtime
from praetor_agent.core.model import ArtifactState
from praetor_agent.errors import ArtifactError, BackendError
from praetor_agent.state import read_text, replace_file
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.protocol import DesiredItem
from praetor_api.spec import Artifact, ArtifactType, Backend

log = logging.getLogger(__name__)

PULL_SECONDS = 1800
COLLECT_AGAIN_SECONDS = 300.0
"""Until an image that is still in use, as by a container of a user, is tried again."""


class Images(Fetcher):
    """Fetches images for containers by *runtime*, and all other artifacts as its base does.

    An archive `<digest>.tar` in *directory* is loaded, so that no registry is needed. What the runtime cannot pull is
    fetched as any artifact is, by its mirrors and credentials, and loaded.
    """

    def __init__(self, runtime: Runtime, directory: Path, *rest: Any) -> None:
        super().__init__(*rest)
        self._runtime = runtime
        self._directory = directory
        self._wanted: frozenset[str] | None = None
        self._collect_at = float("inf")
        self._collecting: Thread | None = None

    def keep(self, items: Iterable[DesiredItem], used: Iterable[str] = ()) -> None:
        """Keep the images of *items* as well, and remove the others in a thread, because a runtime may hang."""
        items = tuple(items)
        super().keep(items, used)
        wanted = frozenset(
            _name_of(item.spec.artifact)
            for item in items
            if item.spec.artifact is not None and item.spec.execution.backend is Backend.CONTAINER
        )
        if wanted == self._wanted and self._clock.now() < self._collect_at:
            return
        if self._collecting is None or not self._collecting.is_alive():
            self._wanted, self._collect_at = wanted, float("inf")
            self._collecting = Thread(target=self._collect_images, name="remove images", daemon=True)
            self._collecting.start()

    def _collect_images(self) -> None:
        for size in self._directory.glob("*.size"):
            wanted, image = self._wanted or (), (read_text(size).split() or [""])[-1]
            if size.stem in wanted:
                continue
            shared = any(read_text(self._directory / name).startswith(f"{image} ") for name in wanted)
            try:
                if not shared:
                    self._remove(image)
                    log.info("image removed digest=%s", size.stem)
            except BackendError as e:
                log.info("image stays for now digest=%s reason=%s", size.stem, e)
                self._collect_at = self._clock.now() + COLLECT_AGAIN_SECONDS
                continue
            (self._directory / size.stem).unlink(missing_ok=True)
            size.unlink(missing_ok=True)

    def _obtain(self, key: Key, used: Iterable[str]) -> ArtifactState:
        if key[1] != Backend.CONTAINER:
            return super()._obtain(key, used)
        reference = key[0].url
        digest = reference.rpartition("@")[2]
        path = self._directory / _name_of(key[0])
        try:
            image, is_new = self._image(key[0], digest, used)
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if is_new:
                self._admit(image, path.with_name(f"{path.name}.size"), used)
            replace_file(path, f"{image} {reference}".encode())
        except OSError as e:
            raise ArtifactError(f"{path} cannot be written: {e.strerror}", Reason.DISK_FULL) from e
        except (BackendError, ValueError, LookupError) as e:
            raise ArtifactError(str(e)) from e
        return ArtifactState(path=str(path), digest=digest)

    def _admit(self, image: str, record: Path, used: Iterable[str]) -> None:
        """Record the size of an image that we brought; remove it again if the store has no room for it."""
        size = int(json.loads(self._runtime("image", "inspect", image))[0].get("Size") or 0)
        room = self._store.room(used)
        if size <= room:
            replace_file(record, f"{size} {image}".encode())
            return
        with suppress(BackendError):
            self._remove(image)
        message = f"the image has {size} bytes, and the store has room for {room}; raise --artifact-store-size"
        raise ArtifactError(message, Reason.TOO_LARGE)

    def _remove(self, image: str) -> None:
        """Remove an image; BackendError if it is still there: podman loses a removal beside another podman's writes."""
        self._runtime("rmi", image)
        try:
            self._runtime.image_id(image)
        except BackendError:
            return
        raise BackendError("the runtime still has the image after it removed it")

    def _image(self, artifact: Artifact, digest: str, used: Iterable[str]) -> tuple[str, bool]:
        """Return the id of the image, which the runtime has afterwards, and whether we brought it."""
        with suppress(BackendError):
            return self._runtime.image_id(artifact.url), False
        before: set[str] | None = None  # not known: what was there must not be taken for ours
        with suppress(BackendError):
            before = set(map(_plain, self._runtime("images", "--all", "--quiet", "--no-trunc").split()))
        image = self._brought(artifact, digest, used)
        return image, before is not None and _plain(image) not in before

    def _brought(self, artifact: Artifact, digest: str, used: Iterable[str]) -> str:
        """Bring the image into the runtime and return its id."""
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


def _name_of(artifact: Artifact) -> str:
    return artifact.url.rpartition("@")[2].removeprefix("sha256:")


def _plain(image: str) -> str:
    """Return an image's id as all runtimes write it."""
    return image.removeprefix("sha256:")
