"""Where the bytes of an artifact come from: one class for each kind of source, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from praetor_api.spec import Artifact, ArtifactType


class Source(Protocol):
    """Opens an artifact's bytes; ArtifactError when they cannot be had."""

    def open(self, artifact: Artifact) -> AbstractContextManager[Iterator[bytes]]:
        """Return the artifact's bytes in pieces."""
        ...


Sources: TypeAlias = Mapping[ArtifactType, Callable[[], Source]]
"""Makers of sources, so that what a source needs is loaded when it is first used."""


def device_sources() -> Sources:
    """Return the sources that this agent has."""
    return {ArtifactType.FILE: _file, ArtifactType.HTTP: _http}


def _file() -> Source:
    from praetor_agent.artifacts.file import FileSource

    return FileSource()


def _http() -> Source:
    from praetor_agent.artifacts.http import HttpSource

    return HttpSource()
