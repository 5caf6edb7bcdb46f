# SPDX-License-Identifier: Apache-2.0
"""Artifacts that are one file: from a web server, or on the device already."""

from __future__ import annotations

import hashlib
import os
import stat
from urllib.parse import unquote, urlsplit

from praetor_agent.artifacts.names import check_name, file_name
from praetor_agent.artifacts.partial_download import Work, download
from praetor_agent.artifacts.web import Web
from praetor_agent.core.model import pinned
from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.spec import Artifact


class HttpSource:
    """Downloads over http and https, and resumes interrupted downloads."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put the file, or what its archive holds, into *work*."""
        check_name(file_name(artifact.url))
        expected = pinned(artifact)
        with work.part(expected or hashlib.sha256(artifact.url.encode()).hexdigest()) as part:
            download(self._web, artifact.url, part, digest=expected)
            if expected is not None:
                part.verify(expected, artifact.url)
            digest = part.digest()
            work.take(part, artifact.url)
        return digest


PIECE_BYTES = 1024 * 1024


class FileSource:
    """Copies regular files, which may be changed or removed afterwards."""

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put a copy of the file, or what its archive holds, into *work*."""
        path, expected = file_path(artifact.url), pinned(artifact)
        check_name(file_name(artifact.url))
        with work.part(f"file-{hashlib.sha256(artifact.url.encode()).hexdigest()}") as part:
            part.restart()
            try:
                # Opening a FIFO would wait for its writer.
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
                    status = os.fstat(file.fileno())
                    if not stat.S_ISREG(status.st_mode):
                        raise ArtifactError(f"{path} is not a regular file", Reason.UNSUPPORTED)
                    part.make_sure(status.st_size)
                    while piece := file.read(PIECE_BYTES):
                        part.append(piece)
            except FileNotFoundError as e:
                raise ArtifactError(f"{path} cannot be read: {e.strerror}", Reason.NOT_FOUND) from e
            except PermissionError as e:
                raise ArtifactError(f"{path} cannot be read: {e.strerror}", Reason.UNAUTHORIZED) from e
            if expected is not None:
                part.verify(expected, artifact.url)
            digest = part.digest()
            work.take(part, path)
        return digest


def file_path(url: str) -> str:
    """Return the absolute path that *url* names."""
    parts = urlsplit(url)
    is_url = parts.scheme == "file" and parts.netloc in ("", "localhost")
    path = unquote(parts.path) if is_url else url
    if not path.startswith("/") or "\0" in path:
        raise ArtifactError(f"{url!r} is neither an absolute path nor a file:/// URL", Reason.UNSUPPORTED)
    return path
