# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Thread

import pytest

from agent_testing import WITHIN_SECONDS, FakeClock, http_server, respond, until
from praetor_agent.artifacts.fetcher import Fetcher, Source, device_sources
from praetor_agent.artifacts.files import FileSource, HttpSource, file_path
from praetor_agent.artifacts.names import file_name
from praetor_agent.artifacts.partial_download import Work, download
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.artifacts.web import Web
from praetor_agent.clock import SystemClock
from praetor_agent.core.model import ArtifactState, pinned
from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason, DesiredItem
from praetor_api.spec import Artifact, ArtifactType, Backend, Execution, ProcessSpec

CONTENT = b"#!/bin/sh\nexit 0\n" * 1000
PACKED = gzip.compress(CONTENT, mtime=0)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def artifact(url: str, checksum: str | None = DIGEST, kind: ArtifactType = ArtifactType.HTTP) -> Artifact:
    return Artifact(type=kind, url=url, checksum_sha256=checksum)


def item(wanted: Artifact | None, spec_hash: str = "v1") -> DesiredItem:
    spec = ProcessSpec(artifact=wanted, execution=Execution(backend=Backend.PROCESS, command=("fw",)))
    return DesiredItem(uid="u", namespace="n", name="fw", spec=spec, spec_hash=spec_hash)


def fetch(source: Source, store: ArtifactStore, wanted: Artifact) -> ArtifactState:
    return store.add(wanted, source.fetch)


class Pieces:
    """A source that has its bytes at hand."""

    def __init__(self, pieces: Iterable[bytes], name: str = "x") -> None:
        self._pieces = pieces
        self._name = name

    def fetch(self, artifact: Artifact, work: Work) -> str:
        with work.part(self._name) as part:
            for piece in self._pieces:
                part.append(piece)
            expected = pinned(artifact)
            if expected:
                part.verify(expected, artifact.url)
            digest = part.digest()
            work.take(part, artifact.url)
        return digest


def held(store: Path) -> list[str]:
    """Return what has a name in the store, and the parts."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


@pytest.mark.parametrize("checksum", [DIGEST, None])
def test_a_file_is_known_to_be_the_one_only_if_its_checksum_was_given(tmp_path: Path, checksum: str | None) -> None:
    (tmp_path / "fw").write_bytes(CONTENT)
    wanted = artifact(str(tmp_path / "fw"), checksum, ArtifactType.FILE)
    store = ArtifactStore(tmp_path / "artifacts")
    state = fetch(FileSource(), store, wanted)
    assert (state.digest, state.pinned) == (f"sha256:{DIGEST}", checksum is not None)
    assert store.find(wanted) == (state if checksum else None)


def test_a_file_of_the_web_is_kept_under_its_digest_ready_to_execute(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    with http_server(respond(200, CONTENT)) as host:
        wanted = artifact(f"http://{host}/release/fw.bin?x=1")
        state = fetch(HttpSource(Web()), store, wanted)
    assert state.path is not None
    assert Path(state.path).name == "fw.bin"
    assert DIGEST in state.path
    assert state.digest == f"sha256:{DIGEST}"
    assert Path(state.path).read_bytes() == CONTENT
    assert os.access(state.path, os.X_OK)
    assert store.find(wanted) == state


@pytest.mark.parametrize("checksum", [DIGEST.upper(), f"sha256:{DIGEST}"])
def test_a_checksum_may_be_written_in_either_form(tmp_path: Path, checksum: str) -> None:
    store, wanted = ArtifactStore(tmp_path), artifact("http://x/fw", checksum)
    assert fetch(Pieces([CONTENT]), store, wanted).path is not None
    assert store.find(wanted) is not None


def test_what_is_not_what_was_pinned_is_never_given_a_name(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match="has sha256") as caught:
        fetch(Pieces([CONTENT, b"!"]), store, artifact("http://x/fw"))
    assert caught.value.downloaded
    assert [name for name in held(tmp_path) if "READY" in name] == []


def test_what_is_too_long_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="longer than 10 bytes"):
        fetch(Pieces([b"x" * 6] * 1000), ArtifactStore(tmp_path, max_bytes=10), artifact("http://x/fw"))
    assert [name for name in held(tmp_path) if "READY" in name] == []


def test_a_store_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written"):
        fetch(Pieces([b""]), ArtifactStore(tmp_path / "file"), artifact("http://x/fw"))


def test_only_what_is_used_survives_a_collection(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    store.collect([])
    kept = fetch(Pieces([b"a"]), store, artifact("http://x/a", None))
    gone = fetch(Pieces([b"b"]), store, artifact("http://x/b", None))
    (tmp_path / "artifacts" / ".new-1").mkdir()
    assert kept.path is not None
    assert gone.path is not None
    store.collect([kept.path], parts=False)
    assert Path(kept.path).is_file()
    assert list((tmp_path / "artifacts").iterdir()) == [Path(kept.path).parents[1]]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(respond(404, b"no"), "answered 404", id="missing"),
        pytest.param(respond(500, b"no"), "answered 500", id="broken"),
        pytest.param(respond(200, CONTENT, {"Content-Length": "999999"}), "ended after 17000", id="truncated"),
        pytest.param(respond(302, b"", {"Location": "/again"}), "redirects more than 3", id="redirects without end"),
    ],
)
def test_a_server_that_fails_is_reported(
    tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None], problem: str
) -> None:
    with http_server(answer) as host, pytest.raises(ArtifactError, match=problem):
        fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact(f"http://{host}/fw"))
    assert [name for name in held(tmp_path) if "READY" in name] == []


def test_a_server_that_is_missing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be reached"):
        fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact("http://127.0.0.1:1/fw"))


@pytest.mark.parametrize("url", ["{}", "file://{}", "file://localhost{}"])
def test_a_file_of_the_device_is_copied(tmp_path: Path, url: str) -> None:
    (tmp_path / "fw").write_bytes(CONTENT)
    wanted = artifact(url.format(tmp_path / "fw"), DIGEST, ArtifactType.FILE)
    state = fetch(FileSource(), ArtifactStore(tmp_path / "artifacts"), wanted)
    assert state.path is not None
    assert Path(state.path).read_bytes() == CONTENT


def test_processes_of_other_users_reach_the_artifact_and_nothing_else_is_opened_to_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    state = fetch(Pieces([CONTENT]), ArtifactStore(tmp_path / "state" / "artifacts"), artifact("http://x/fw"))
    path = Path(state.path or "")
    reached = [at for at in path.parents if at.is_relative_to(tmp_path / "state")]
    assert all(at.stat().st_mode & 0o001 for at in (path, *reached))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "state" / "artifacts" / ".parts").stat().st_mode) == 0o700


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, problem in ((tmp_path / "fifo", "not a regular file"), (tmp_path / "no", "No such file")):
        with pytest.raises(ArtifactError, match=problem):
            fetch(FileSource(), ArtifactStore(tmp_path / "a"), artifact(str(path), None, ArtifactType.FILE))


@pytest.mark.parametrize("url", ["relative", "file://other/x", "http://x/y", "/a\0b"])
def test_what_names_no_file_of_the_device_is_refused(url: str) -> None:
    with pytest.raises(ArtifactError, match="neither an absolute path"):
        file_path(url)


def test_a_path_in_a_url_may_be_encoded() -> None:
    assert file_path("file:///a%20b") == "/a b"
    assert file_path("/a%20b") == "/a%20b"


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://x/a/fw.bin?q=/z", "fw.bin"), ("http://x/", "artifact"), ("http://x/..", "artifact"),
     ("http://x/a%2Fb", "b"), ("/srv/fw", "fw"), ("http://x/%00a", "a")],
)  # fmt: skip
def test_a_file_is_named_after_its_url(url: str, name: str) -> None:
    assert file_name(url) == name


@pytest.fixture
def woken() -> Event:
    return Event()


@pytest.fixture
def fetching(tmp_path: Path, woken: Event) -> Fetcher:
    return fetcher(tmp_path, woken)


def fetcher(tmp_path: Path, woken: Event) -> Fetcher:
    return Fetcher(ArtifactStore(tmp_path / "artifacts"), device_sources(), SystemClock(), woken.set)


def want_file(fetching: Fetcher, woken: Event, tmp_path: Path, content: bytes | None = CONTENT) -> DesiredItem:
    """Let a file with *content*, or a missing one, be fetched, and return the item."""
    if content is not None:
        (tmp_path / "fw").write_bytes(content)
    wanted = item(artifact(str(tmp_path / "fw"), DIGEST, ArtifactType.FILE))
    fetching.want(wanted, 0)
    assert woken.wait(WITHIN_SECONDS)
    return wanted


def test_the_fetcher_has_an_artifact_ready_and_wakes_the_loop(tmp_path: Path, fetching: Fetcher, woken: Event) -> None:
    wanted = want_file(fetching, woken, tmp_path)
    assert fetching.states()["v1"].path is not None
    woken.clear()
    found = fetcher(tmp_path, woken)  # after a restart: nothing is copied again
    (tmp_path / "fw").unlink()
    found.keep([wanted])
    assert found.states()["v1"].path == fetching.states()["v1"].path
    assert (fetching.states()["v1"].attempts, found.states()["v1"].attempts) == (1, 0)
    found.keep([])
    assert found.states() == {}


def test_a_failed_artifact_is_not_retried_before_its_backoff_is_over(
    tmp_path: Path, fetching: Fetcher, woken: Event
) -> None:
    wanted, clock = want_file(fetching, woken, tmp_path, None), SystemClock()
    failure = fetching.states()["v1"].failure
    assert failure is not None
    assert (failure.reason, failure.artifact_downloaded, failure.artifact_verified) == ("NotFound", False, False)
    now = clock.now()
    due = fetching.next_at(now - 1)
    assert due is not None
    assert now < due <= now + 1
    (tmp_path / "fw").write_bytes(CONTENT)
    woken.clear()
    fetching.want(wanted, due - 0.1)
    assert fetching.states()["v1"].path is None
    fetching.want(wanted, due)
    assert woken.wait(WITHIN_SECONDS)
    assert fetching.states()["v1"].path is not None
    assert fetching.next_at(now) is None


def test_a_wrong_checksum_is_distinguished_from_a_failed_download(
    tmp_path: Path, fetching: Fetcher, woken: Event
) -> None:
    want_file(fetching, woken, tmp_path, b"other")
    failure = fetching.states()["v1"].failure
    assert failure is not None
    assert (failure.reason, failure.artifact_downloaded) == ("DigestMismatch", True)


def test_an_interrupted_download_is_resumed(tmp_path: Path) -> None:
    asked: list[tuple[str | None, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.headers.get("Range"), handler.headers.get("If-Range")))
        if len(asked) == 1:
            respond(200, CONTENT[:999], {"Content-Length": str(len(CONTENT)), "ETag": '"1"'})(handler)
            return
        start, length = (999, None) if len(asked) == 2 else (2000, str(len(CONTENT) - 2000))
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        rest = {"Content-Length": length, "Content-Range": span, "ETag": '"1"'}
        respond(206, CONTENT[start : None if length else 2000], rest)(handler)

    with http_server(answer) as host:
        for _ in range(2):
            with pytest.raises(ArtifactError, match=f"of {len(CONTENT)} bytes") as caught:
                fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact(f"http://{host}/fw"))
            assert (caught.value.reason, caught.value.downloaded) == ("DownloadFailed", False)
        state = fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact(f"http://{host}/fw"))
    assert asked == [(None, None), ("bytes=999-", '"1"'), ("bytes=2000-", '"1"')]
    assert Path(state.path or "").read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"1"', None])
@pytest.mark.parametrize("serves", [CONTENT, CONTENT.replace(b"0", b"1")], ids=["the right file", "another file"])
def test_a_body_without_a_length_may_be_cut_and_is_not_blamed_on_the_file(
    tmp_path: Path, serves: bytes, etag: str | None
) -> None:
    asked: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(said := handler.headers.get("Range"))
        start = int(said[6:-1]) if said else 0
        headers = {"Content-Length": None, "ETag": etag}
        if start == len(serves):
            respond(416, b"", {"Content-Range": f"bytes */{start}"})(handler)
        elif start:
            respond(206, serves[start:], {**headers, "Content-Range": f"bytes {start}-{len(serves) - 1}/*"})(handler)
        else:
            respond(200, serves[:999] if len(asked) == 1 else serves, headers)(handler)

    reasons: list[str] = []
    with http_server(answer) as host:
        for _ in range(4):
            try:
                fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact(f"http://{host}/fw"))
            except ArtifactError as e:
                reasons.append(e.reason)
            else:
                break
            if reasons[-1] != "DownloadFailed":
                break
    assert reasons == (
        ["DownloadFailed"] if serves == CONTENT else ["DownloadFailed", "DownloadFailed", "DigestMismatch"]
    )
    assert asked[1] == ("bytes=999-" if etag else None)


@pytest.mark.parametrize(
    ("pinned", "reason"),
    [(PACKED, None), (CONTENT, "DigestMismatch"), (None, "DownloadFailed")],
    ids=["the sent bytes", "the decoded bytes", "nothing"],
)
def test_the_checksum_decides_whatever_encoding_a_server_claims(
    tmp_path: Path, pinned: bytes | None, reason: str | None
) -> None:
    store, checksum = ArtifactStore(tmp_path), hashlib.sha256(pinned).hexdigest() if pinned else None
    with http_server(respond(200, PACKED, {"Content-Encoding": "gzip"})) as host:
        wanted = artifact(f"http://{host}/fw.gz", checksum)
        if reason is None:
            assert Path(fetch(HttpSource(Web()), store, wanted).path or "").read_bytes() == PACKED
        else:
            with pytest.raises(ArtifactError, match="Content-Encoding gzip") as caught:
                fetch(HttpSource(Web()), store, wanted)
            assert caught.value.reason == reason


def test_an_archive_is_unpacked_and_its_tree_is_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fw").write_bytes(CONTENT)
    with tarfile.open(tmp_path / "fw.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bin" / "fw", "bin/fw")
    wanted = artifact(str(tmp_path / "fw.tar.gz"), None, ArtifactType.FILE)
    state = fetch(FileSource(), ArtifactStore(tmp_path / "artifacts"), wanted)
    assert (Path(state.path or "") / "bin" / "fw").read_bytes() == CONTENT


@pytest.mark.parametrize("said", ['attachment; filename="fw-1.2.tar.gz"', "attachment; filename*=UTF-8''a%20b.tar.gz"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_server_may_say_that_what_it_sends_is_an_archive(tmp_path: Path, said: str, cut: bool) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("bin/fw")
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    body, store = out.getvalue(), ArtifactStore(tmp_path)
    with http_server(respond(200, body, {"Content-Disposition": said})) as host:
        wanted = artifact(f"http://{host}/download?id=5", hashlib.sha256(body).hexdigest())
        if cut:  # the agent was killed between the download and the unpacking

            def killed(wanted: Artifact, work: Work) -> str:
                with work.part(pinned(wanted) or "") as part:
                    download(Web(), wanted.url, part, digest=pinned(wanted))
                raise ArtifactError("killed")

            with pytest.raises(ArtifactError, match="killed"):
                store.add(wanted, killed)
        state = fetch(HttpSource(Web()), store, wanted)
    assert (Path(state.path or "") / "bin" / "fw").read_bytes() == CONTENT
    assert ArtifactStore(tmp_path).find(wanted) == state


@pytest.mark.parametrize("name", ["fw.tar.xz", "fw.tar.zst", "fw.ZIP", "fw.tar.bz2", "fw.txz"])
@pytest.mark.parametrize("place", ["url", "header", "file"])
def test_an_archive_that_is_not_unpacked_is_refused_before_its_download(tmp_path: Path, name: str, place: str) -> None:
    headers = {"Content-Disposition": f"attachment; filename={name}", "Content-Length": str(2**61)}
    with http_server(respond(200, b"x", headers)) as host:
        source: Source = FileSource() if place == "file" else HttpSource(Web())
        url = {"file": str(tmp_path / name), "url": f"http://{host}/{name}", "header": f"http://{host}/download"}[place]
        with pytest.raises(ArtifactError, match="pack it as") as caught:
            fetch(source, ArtifactStore(tmp_path / "store"), artifact(url))
    assert caught.value.reason == "Unsupported"


def test_two_specs_with_one_artifact_share_it_and_its_backoff(tmp_path: Path, fetching: Fetcher, woken: Event) -> None:
    wanted = want_file(fetching, woken, tmp_path, None)
    (tmp_path / "fw").write_bytes(CONTENT)
    fetching.want(item(wanted.spec.artifact, "v2"), SystemClock().now() - 1)
    assert fetching.states()["v2"] == fetching.states()["v1"]
    assert fetching.states()["v2"].failure is not None


def test_only_unused_artifacts_are_removed_when_space_is_needed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, max_bytes=1000)
    used, cached = (fetch(Pieces([bytes([n]) * 300]), store, artifact(f"http://x/{n}", None)) for n in (1, 2))
    state = store.add(artifact("http://x/3", None), Pieces([b"3" * 600]).fetch, [used.path or ""])
    assert Path(used.path or "").exists()
    assert Path(state.path or "").exists()
    assert not Path(cached.path or "").exists()


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    endless = respond(200, b"x", {"Content-Length": str(2**61)})
    with http_server(endless) as host, pytest.raises(ArtifactError) as caught:
        fetch(HttpSource(Web()), ArtifactStore(tmp_path), artifact(f"http://{host}/fw"))
    assert caught.value.reason == "DiskFull"
    assert held(tmp_path) == []


def test_nothing_to_fetch_is_nothing_to_do(fetching: Fetcher) -> None:
    fetching.want(item(None), 0)
    assert fetching.states() == {}


def test_what_was_just_fetched_survives_a_collection(tmp_path: Path, fetching: Fetcher, woken: Event) -> None:
    want_file(fetching, woken, tmp_path)
    path = fetching.states()["v1"].path
    assert path is not None
    fetching.collect([])
    assert Path(path).is_file()
    fetching.keep([])
    fetching.collect([])
    assert not Path(path).exists()


def test_a_slow_server_delays_only_its_own_artifact(tmp_path: Path, fetching: Fetcher, woken: Event) -> None:
    asked, go = [], Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        go.wait(WITHIN_SECONDS)
        respond(200, CONTENT)(handler)

    (tmp_path / "fw").write_bytes(CONTENT)
    here = item(artifact(str(tmp_path / "fw"), None, ArtifactType.FILE), "here")
    with http_server(answer) as slow, http_server(answer) as slow_too:
        try:
            first, second = (
                item(artifact(f"http://{host}/fw{number}", None), str(number))
                for number, host in enumerate((slow, slow_too))
            )
            fetching.want(first, 0)
            until(lambda: len(asked) == 1, "the first request")
            fetching.want(first, 0)
            fetching.want(here, 0)
            assert woken.wait(WITHIN_SECONDS)
            assert fetching.states()["here"].path is not None
            fetching.want(second, 0)
            until(lambda: len(asked) == 2, "the second request")
            more = item(artifact(str(tmp_path / "fw"), None, ArtifactType.FILE), "more")
            fetching.want(more, 0)
            assert "more" not in fetching.states(), "more than two at a time"
        finally:
            go.set()
        until(lambda: {"0", "1"} <= fetching.states().keys(), "the slow ones")
        fetching.want(more, 0)
        until(lambda: "more" in fetching.states(), "the last one")
    assert asked == ["/fw0", "/fw1"]
    assert all(state.path and Path(state.path).read_bytes() == CONTENT for state in fetching.states().values())


def test_two_concurrent_downloads_neither_share_a_file_nor_remove_each_other(tmp_path: Path) -> None:
    store, inside, done = ArtifactStore(tmp_path), Event(), Event()

    def slowly(wanted: Artifact, work: Work) -> str:
        with work.part("layer") as part:
            part.append(b"one")
            inside.set()
            done.wait(WITHIN_SECONDS)
            part.append(b"two")
            work.take(part, wanted.url)
            return part.digest()

    states: list[ArtifactState] = []
    thread = Thread(target=lambda: states.append(store.add(artifact("http://x/slow", None), slowly)))
    thread.start()
    assert inside.wait(WITHIN_SECONDS)
    with_layer = Pieces([b"other"], name="layer")
    quick = store.add(artifact("http://x/quick", None), with_layer.fetch)
    done.set()
    thread.join(WITHIN_SECONDS)
    assert Path(quick.path or "").read_bytes() == b"other"
    assert Path(states[0].path or "").read_bytes() == b"onetwo"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".new")] == []


def test_two_concurrent_downloads_do_not_exceed_the_size_of_the_store(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, max_bytes=1000)

    def meanwhile(wanted: Artifact, work: Work) -> str:
        fetch(Pieces([b"1" * 600]), store, artifact("http://x/1", None))
        return Pieces([b"2" * 600]).fetch(wanted, work)

    with pytest.raises(ArtifactError, match="no room") as caught:
        store.add(artifact("http://x/2", None), meanwhile)
    assert (caught.value.reason, store.used_bytes()) == ("TooLarge", 600)


def test_an_artifact_removed_from_the_store_is_fetched_again(tmp_path: Path, fetching: Fetcher, woken: Event) -> None:
    wanted = want_file(fetching, woken, tmp_path)
    path = Path(fetching.states()["v1"].path or "")
    path.unlink()
    assert fetching.states() == {}
    woken.clear()
    fetching.want(wanted, 0)
    assert woken.wait(WITHIN_SECONDS)
    assert path.read_bytes() == CONTENT


def slow_down(status: int, headers: Mapping[str, str]) -> Callable[[BaseHTTPRequestHandler], None]:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(status)  # without a Date of its own
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return serve


LONG_AGO = "Mon, 05 Feb 2001 10:00:00 GMT"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"Retry-After": "600"}, 600, id="seconds"),
        pytest.param({"Retry-After": "Mon, 05 Feb 2001 10:10:00 GMT", "Date": LONG_AGO}, 600, id="a date"),
        pytest.param({"Retry-After": LONG_AGO, "Date": LONG_AGO}, 0, id="no time"),
        pytest.param({"Retry-After": "Mon, 05 Feb 2001 10:10:00 GMT"}, 0, id="a date of another clock"),
        pytest.param({"Retry-After": "9" * 400}, 3600, id="a-number-without-end"),
        pytest.param({"Retry-After": "later"}, 0, id="nonsense"),
        pytest.param({}, 0, id="nothing"),
    ],
)
def test_a_server_that_asks_to_wait_is_not_asked_before(
    tmp_path: Path, status: int, headers: Mapping[str, str], seconds: int
) -> None:
    clock, asked, store = FakeClock(), [], ArtifactStore(tmp_path)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        (slow_down(status, headers) if len(asked) == 1 else respond(200, CONTENT))(handler)

    with http_server(answer) as host:
        source, waits = HttpSource(Web(now=clock.now)), []
        for name in ("fw", "other") if seconds else ("fw",):
            with pytest.raises(ArtifactError) as caught:
                fetch(source, store, artifact(f"http://{host}/{name}"))
            assert caught.value.reason == "DownloadFailed"
            waits.append(caught.value.retry_after)
        assert asked == ["/fw"]
        assert all(seconds <= wait <= seconds * 1.25 for wait in waits)
        clock.seconds += waits[0]
        assert fetch(source, store, artifact(f"http://{host}/fw")).path is not None


def test_the_devices_of_a_fleet_do_not_come_back_at_once() -> None:
    waits = set()
    with http_server(slow_down(429, {"Retry-After": "600"})) as host:
        for _ in range(8):
            with pytest.raises(ArtifactError) as caught, Web().get(f"http://{host}/fw"):
                pass
            waits.add(round(caught.value.retry_after))
    assert len(waits) > 1


def test_a_failed_fetch_waits_as_long_as_the_server_asked(tmp_path: Path) -> None:
    class Failing:
        def fetch(self, artifact: Artifact, work: Work) -> str:
            raise ArtifactError("no", retry_after=500.0)

    clock = FakeClock()
    fetching = Fetcher(ArtifactStore(tmp_path), {ArtifactType.HTTP: Failing}, clock, lambda: None)
    fetching.want(item(artifact("http://x/fw")), clock.now())
    until(lambda: fetching.next_at(clock.now()) is not None, "the failure")
    assert fetching.next_at(clock.now()) == clock.now() + 500


@pytest.mark.parametrize("reason", ArtifactReason)
def test_a_failed_fetch_waits_for_its_backoff_however_often_the_loop_asks(
    tmp_path: Path, reason: ArtifactReason
) -> None:
    clock, asked = FakeClock(), []

    class Failing:
        def fetch(self, artifact: Artifact, work: Work) -> str:
            asked.append(clock.now())
            raise ArtifactError("no", reason)

    fetching = Fetcher(ArtifactStore(tmp_path), {ArtifactType.HTTP: Failing}, clock, lambda: None)
    wanted = item(artifact("http://x/fw"))
    while clock.now() < 1000.0 + 6 * 3600:
        fetching.want(wanted, clock.now())
        until(lambda: fetching.next_at(clock.now()) is not None, "the failure")
        clock.seconds = min(fetching.next_at(clock.now()) or 0.0, clock.now() + 60.0)
    soon = reason in ("DownloadFailed", "Unreachable", "NotFound", "Unauthorized", "DiskFull")
    pauses = [later - earlier for earlier, later in zip(asked, asked[1:])]
    first, cap = (1.0, 300.0) if soon else (30.0, 3600.0)
    for number, pause in enumerate(pauses):
        longest = min(cap, first * 2.0**number)
        assert 0.75 * longest <= pause <= longest + 60.0
    assert pauses[-1] > 0.75 * cap
