# SPDX-License-Identifier: Apache-2.0
"""Artifacts from registries: images, and files pushed as artifacts. Every byte is verified against a digest.

Chain of trust: the URL pins the manifest (or the index, which pins it), the manifest pins the config and each layer by
size and digest. Nothing else that a registry, a mirror or a proxy sends is trusted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import field
from typing import Any
from urllib.parse import urlencode, urlsplit

from praetor_agent.artifacts.names import is_archive
from praetor_agent.artifacts.partial_download import PartialDownload, Work, download
from praetor_agent.artifacts.web import Answer, Web
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import Registries
from praetor_api.backports import dataclass
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.spec import Artifact
from praetor_api.wire import WireError, parse_json

_UNAUTHORIZED = Reason.UNAUTHORIZED
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHALLENGE = re.compile(
    rf'[\s,]*(?:(?P<name>{_WORD})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))(?=\s*(?:,|$))'
    rf"|(?P<scheme>{_WORD})(?:\s+[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$)))?(?=[\s,]|$))"
)
"""The next scheme, or parameter of the scheme before (RFC 9110, 11.6.1). URLs without quotes are understood as well."""


def registries_for(settings: Registries, web: Web, host: str, repository: str) -> Iterator[Registry]:
    """Yield the registries to try for *repository*: mirrors of *host*, then *host* itself."""
    for mirror in settings.mirrors.get(host, ()):
        yield Registry(web, mirror, repository, _credentials(settings.auth_file, urlsplit(mirror).netloc))
    real = {"docker.io": "registry-1.docker.io"}.get(host, host)
    scheme = "http" if host in settings.insecure else "https"
    yield Registry(web, f"{scheme}://{real}", repository, _credentials(settings.auth_file, host))


def _credentials(path: str | None, host: str) -> str | None:
    """Return the credentials for Basic authentication; the file is read each time."""
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
        """Return the answer to a GET below the repository, with a token if the registry requires one."""
        url = f"{self._base}/{path}"
        self._authorize(url, accept)
        return self.web.get(url, self._headers({"Accept": accept}))

    def blob(self, digest: str, *, again: bool) -> tuple[str, dict[str, str]]:
        """Return URL and headers for a blob; *again* with a new token."""
        url = f"{self._base}/blobs/sha256:{digest}"
        if again:
            self._authorize(f"{self._base}/manifests/sha256:{digest}", "*/*")
        return url, self._headers({})

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        return headers | ({"Authorization": self._authorization} if self._authorization else {})

    def _authorize(self, url: str, accept: str) -> None:
        """Get the authorization that the registry requires, which it names in its answer to a request without one."""
        if self._authorization is not None and accept != "*/*":
            return
        with self.web.get(url, {"Accept": accept}) as answer:
            challenges = answer.headers.get_all("WWW-Authenticate") or []
            if answer.status != 401:
                return
            if urlsplit(answer.url).netloc != self.host:
                raise ArtifactError(f"{self.host} leads to {answer.url}, which wants a password", _UNAUTHORIZED)
        for scheme, parameters in _challenges(challenges):
            if scheme == "basic" and self._credentials:
                self._authorization = f"Basic {self._credentials}"
                return
            if scheme == "bearer" and "realm" in parameters:
                self._authorization = f"Bearer {self._token(parameters)}"
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


def _challenges(headers: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Return scheme and parameters, in lower case, of each challenge; the rest of a header that has none is ignored."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        end = 0
        while each := _CHALLENGE.match(header, end):
            end = each.end()
            if each["scheme"]:
                found.append((each["scheme"].lower(), {}))
            elif found:
                quoted = each["quoted"]
                value = each["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1].setdefault(each["name"].lower(), value)
    return found


MAX_MANIFEST_BYTES = 4 * 1024**2
MAX_LAYERS = 128
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        _OCI_MANIFEST,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_TAR = re.compile(r"application/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip)?|docker\.image\.rootfs\.diff\.tar(\.gzip)?)")
_CONFIG = re.compile(r"application/vnd\.(oci\.image\.config\.v1|docker\.container\.image\.v1)\+json")
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?)"
    r"/(?P<repository>[a-z0-9._/-]{1,255})(:[\w.-]{1,128})?@sha256:(?P<digest>[0-9a-f]{64})"
)
_MACHINES = {
    "x86_64": "amd64",
    "i686": "386",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
}
_FINAL = frozenset(
    {
        Reason.DISK_FULL,
        Reason.TOO_LARGE,
        Reason.UNSAFE_ARCHIVE,
        Reason.VERIFICATION_FAILED,
        Reason.PLATFORM_MISSING,
        Reason.UNSUPPORTED,
    }
)
_VARIANTS = {"arm64": ("v8",), "amd64": ("v1",), "armv7l": ("v7", "v6", "v5"), "armv6l": ("v6", "v5")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob as a manifest describes it."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The image or artifact at *reference*: a manifest and its blobs; every byte is verified."""

    reference: str
    digest: str
    manifest: bytes
    media_type: str
    config: Descriptor
    layers: list[Descriptor]
    parts: Mapping[str, PartialDownload]

    @property
    def runs(self) -> bool:
        """Whether it is a container image, and not another kind of artifact."""
        return bool(_CONFIG.fullmatch(self.config.media_type))


class OciSource:
    """Pulls by digest and unpacks."""

    def __init__(self, web: Web, registries: Registries, machine: str | None = None) -> None:
        self._web = web
        self._registries = registries
        self._machine = machine or this_machine()

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put the content of the image or artifact into *work*; registries are tried in order."""
        return self.fetch_with(artifact, work, _unpack)

    def fetch_with(self, artifact: Artifact, work: Work, write: Callable[[Image, Work], None]) -> str:
        """Fetch the image or artifact, let *write* put it into *work*, and return its digest."""
        found = _REFERENCE.fullmatch(artifact.url)
        if found is None:
            what = f"{artifact.url!r} names no artifact by digest; write registry/repository@sha256:…"
            raise ArtifactError(what, Reason.UNSUPPORTED)
        problem: ArtifactError | None = None
        for registry in registries_for(self._registries, self._web, found["host"], found["repository"]):
            try:
                self._pull(registry, artifact.url, work, write)
            except ArtifactError as e:
                # A problem of the device or of the content is the same with every registry.
                if e.reason in _FINAL:
                    raise
                if problem is not None:  # the one that may be asked first
                    e.retry_after = min(e.retry_after, problem.retry_after)
                problem = e
            else:
                return found["digest"]
        raise problem or ArtifactError(f"{found['host']} is no registry", Reason.UNSUPPORTED)

    def _pull(self, registry: Registry, reference: str, work: Work, write: Callable[[Image, Work], None]) -> None:
        digest = reference.rpartition(":")[2]
        body, manifest = self._manifest(registry, digest)
        if "manifests" in manifest:
            digest = self._choose(manifest)
            body, manifest = self._manifest(registry, digest)
        config, layers = _described(manifest.get("config")), manifest.get("layers")
        if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
            raise _unsupported(f"a manifest of {len(layers) if isinstance(layers, list) else 'no'} layers")
        described = [_described(layer) for layer in layers]
        if write is _unpack:
            for layer in described:
                _check_kind(layer)
        if config.size > MAX_MANIFEST_BYTES or sum(layer.size for layer in described) > work.max_bytes:
            raise ArtifactError(f"the image is longer than {work.max_bytes} bytes", Reason.TOO_LARGE)
        with ExitStack() as opened:
            parts = {d.digest: opened.enter_context(work.part(d.digest)) for d in [config, *described]}
            parts[config.digest].make_sure(sum(d.size - min(d.size, parts[d.digest].size) for d in described))
            for each in {d.digest: d for d in [config, *described]}.values():
                _download(registry, each, parts[each.digest])
            kind = str(manifest.get("mediaType") or _OCI_MANIFEST)
            image = Image(
                reference=reference,
                digest=digest,
                manifest=body,
                media_type=kind,
                config=config,
                layers=described,
                parts=parts,
            )
            if image.runs:
                self._check_platform(parts[config.digest])
            write(image, work)
            for part in parts.values():
                part.remove()

    def _manifest(self, registry: Registry, digest: str) -> tuple[bytes, Mapping[str, Any]]:
        with registry.get(f"manifests/sha256:{digest}", MANIFESTS) as answer:
            answer.expect(200, verified=True)
            body = answer.read(MAX_MANIFEST_BYTES)
        found = hashlib.sha256(body).hexdigest()
        if found != digest:
            cut = not answer.delimited  # perhaps
            raise ArtifactError(
                f"{registry.host} sent a manifest of {len(body)} bytes with sha256 {found}, not {digest}",
                Reason.DOWNLOAD_FAILED if cut else Reason.DIGEST_MISMATCH,
            )
        try:
            manifest = parse_json(body)
        except WireError as e:
            raise _unsupported(f"a manifest that is no JSON: {e}") from e
        if not isinstance(manifest, dict) or manifest.get("schemaVersion") != 2:
            raise _unsupported("a manifest that is not of schema version 2")
        if "manifests" in manifest and ("layers" in manifest or "config" in manifest):
            raise ArtifactError("a manifest claims to be an index as well", Reason.UNSAFE_ARCHIVE)
        return body, manifest

    def _choose(self, index: Mapping[str, Any]) -> str:
        """Return the digest of the manifest for this device."""
        entries = index["manifests"] if isinstance(index["manifests"], list) else []
        there: dict[str, str] = {}
        unnamed: list[str] = []
        for entry in entries:
            platform = entry.get("platform") if isinstance(entry, dict) else None
            if name := _platform(platform) if isinstance(platform, dict) else "":
                there.setdefault(name, _described(entry).digest)
            else:
                unnamed.append(_described(entry).digest)
        for wanted in self._wanted():
            if wanted in there:
                return there[wanted]
        if len(unnamed) == 1:
            return unnamed[0]  # its config names the platform
        rest = [*sorted(there), *([f"{len(unnamed)} manifests without a platform"] if unnamed else [])]
        message = f"there is nothing for {self._wanted()[0]}, only for {', '.join(rest) or 'no platform'}"
        raise ArtifactError(message[:512], Reason.PLATFORM_MISSING)

    def _wanted(self) -> list[str]:
        architecture = _MACHINES.get(self._machine, self._machine)
        variants = _VARIANTS.get(self._machine) or _VARIANTS.get(architecture, ())
        plain = f"linux/{architecture}"
        return [*(f"{plain}/{variant}" for variant in variants), plain]

    def _check_platform(self, config: PartialDownload) -> None:
        config.file.seek(0)
        try:
            said = parse_json(config.file.read(MAX_MANIFEST_BYTES))
        except WireError as e:
            raise _unsupported(f"a config that is no JSON: {e}") from e
        platform = _platform(said) if isinstance(said, dict) else ""
        if said == {}:
            return  # of a tool that pushes files, and names no platform
        if platform not in self._wanted() and platform.rpartition("/")[0] not in self._wanted():
            raise ArtifactError(f"the image is for {platform}, not {self._wanted()[0]}", Reason.PLATFORM_MISSING)


def this_machine() -> str:
    """Return the machine that this Python runs on, for which images must be built."""
    machine = os.uname().machine
    if struct.calcsize("P") == 4:
        return {"x86_64": "i686", "aarch64": "armv7l"}.get(machine, machine)
    return machine


def _download(registry: Registry, blob: Descriptor, part: PartialDownload) -> None:
    for again in (False, True):
        url, headers = registry.blob(blob.digest, again=again)
        try:
            download(registry.web, url, part, headers=headers, size=blob.size)
            break
        except ArtifactError as e:
            if again or e.reason is not Reason.UNAUTHORIZED:
                raise  # a token may have ended while the layers before came in
    part.verify(blob.digest, f"blob {blob.digest[:12]}… from {registry.host}")


def _unpack(image: Image, work: Work) -> None:
    with work.rootfs(image=True) as rootfs:
        for layer in image.layers:
            _lay(layer, image.parts[layer.digest], rootfs)


def _lay(layer: Descriptor, part: PartialDownload, rootfs: Any) -> None:
    title = layer.annotations.get(TITLE)
    if title and layer.annotations.get(UNPACK) != "true" and not is_archive(title):
        rootfs.next_layer()
        rootfs.meter.packed(part.size)
        part.file.seek(0)
        rootfs.file(title, part.size, part.file.read, executable=True)
        return
    from praetor_agent.artifacts.unpack import unpack

    unpack(part.file, part.size, rootfs, image=True)


def _check_kind(layer: Descriptor) -> None:
    titled = layer.annotations.get(TITLE) and layer.annotations.get(UNPACK) != "true"
    if not titled and not _TAR.fullmatch(layer.media_type) and layer.annotations.get(UNPACK) != "true":
        raise _unsupported(f"a layer of media type {layer.media_type[:100]!r}; push it as tar or gzip, or with a title")


def _described(data: object) -> Descriptor:
    entry = data if isinstance(data, dict) else {}
    digest, size, kind = entry.get("digest"), entry.get("size"), entry.get("mediaType")
    notes = entry.get("annotations") or {}
    if not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise _unsupported("a manifest that does not name its parts by sha256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(kind, str):
        raise _unsupported("a manifest without the size and type of its blobs")
    if not isinstance(notes, dict):
        raise _unsupported("a manifest with bad annotations")
    texts = {key: value for key, value in notes.items() if isinstance(value, str)}
    return Descriptor(media_type=kind, digest=digest.removeprefix("sha256:"), size=size, annotations=texts)


def _platform(said: Mapping[str, Any]) -> str:
    parts = (said.get("os"), said.get("architecture"), said.get("variant"))
    return "/".join(str(part)[:32] for part in parts if part)


def _unsupported(what: str) -> ArtifactError:
    return ArtifactError(f"the registry holds {what}", Reason.UNSUPPORTED)
