"""Artifacts that are on the device already: an absolute path, or a file:// URL."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from urllib.parse import unquote, urlsplit

from praetor_agent.errors import ArtifactError
from praetor_api.spec import Artifact

PIECE_BYTES = 1024 * 1024


class FileSource:
    """Reads regular files."""

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[Iterator[bytes]]:
        """Return the file's bytes in pieces."""
        path = file_path(artifact.url)
        try:
            # Opening a FIFO would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            raise ArtifactError(f"{path} cannot be read: {e.strerror}") from e
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ArtifactError(f"{path} is not a regular file")
            yield _pieces(file, path)


def _pieces(file: FileIO, path: str) -> Iterator[bytes]:
    try:
        yield from iter(lambda: file.read(PIECE_BYTES), b"")
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read: {e.strerror}") from e


def file_path(url: str) -> str:
    """Return the absolute path that *url* names."""
    parts = urlsplit(url)
    is_url = parts.scheme == "file" and parts.netloc in ("", "localhost")
    path = unquote(parts.path) if is_url else url
    if not path.startswith("/") or "\0" in path:
        raise ArtifactError(f"{url!r} is neither an absolute path nor a file:/// URL")
    return path
