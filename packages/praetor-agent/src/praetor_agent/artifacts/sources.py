"""Where artifacts come from: one class for each kind of source, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from praetor_api.spec import Artifact, ArtifactType

if TYPE_CHECKING:
    from praetor_agent.artifacts.part import Work
    from praetor_agent.settings import Registries


class Source(Protocol):
    """Has artifacts; ArtifactError when one cannot be had."""

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put the verified artifact into the root of *work* and return its digest."""
        ...


Sources: TypeAlias = Mapping[ArtifactType, Callable[[], Source]]
"""Makers of sources, so that what a source needs is loaded when it is first used."""


def device_sources(registries: Registries | None = None, ca_bundle: str | None = None) -> Sources:
    """Return the sources that this agent has."""

    def oci() -> Source:
        from praetor_agent.artifacts.oci import OciSource
        from praetor_agent.artifacts.web import Web
        from praetor_agent.settings import Registries

        return OciSource(Web(ca_bundle=ca_bundle), registries or Registries())

    def http() -> Source:
        from praetor_agent.artifacts.http import HttpSource
        from praetor_agent.artifacts.web import Web

        return HttpSource(Web(ca_bundle=ca_bundle))

    return {ArtifactType.FILE: _file, ArtifactType.HTTP: http, ArtifactType.OCI: oci}


def _file() -> Source:
    from praetor_agent.artifacts.file import FileSource

    return FileSource()
