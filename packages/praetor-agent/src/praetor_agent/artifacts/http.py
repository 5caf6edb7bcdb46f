"""Artifacts from web servers. Nothing of the environment or of the gateway's credentials goes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests

from praetor_agent.errors import ArtifactError
from praetor_api.spec import Artifact

TIMEOUT_SECONDS = (10.0, 60.0)
MAX_REDIRECTS = 3
PIECE_BYTES = 256 * 1024


class HttpSource:
    """Downloads over http and https."""

    def __init__(self) -> None:
        self._http = requests.Session()
        self._http.trust_env = False  # no .netrc, no proxy of the environment
        self._http.max_redirects = MAX_REDIRECTS
        self._http.headers["Accept-Encoding"] = "identity"  # the checksum is over what is served

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[Iterator[bytes]]:
        """Return the response's bytes in pieces, as they come."""
        try:
            with self._http.get(artifact.url, stream=True, timeout=TIMEOUT_SECONDS) as response:
                if response.status_code != requests.codes.ok:
                    raise ArtifactError(f"{artifact.url} answered {response.status_code} {response.reason}")
                yield _pieces(response, artifact.url)
        except requests.RequestException as e:
            raise ArtifactError(f"{artifact.url} cannot be downloaded: {e}") from e


def _pieces(response: requests.Response, url: str) -> Iterator[bytes]:
    try:
        yield from response.iter_content(PIECE_BYTES)  # one that ends before its Content-Length is an error, too
    except requests.RequestException as e:
        raise ArtifactError(f"{url} cannot be downloaded: {e}") from e
