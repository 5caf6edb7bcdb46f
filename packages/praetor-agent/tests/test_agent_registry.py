# SPDX-License-Identifier: Apache-2.0
"""Pulling from a registry on a real socket: one that asks for tokens, redirects, lies, or is not there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agent_testing import http_server, respond
from praetor_agent.artifacts.oci import TITLE, OciSource
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.artifacts.web import Pace, Web
from praetor_agent.errors import ArtifactError
from praetor_agent.settings import Registries
from praetor_api.protocol import ArtifactReason as Reason
from praetor_api.spec import Artifact, ArtifactType

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
PACE = Pace(connect=2, answer=2, quiet=2, window=0.2, bytes_per_second=10_000)


@dataclass
class FakeRegistry:
    """Holds blobs and manifests by digest and serves them as the distribution specification says."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    password: str | None = None
    basic: bool = False
    lies: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    challenges: list[str] = field(default_factory=list)
    host: str = ""

    def blob(self, content: bytes, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def manifest(self, body: Mapping[str, Any]) -> str:
        content = json.dumps({"schemaVersion": 2, **body}).encode()
        digest = hashlib.sha256(content).hexdigest()
        self.manifests[digest] = content
        return digest

    def image(self, *layers: Mapping[str, str | None], architecture: str = "amd64") -> str:
        config = self.blob(json.dumps({"os": "linux", "architecture": architecture}).encode(), CONFIG)
        return self.manifest({"config": config, "layers": [self.blob(layer_of(layer)) for layer in layers]})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, dict(handler.headers.items())))
        digest = handler.path.rpartition(":")[2]
        if handler.path.startswith("/token"):
            good = handler.headers.get("Authorization") == self._basic()
            respond(200 if good else 401, json.dumps({"token": "t0ken"}).encode())(handler)
        elif self.password and handler.headers.get("Authorization") != (
            self._basic() if self.basic else "Bearer t0ken"
        ):
            realm = "Basic realm=x" if self.basic else f'Bearer realm="http://{self.host}/token",service="s"'
            handler.send_response(401)
            for challenge in self.challenges or [realm]:
                handler.send_header("WWW-Authenticate", challenge)
            handler.end_headers()
        elif digest in self.lies:
            self.lies[digest](handler)
        else:
            content = (self.manifests if "/manifests/" in handler.path else self.blobs).get(digest)
            start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
            if content is None:
                respond(404)(handler)
            elif start:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                respond(206, content[start:], {"Content-Range": span})(handler)
            else:
                respond(200, content)(handler)

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"me:{self.password}".encode()).decode()


def layer_of(files: Mapping[str, str | None]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text or ""), 0o755
            archive.addfile(info, io.BytesIO((text or "").encode()))
    return gzip.compress(out.getvalue(), mtime=0)


@contextmanager
def serving(registry: FakeRegistry) -> Iterator[FakeRegistry]:
    with http_server(registry.answer) as registry.host:
        yield registry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving(FakeRegistry()) as registry:
        yield registry


def pull(registry: FakeRegistry, digest: str, store: Path, **said: Any) -> Path:
    registries = Registries(**{"insecure": frozenset({registry.host}), **said})
    source = OciSource(Web(pace=PACE), registries, "x86_64")
    artifact = Artifact(type=ArtifactType.OCI, url=f"{registry.host}/team/app@sha256:{digest}")
    state = ArtifactStore(store).add(artifact, source.fetch)
    assert state.digest == f"sha256:{digest}"
    assert ArtifactStore(store).find(artifact) == state
    assert state.path is not None
    return Path(state.path)


def refused(registry: FakeRegistry, digest: str, store: Path, **said: Any) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        pull(registry, digest, store, **said)
    assert [path for path in store.iterdir() if not path.name.startswith(".")] == []
    assert list(store.glob(".new-*")) == []
    return caught.value


def test_layers_lie_over_each_other(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.image({"bin/app": "1", "old": "1"}, {"bin/app": "2", ".wh.old": None})
    root = pull(registry, digest, tmp_path)
    assert (root / "bin/app").read_text() == "2"
    assert not (root / "old").exists()
    assert list((tmp_path / ".parts").iterdir()) == []


def test_an_index_gives_the_manifest_for_this_device(registry: FakeRegistry, tmp_path: Path) -> None:
    entries = [
        {"mediaType": "x", "size": 1, "digest": f"sha256:{registry.image({'app': name}, architecture=name)}",
         "platform": {"os": "linux", "architecture": name}}
        for name in ("arm64", "amd64")
    ]  # fmt: skip
    root = pull(registry, registry.manifest({"manifests": entries}), tmp_path)
    assert (root / "app").read_text() == "amd64"
    missing = refused(registry, registry.manifest({"manifests": entries[:1]}), tmp_path / "other")
    assert (missing.reason, "only for linux/arm64" in str(missing)) == (Reason.PLATFORM_MISSING, True)


@pytest.mark.parametrize("platform", [{}, {"platform": {}}, {"platform": None}])
def test_an_index_without_platforms_leads_to_its_only_manifest(
    registry: FakeRegistry, tmp_path: Path, platform: Mapping[str, Any]
) -> None:
    def index(*architectures: str) -> str:
        manifests = [registry.image({"one": each}, architecture=each) for each in architectures]
        return registry.manifest({"manifests": [{**described(each), **platform} for each in manifests]})

    def described(digest: str) -> dict[str, Any]:
        size = len(registry.manifests[digest])
        return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{digest}", "size": size}

    assert (pull(registry, index("amd64"), tmp_path / "store") / "one").read_text() == "amd64"
    for there in (("arm64",), ("amd64", "arm64")):
        assert refused(registry, index(*there), tmp_path / "-".join(there)).reason is Reason.PLATFORM_MISSING


def test_the_empty_config_of_old_tools_is_for_every_platform(registry: FakeRegistry, tmp_path: Path) -> None:
    layers = [registry.blob(b"firmware", "application/octet-stream", annotations={TITLE: "fw.bin"})]
    digest = registry.manifest({"config": registry.blob(b"{}", CONFIG), "layers": layers})
    assert (pull(registry, digest, tmp_path) / "fw.bin").read_bytes() == b"firmware"


@pytest.mark.parametrize("title", ["app.tar.gz", "app.tgz", "app.tar"])
def test_an_archive_pushed_as_an_artifact_is_unpacked(registry: FakeRegistry, tmp_path: Path, title: str) -> None:
    content = layer_of({"bin/app": "1"})
    content = gzip.decompress(content) if title.endswith("tar") else content
    layers = [registry.blob(content, "application/gzip", annotations={TITLE: title})]
    digest = registry.manifest({"config": registry.blob(b"{}", "application/vnd.x+json"), "layers": layers})
    assert (pull(registry, digest, tmp_path) / "bin" / "app").read_text() == "1"


def test_an_image_for_another_machine_is_not_unpacked(registry: FakeRegistry, tmp_path: Path) -> None:
    problem = refused(registry, registry.image({"app": ""}, architecture="arm64"), tmp_path)
    assert problem.reason is Reason.PLATFORM_MISSING


def test_a_file_pushed_as_an_artifact_gets_its_title(registry: FakeRegistry, tmp_path: Path) -> None:
    layer = registry.blob(b"#!/bin/sh\n", "application/x-anything", annotations={TITLE: "tools/run.sh"})
    empty = registry.blob(b"{}", "application/vnd.oci.empty.v1+json")
    root = pull(registry, registry.manifest({"config": empty, "layers": [layer]}), tmp_path)
    assert (root / "tools/run.sh").read_bytes() == b"#!/bin/sh\n"
    bad = registry.blob(b"x", "application/x-anything", annotations={TITLE: "../../run.sh"})
    problem = refused(registry, registry.manifest({"config": empty, "layers": [bad]}), tmp_path / "other")
    assert problem.reason is Reason.UNSAFE_ARCHIVE


@pytest.mark.parametrize("basic", [True, False])
def test_credentials_come_from_a_file_of_docker_login(registry: FakeRegistry, tmp_path: Path, basic: bool) -> None:
    registry.password, registry.basic = "secret", basic
    auth = tmp_path / "config.json"
    auth.write_text(json.dumps({"auths": {registry.host: {"auth": base64.b64encode(b"me:secret").decode()}}}))
    auth.chmod(0o600)
    digest = registry.image({"app": "1"})
    assert (pull(registry, digest, tmp_path / "a", auth_file=str(auth)) / "app").read_text() == "1"
    assert refused(registry, digest, tmp_path / "b").reason is Reason.UNAUTHORIZED
    auth.chmod(0o644)
    assert "chmod 600" in str(refused(registry, digest, tmp_path / "c", auth_file=str(auth)))


@pytest.mark.parametrize(
    ("says", "asked"),
    [
        pytest.param(["Bearer realm={realm},service=s"], "bearer", id="unquoted"),
        pytest.param(['BEARER Realm = "{realm}" , SERVICE="s"'], "bearer", id="any case and blanks"),
        pytest.param(['Negotiate YII=, Bearer realm="{realm}",service="s"'], "bearer", id="after another scheme"),
        pytest.param(
            ['Digest realm="a, Bearer b", nonce="\\"",, bearer service=s,realm={realm}'], "bearer", id="traps"
        ),
        pytest.param(["Negotiate", 'Bearer error="x",realm="{realm}",service="s"'], "bearer", id="two headers"),
        pytest.param(['Bearer error="invalid_token", bAsIc realm=x'], "basic", id="basic in any case"),
        pytest.param(["Basic", "Bearer realm={realm},service=s"], "basic", id="without parameters"),
        pytest.param(["Negotiate", "=,=", '"'], "", id="nothing it can use"),
    ],
)
def test_every_form_of_a_challenge_is_understood(
    registry: FakeRegistry, tmp_path: Path, says: list[str], asked: str
) -> None:
    registry.password, registry.basic = "pa55", asked == "basic"
    registry.challenges = [said.format(realm=f"http://{registry.host}/token") for said in says]
    auth_file = tmp_path / "auth.json"
    auth_file.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": "pa55"}}}))
    auth_file.chmod(0o600)
    digest, store = registry.image({"one": "1"}), tmp_path / "store"
    if asked:
        assert (pull(registry, digest, store, auth_file=str(auth_file)) / "one").read_text() == "1"
        tokens = [path for path, _ in registry.seen if path.startswith("/token")]
        assert tokens == (["/token?service=s&scope=repository%3Ateam%2Fapp%3Apull"] if asked == "bearer" else [])
    else:
        assert refused(registry, digest, store, auth_file=str(auth_file)).reason is Reason.UNAUTHORIZED


def test_credentials_do_not_follow_a_redirect_to_another_host(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.password, registry.basic = "secret", True
    auth = tmp_path / "config.json"
    auth.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": "secret"}}}))
    auth.chmod(0o600)
    digest = registry.image({"app": "1"})
    with serving(FakeRegistry(blobs=dict(registry.blobs))) as elsewhere:
        for blob in registry.blobs:
            location = {"Location": f"http://{elsewhere.host}/v2/x/blobs/sha256:{blob}"}
            registry.lies[blob] = respond(307, b"", location)
        pull(registry, digest, tmp_path / "a", auth_file=str(auth))
        assert elsewhere.seen
        assert all("Authorization" not in headers for _, headers in elsewhere.seen)


def test_mirrors_are_tried_first_and_need_not_be_believed(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.image({"app": "1"})
    with serving(FakeRegistry()) as mirror:
        mirrors = {registry.host: (f"http://{mirror.host}",)}
        pull(registry, digest, tmp_path / "a", mirrors=mirrors)
        mirror.manifests[digest] = b'{"schemaVersion": 2}'
        pull(registry, digest, tmp_path / "b", mirrors=mirrors)
        mirror.manifests, mirror.blobs, registry.seen = registry.manifests, registry.blobs, []
        pull(registry, digest, tmp_path / "c", mirrors=mirrors)
    assert registry.seen == []


def test_a_registry_that_asks_to_wait_is_asked_once_and_a_mirror_as_well(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    digest = registry.image({"one": "1"})
    with serving(FakeRegistry()) as mirror:
        for each, seconds in ((registry, "600"), (mirror, "3000")):
            each.lies[digest] = respond(429, b"", {"Retry-After": seconds})
        mirrors = {registry.host: (f"http://{mirror.host}",)}
        source = OciSource(Web(pace=PACE), Registries(insecure=frozenset({registry.host}), mirrors=mirrors), "x86_64")
        wanted = Artifact(type=ArtifactType.OCI, url=f"{registry.host}/team/app@sha256:{digest}")
        for _ in range(2):
            with pytest.raises(ArtifactError) as caught:
                ArtifactStore(tmp_path).add(wanted, source.fetch)
            assert 590 < caught.value.retry_after <= 750
    assert (len(registry.seen), len(mirror.seen)) == (1, 1)


def test_plain_http_is_for_hosts_that_were_named(registry: FakeRegistry, tmp_path: Path) -> None:
    problem = refused(registry, registry.image({"app": "1"}), tmp_path, insecure=frozenset())
    assert problem.reason is Reason.UNREACHABLE
    assert registry.seen == []


def test_a_token_is_not_fetched_from_where_it_could_be_overheard() -> None:
    from praetor_agent.artifacts.oci import Registry

    wanted = Registry(Web(), "https://registry.example", "app", "c2VjcmV0")
    with pytest.raises(ArtifactError, match="wants the password sent to"):
        wanted._token({"realm": "http://elsewhere.example/token"})


def test_a_wrong_second_layer_leaves_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.image({"one": "1"}, {"two": "2"})
    second = hashlib.sha256(layer_of({"two": "2"})).hexdigest()
    right = registry.blobs[second]
    registry.blobs[second] = right[:-1] + bytes([right[-1] ^ 1])
    assert refused(registry, digest, tmp_path).reason is Reason.DIGEST_MISMATCH


def dribble(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            handler.connection.settimeout(0.02)
            try:
                if not handler.connection.recv(1):
                    return
            except (TimeoutError, socket.timeout):
                continue
    except OSError:
        return


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        pytest.param(respond(500), Reason.DOWNLOAD_FAILED, id="broken"),
        pytest.param(respond(403), Reason.UNAUTHORIZED, id="forbidden"),
        pytest.param(respond(404), Reason.NOT_FOUND, id="gone"),
        pytest.param(respond(200, b"x"), Reason.SIZE_MISMATCH, id="too short"),
        pytest.param(respond(200, b"x" * 9999), Reason.SIZE_MISMATCH, id="too long"),
        pytest.param(lambda h: respond(302, b"", {"Location": h.path})(h), Reason.DOWNLOAD_FAILED, id="in circles"),
        pytest.param(respond(302, b"", {"Location": "file:///etc/passwd"}), Reason.UNSUPPORTED, id="to a file"),
        pytest.param(lambda h: h.wfile.write(b"\xff\xfe garbage\r\n\r\n"), Reason.DOWNLOAD_FAILED, id="no http"),
        pytest.param(lambda h: None, Reason.DOWNLOAD_FAILED, id="hangs up"),
    ],
)
def test_a_registry_that_sends_a_wrong_layer_is_reported(
    registry: FakeRegistry, tmp_path: Path, lie: Callable[[BaseHTTPRequestHandler], None], reason: Reason
) -> None:
    digest = registry.image({"one": "1"})
    registry.lies[hashlib.sha256(layer_of({"one": "1"})).hexdigest()] = lie
    assert refused(registry, digest, tmp_path).reason is reason


def test_the_digest_decides_whatever_encoding_a_registry_claims(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.image({"one": "1"})
    for claimed, content in list((registry.blobs | registry.manifests).items()):
        registry.lies[claimed] = respond(200, content, {"Content-Encoding": "gzip"})
    assert (pull(registry, digest, tmp_path) / "one").read_text() == "1"


def test_a_registry_that_dribbles_is_given_up(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.image({"one": "1"})
    registry.lies[hashlib.sha256(layer_of({"one": "1"})).hexdigest()] = dribble
    problem = refused(registry, digest, tmp_path)
    assert "too slowly" in str(problem)


@pytest.mark.parametrize("named", [True, False], ids=["with a length", "without a length"])
def test_the_download_of_an_interrupted_layer_is_resumed(registry: FakeRegistry, tmp_path: Path, named: bool) -> None:
    digest = registry.image({"one": "1" * 100})
    blob = hashlib.sha256(layer_of({"one": "1" * 100})).hexdigest()
    whole = registry.blobs[blob]
    if not named:
        registry.lies[digest] = respond(200, registry.manifests[digest][:50], {"Content-Length": None})
        assert refused(registry, digest, tmp_path).reason is Reason.DOWNLOAD_FAILED
        del registry.lies[digest]
    registry.lies[blob] = respond(200, whole[:50], {"Content-Length": str(len(whole)) if named else None})
    assert refused(registry, digest, tmp_path).reason is Reason.DOWNLOAD_FAILED
    del registry.lies[blob]
    pull(registry, digest, tmp_path)
    assert [headers["Range"] for path, headers in registry.seen if "Range" in headers] == ["bytes=50-"]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"config": {}, "layers": []}, Reason.UNSUPPORTED),
        ({"config": {"mediaType": CONFIG, "digest": "md5:1", "size": 1}, "layers": [{}]}, Reason.UNSUPPORTED),
        ({"layers": "none"}, Reason.UNSUPPORTED),
        ({"manifests": [], "layers": []}, Reason.UNSAFE_ARCHIVE),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    registry: FakeRegistry, tmp_path: Path, manifest: Mapping[str, Any], reason: Reason
) -> None:
    assert refused(registry, registry.manifest(manifest), tmp_path).reason is reason


def test_zstd_is_refused_by_name(registry: FakeRegistry, tmp_path: Path) -> None:
    layer = registry.blob(b"x", "application/vnd.oci.image.layer.v1.tar+zstd")
    digest = registry.manifest({"config": registry.blob(b"{}", CONFIG), "layers": [layer]})
    problem = refused(registry, digest, tmp_path)
    assert problem.reason is Reason.UNSUPPORTED
    assert "tar+zstd" in str(problem)


@pytest.mark.parametrize("url", ["registry/app:1", "registry/app@sha256:12", "app", "http://r/x@sha256:" + "0" * 64])
def test_what_is_not_named_by_digest_is_refused(tmp_path: Path, url: str) -> None:
    source = OciSource(Web(pace=PACE), Registries())
    with pytest.raises(ArtifactError, match="by digest"):
        ArtifactStore(tmp_path).add(Artifact(type=ArtifactType.OCI, url=url), source.fetch)


def test_where_metadata_is_no_artifact_may_come_from() -> None:
    from urllib.parse import urlsplit

    from praetor_agent.artifacts.web import _is_local

    for peer in ("169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"):
        with pytest.raises(ArtifactError) as caught:
            _is_local(peer, urlsplit("http://x/"))
        assert caught.value.reason is Reason.NOT_ALLOWED
    assert _is_local("127.0.0.1", urlsplit("http://x/"))
    assert not _is_local("10.1.2.3", urlsplit("http://x/"))
