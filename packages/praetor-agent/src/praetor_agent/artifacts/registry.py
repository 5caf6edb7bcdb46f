"""How registries are reached: mirrors, which may be plain http, and who we are there."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from urllib.parse import urlencode, urlsplit

from praetor_agent.artifacts.web import Answer, Web
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import Registries
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.wire import WireError, parse_json

_UNAUTHORIZED = Reason.UNAUTHORIZED
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def registries_for(said: Registries, web: Web, host: str, repository: str) -> Iterator[Registry]:
    """Yield where *repository* may be had: mirrors of *host*, then itself."""
    for mirror in said.mirrors.get(host, ()):
        yield Registry(web, mirror, repository, _credentials(said.auth_file, urlsplit(mirror).netloc))
    real = {"docker.io": "registry-1.docker.io"}.get(host, host)
    scheme = "http" if host in said.insecure else "https"
    yield Registry(web, f"{scheme}://{real}", repository, _credentials(said.auth_file, host))


def _credentials(path: str | None, host: str) -> str | None:
    """Return user and password for Basic authentication, read anew each time."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o007:
                raise ArtifactError(f"--registry-auth-file {path} can be read by others; chmod 600 it", _UNAUTHORIZED)
            auths = json.loads(file.read(1024**2)).get("auths", {})
        names = (host, "https://index.docker.io/v1/" if host == "docker.io" else f"https://{host}")
        entry: Mapping[str, object] = next((auths[name] for name in names if name in auths), {})
        if "auth" in entry:
            return str(entry["auth"])
        if "username" in entry:
            return base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise ArtifactError(f"--registry-auth-file {path}: {e}", _UNAUTHORIZED) from e
    return None


class Registry:
    """One repository at one host."""

    def __init__(self, web: Web, base: str, repository: str, credentials: str | None) -> None:
        self.web = web
        self.host = urlsplit(base).netloc
        self._base = f"{base.rstrip('/')}/v2/{repository}"
        self._scope = f"repository:{repository}:pull"
        self._credentials = credentials
        self._authorization: str | None = None

    def get(self, path: str, accept: str) -> AbstractContextManager[Answer]:
        """Return the answer to a GET below the repository, with a token if one is asked for."""
        url = f"{self._base}/{path}"
        self._authorize(url, accept)
        return self.web.get(url, self._headers({"Accept": accept}))

    def blob(self, digest: str, *, again: bool) -> tuple[str, dict[str, str]]:
        """Return URL and headers for a blob; *again* with a token of now."""
        url = f"{self._base}/blobs/sha256:{digest}"
        if again:
            self._authorize(f"{self._base}/manifests/sha256:{digest}", "*/*")
        return url, self._headers({})

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        return headers | ({"Authorization": self._authorization} if self._authorization else {})

    def _authorize(self, url: str, accept: str) -> None:
        """Get what the registry wants to see, if it wants anything; it is asked without, for it names what it wants."""
        if self._authorization is not None and accept != "*/*":
            return
        with self.web.get(url, {"Accept": accept}) as answer:
            challenges = answer.headers.get_all("WWW-Authenticate") or []
            if answer.status != 401:
                return
            if urlsplit(answer.url).netloc != self.host:
                raise ArtifactError(f"{self.host} leads to {answer.url}, which wants a password", _UNAUTHORIZED)
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "basic" and self._credentials:
                self._authorization = f"Basic {self._credentials}"
                return
            if scheme.lower() == "bearer":
                self._authorization = f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
                return
        raise ArtifactError(f"{self.host} wants credentials that --registry-auth-file has none of", _UNAUTHORIZED)

    def _token(self, said: Mapping[str, str]) -> str:
        realm = said.get("realm", "")
        if not realm.startswith("https://") and not self._base.startswith("http://"):
            raise ArtifactError(f"{self.host} wants the password sent to {realm!r}", Reason.NOT_ALLOWED)
        query = {"service": said.get("service", ""), "scope": self._scope}
        headers = {"Authorization": f"Basic {self._credentials}"} if self._credentials else {}
        url = realm + ("&" if "?" in realm else "?") + urlencode({k: v for k, v in query.items() if v})
        with self.web.get(url, headers) as answer:
            answer.expect(200)
            try:
                body = parse_json(answer.read(1024**2))
            except WireError as e:
                raise ArtifactError(f"{realm} answered with no token: {e}", _UNAUTHORIZED) from e
        token = (body.get("token") or body.get("access_token")) if isinstance(body, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ArtifactError(f"{realm} answered with no token", _UNAUTHORIZED)
        return token
