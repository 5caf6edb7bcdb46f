"""The artifacts on the device, each under the SHA-256 of its content; only what was verified has a name there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from praetor_agent.errors import ArtifactError
from praetor_agent.records import ArtifactState
from praetor_agent.store import sync_directory
from praetor_api.spec import Artifact

MAX_BYTES = 4 * 1024**3
SPARE_BYTES = 16 * 1024**2
"""Left free on the disk, for the state files and logs."""


class ArtifactStore:
    """Content-addressed files below *directory*: `<digest>/<name>`."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def find(self, artifact: Artifact) -> ArtifactState | None:
        """Return the artifact if it is there and its checksum is pinned, so that it is known to be the one."""
        digest = pinned(artifact)
        if digest is None:
            return None
        path = self._directory / digest / file_name(artifact.url)
        return ArtifactState(path=str(path), digest=f"sha256:{digest}") if path.is_file() else None

    def add(self, artifact: Artifact, pieces: Iterator[bytes]) -> ArtifactState:
        """Write, verify and name the artifact; ArtifactError when it is too long or not the one that was pinned."""
        part = self._directory / f".part-{os.getpid()}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            digest = self._write(part, pieces)
            expected = pinned(artifact)
            if expected is not None and digest != expected:
                raise ArtifactError(f"{artifact.url} has sha256 {digest}, not {expected}", downloaded=True)
            return self._name(part, digest, file_name(artifact.url))
        except OSError as e:
            raise ArtifactError(f"{self._directory} cannot be written: {e.strerror}") from e
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def collect(self, used: Iterable[str]) -> None:
        """Remove every artifact whose path is not among *used*, and what broken downloads left."""
        kept = {Path(path).parent.name for path in used}
        if not self._directory.is_dir():
            return
        for entry in self._directory.iterdir():
            if entry.name.startswith(".part-"):
                entry.unlink(missing_ok=True)
            elif entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)

    def _write(self, path: Path, pieces: Iterator[bytes]) -> str:
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            for piece in pieces:
                size += len(piece)
                if size > self._max_bytes:
                    raise ArtifactError(f"the artifact is longer than {self._max_bytes} bytes")
                if shutil.disk_usage(self._directory).free < SPARE_BYTES + len(piece):
                    raise ArtifactError(f"the disk below {self._directory} is full")
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o755)  # it may be what is executed
        return digest.hexdigest()

    def _name(self, part: Path, digest: str, name: str) -> ArtifactState:
        place = self._directory / digest
        place.mkdir(exist_ok=True, mode=0o755)
        os.replace(part, place / name)
        sync_directory(place)
        sync_directory(self._directory)
        return ArtifactState(path=str(place / name), digest=f"sha256:{digest}")


def pinned(artifact: Artifact) -> str | None:
    """Return the checksum that the spec demands, as 64 lower-case hexadecimal digits."""
    checksum = artifact.checksum_sha256
    return checksum.removeprefix("sha256:").lower() if checksum else None


def file_name(url: str) -> str:
    """Return the name that a file from *url* gets: the last part of its path."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name.replace("\0", "").replace("/", "_")[:255] if name not in ("", ".", "..") else "artifact"
