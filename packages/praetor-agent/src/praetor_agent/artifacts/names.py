# SPDX-License-Identifier: Apache-2.0
"""Names of artifacts in the store: directories and files."""

from __future__ import annotations

import re
import zlib
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason
from praetor_api.spec import Artifact, ArtifactType


def entry_name(artifact: Artifact, digest: str) -> str:
    """Return the name of the artifact's directory. The same content under two file names is two artifacts."""
    if artifact.type is ArtifactType.OCI:
        return f"{digest}.oci"
    name = file_name(artifact.url)
    if is_archive(name):
        return f"{digest}.tree"
    return f"{digest}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


def file_name(url: str) -> str:
    """Return the name that a file from *url* gets: the last part of its path."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name.replace("\0", "").replace("/", "_")[:255] if name not in ("", ".", "..") else "artifact"


TREE = "TREE"
"""Marks an archive that only its server named so."""

_OTHER_ARCHIVE = re.compile(r".*\.(tar\.(?!gz$)\w+|txz|tzst|tbz2?|zip)", re.IGNORECASE | re.DOTALL)


def check_name(name: str) -> str:
    """Return *name*; ArtifactError if it is that of an archive which cannot be unpacked."""
    if _OTHER_ARCHIVE.fullmatch(name) and not is_archive(name.lower()):
        message = f"{name[-80:]} is an archive of a kind that is not unpacked; pack it as .tar or .tar.gz"
        raise ArtifactError(message, ArtifactReason.UNSUPPORTED)
    return name


def is_archive(name: str) -> bool:
    """Return whether a file of that name is unpacked."""
    return name.endswith((".tar", ".tar.gz", ".tgz"))
