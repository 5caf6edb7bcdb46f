# SPDX-License-Identifier: Apache-2.0
"""The artifacts on the device, each under the SHA-256 of its content. Only verified content gets a name."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from praetor_agent.artifacts.names import TREE, entry_name, file_name, is_archive
from praetor_agent.core.model import ArtifactState, pinned
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import DEFAULT_STORE_BYTES
from praetor_agent.state import read_text, sync_directory
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.spec import Artifact, ArtifactType

if TYPE_CHECKING:
    from praetor_agent.artifacts.partial_download import Work

READY = "READY"
ROOT = "root"
_PARTS = ".parts"
IMAGES = "containers/images"
"""Where in the state directory the images of containers are recorded."""


class ArtifactStore:
    """Directories below *directory*: `<digest>/root/…`, with the marker READY in `<digest>` once all is on the disk.

    It holds at most *max_bytes*: unused artifacts are removed, the oldest first, when a new one needs the space. The
    container images in the runtime count, too: each has a file `*.size` in *images* that begins with its bytes.
    """

    def __init__(self, directory: Path, *, max_bytes: int = DEFAULT_STORE_BYTES, images: Path | None = None) -> None:
        self._directory = directory
        self._images = images
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._places: set[str] = set()
        self._parts: dict[str, object] = {}

    def find(self, artifact: Artifact) -> ArtifactState | None:
        """Return the artifact if it is stored and its spec pins the checksum, so that it is the right one."""
        digest = pinned(artifact)
        return self._state(artifact, digest) if digest is not None else None

    def add(
        self, artifact: Artifact, fetch: Callable[[Artifact, Work], str], used: Iterable[str] = ()
    ) -> ArtifactState:
        """Fetch, verify and store the artifact; ArtifactError if that fails.

        *used* are paths that stay even if space is needed.
        """
        from praetor_agent.artifacts.partial_download import Work  # loaded with the first artifact

        try:
            parts = self._directory / _PARTS
            parts.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock:
                self._sweep()
                place = self._directory / f".new-{os.urandom(8).hex()}"
                self._places.add(place.name)
                room = self._make_room(used)
            for directory, bits in ((self._directory.parent, 0o011), (self._directory, 0o755)):
                with suppress(PermissionError):  # processes of other users execute its files
                    os.chmod(directory, stat.S_IMODE(directory.stat().st_mode) | bits)
            try:
                (place / ROOT).mkdir(parents=True, mode=0o755)
                digest = fetch(artifact, Work(parts, place / ROOT, room, self._parts))
                self._name(place, digest, artifact)
            finally:
                shutil.rmtree(place, ignore_errors=True)
                self._places.discard(place.name)
        except OSError as e:
            raise ArtifactError(f"{self._directory} cannot be written: {e.strerror or e}", Reason.DISK_FULL) from e
        state = self._state(artifact, digest)
        if state is None:
            raise ArtifactError(f"{artifact.url} was removed from the store while it was being stored")
        return state

    def collect(self, used: Iterable[str], *, parts: bool = True) -> None:
        """Remove every artifact whose path is not among *used*, and the partial downloads unless *parts*."""
        with suppress(OSError):
            kept = self._kept(used)
            for entry in self._entries():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)
            if not parts:
                shutil.rmtree(self._directory / _PARTS, ignore_errors=True)
            self._sweep()

    def used_bytes(self) -> int:
        """Return the size of all stored artifacts and images."""
        return sum(map(_size, self._entries())) + self._image_bytes()

    def room(self, used: Iterable[str]) -> int:
        """Remove unused artifacts if space is short; return how many bytes a new image may have."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock:
            return self._make_room(used)

    def _image_bytes(self) -> int:
        files = self._images.glob("*.size") if self._images is not None else ()
        return sum(int(words[0]) for file in files if (words := read_text(file).split()) and words[0].isdigit())

    def _sweep(self) -> None:
        """Remove what a killed agent left incomplete."""
        for rest in self._directory.glob(".new-*"):
            if rest.name not in self._places:
                shutil.rmtree(rest, ignore_errors=True)

    def _make_room(self, used: Iterable[str]) -> int:
        """Remove unused artifacts if space is short; return how many bytes a new artifact may have."""
        kept = self._kept(used)
        entries = sorted(self._entries(), key=lambda entry: entry.stat().st_mtime)
        sizes, images = {entry: _size(entry) for entry in entries}, self._image_bytes()
        for entry in entries:
            free = shutil.disk_usage(self._directory).free
            if entry.name not in kept and (
                (sum(sizes.values()) + images) * 2 > self._max_bytes or free < self._max_bytes // 4
            ):
                shutil.rmtree(entry, ignore_errors=True)
                del sizes[entry]
        return max(0, self._max_bytes - sum(sizes.values()) - images)

    def _entries(self) -> Iterator[Path]:
        if self._directory.is_dir():
            yield from (entry for entry in self._directory.iterdir() if not entry.name.startswith("."))

    def _kept(self, used: Iterable[str]) -> set[str]:
        paths = (Path(path) for path in used)
        return {path.relative_to(self._directory).parts[0] for path in paths if self._directory in path.parents}

    def _name(self, place: Path, digest: str, artifact: Artifact) -> None:
        from praetor_agent.artifacts.rootfs_writer import sync_tree

        sync_tree(place / ROOT)
        size = sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(place / ROOT) for name in names)
        with (place / READY).open("w") as marker:
            marker.write(f"{size}\n")
            marker.flush()
            os.fsync(marker.fileno())
        sync_directory(place)
        final = self._directory / entry_name(artifact, digest)
        with self._lock:
            if self._state(artifact, digest) is not None:
                return
            shutil.rmtree(final, ignore_errors=True)  # half removed
            if self.used_bytes() + size > self._max_bytes:  # another was faster
                raise ArtifactError(f"the store has no room for {size} bytes more", Reason.TOO_LARGE)
            os.replace(place, final)
            sync_directory(self._directory)

    def _state(self, artifact: Artifact, digest: str) -> ArtifactState | None:
        entry = self._directory / entry_name(artifact, digest)
        if not os.path.isfile(entry / READY):  # other than Path, it says of what cannot be read that it is not there
            return None
        name = file_name(artifact.url)
        is_tree = artifact.type is ArtifactType.OCI or is_archive(name) or os.path.exists(entry / TREE)
        path = entry / ROOT if is_tree else entry / ROOT / name
        if not os.path.exists(path):
            return None
        return ArtifactState(path=str(path), digest=f"sha256:{digest}", pinned=pinned(artifact) is not None)


def _size(entry: Path) -> int:
    try:
        return int((entry / READY).read_text())
    except (OSError, ValueError):
        return 0
