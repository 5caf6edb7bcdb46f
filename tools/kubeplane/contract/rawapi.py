# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP client for tests: what was asked goes out as it is, and the answer comes back as it is.

It shares nothing with the production client, so that the one can judge the other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import requests
import yaml

TIMEOUT_S = (5, 60)  # connect, read
JSON = "application/json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class UnsupportedCredentials(ValueError):
    """A kubeconfig names credentials that this client cannot use; the message says which to use instead."""


class Answer(NamedTuple):
    """One response; *body* is decoded JSON, or text where the server sent no JSON."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def reason(self) -> str | None:
        """The reason of a Status body."""
        return self.body.get("reason") if isinstance(self.body, dict) else None

    @property
    def message(self) -> str:
        """The message of a Status body."""
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else str(self.body)

    @property
    def causes(self) -> list[dict[str, str]]:
        """The causes in a Status body's details."""
        details = self.body.get("details") if isinstance(self.body, dict) else None
        return list((details or {}).get("causes") or ())


class WatchFrame(NamedTuple):
    """One event of a watch stream."""

    type: str
    object: Any


class RawApi:
    """Requests to one apiserver as one user."""

    def __init__(
        self, url: str, *, token: str | None = None, verify: str | bool = True, cert: tuple[str, str] | None = None
    ) -> None:
        self.url = url
        self._verify = verify
        self._session = requests.Session()
        self._session.trust_env = False  # variables of the environment would override *verify*
        self._session.cert = cert
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._files: TemporaryDirectory[str] | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """Return a client for the current context; tokens and client certificates are understood."""
        config = yaml.safe_load(path.read_text())
        current = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], current["cluster"])["cluster"]
        user = _named(config["users"], current["user"])["user"] or {}
        if "exec" in user or "auth-provider" in user:
            raise UnsupportedCredentials(
                f"{path}: credential plugins are not understood; use a kubeconfig with a token or certificate"
            )
        files = TemporaryDirectory(prefix="rawapi-")
        ca = _file(cluster, "certificate-authority", files.name)
        cert, key = _file(user, "client-certificate", files.name), _file(user, "client-key", files.name)
        verify: str | bool = ca or not cluster.get("insecure-skip-tls-verify", False)
        client = cls(
            cluster["server"], token=user.get("token"), verify=verify, cert=(cert, key) if cert and key else None
        )
        client._files = files
        return client

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
        text: bool = False,
        **query: Any,
    ) -> Answer:
        """Send one request; *body* is sent as JSON unless it is already bytes; None in *query* is left out.

        The answer's body is left as text if *text* is true.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Accept": accept, **({"Content-Type": content_type} if data is not None else {}), **(headers or {})}
        response = self._session.request(
            method, self.url + path, data=data, headers=sent, params=query, verify=self._verify, timeout=TIMEOUT_S
        )
        return Answer(response.status_code, response.text if text else _decoded(response), response.headers)

    def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        """POST."""
        return self.request("POST", path, body, **options)

    def put(self, path: str, body: Any, **options: Any) -> Answer:
        """PUT."""
        return self.request("PUT", path, body, **options)

    def patch(self, path: str, body: Any, content_type: str = MERGE, **options: Any) -> Answer:
        """PATCH with a merge patch unless *content_type* says otherwise."""
        return self.request("PATCH", path, body, content_type=content_type, **options)

    def apply(self, path: str, body: Any, manager: str, **options: Any) -> Answer:
        """PATCH with server-side apply."""
        return self.patch(path, body, APPLY, fieldManager=manager, **options)

    def delete(self, path: str, body: Any = None, **options: Any) -> Answer:
        """DELETE, with DeleteOptions as *body*."""
        return self.request("DELETE", path, body, **options)

    @contextmanager
    def watch(self, path: str, *, timeout_s: int = 10, **query: Any) -> Iterator[Iterator[WatchFrame]]:
        """Open a watch that the server ends after *timeout_s*; yields its events as they come.

        A refusal (no stream at all) raises AssertionError with the answer.
        """
        params = {"watch": "true", "timeoutSeconds": timeout_s, **query}
        with self._session.get(
            self.url + path, params=params, verify=self._verify, stream=True, timeout=(5, timeout_s + 20)
        ) as response:
            if response.status_code != HTTPStatus.OK:
                raise AssertionError(f"watch refused: {response.status_code} {response.text}")
            yield (WatchFrame(**json.loads(line)) for line in response.iter_lines(chunk_size=None) if line)

    def close(self) -> None:
        """Close connections and remove the files that were made."""
        self._session.close()
        if self._files is not None:
            self._files.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decoded(response: requests.Response) -> Any:
    if "json" in response.headers.get("Content-Type", ""):
        return response.json()
    return response.text


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _file(entry: Mapping[str, str], key: str, folder: str) -> str | None:
    """Return the file that *key* names, or one made from its inline data."""
    if f"{key}-data" not in entry:
        return entry.get(key)
    path = Path(folder, key)
    path.write_bytes(base64.b64decode(entry[f"{key}-data"]))
    path.chmod(0o600)
    return str(path)
