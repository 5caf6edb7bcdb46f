"""Artifacts from web servers, pinned by their checksum."""

from __future__ import annotations

import hashlib

from praetor_agent.artifacts.part import Work, download
from praetor_agent.artifacts.store import pinned
from praetor_agent.artifacts.web import Web
from praetor_api.spec import Artifact


class HttpSource:
    """Downloads over http and https, and goes on where it was cut off."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put the file, or what its archive holds, into *work*."""
        expected = pinned(artifact)
        with work.part(expected or hashlib.sha256(artifact.url.encode()).hexdigest()) as part:
            if not part.size or part.digest() != expected:
                download(self._web, artifact.url, part)
            if expected is not None:
                part.verify(expected, artifact.url)
            digest = part.digest()
            work.take(part, artifact.url)
        return digest
