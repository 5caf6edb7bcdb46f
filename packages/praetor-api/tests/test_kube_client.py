# SPDX-License-Identifier: Apache-2.0
"""The client against real sockets: what goes over the wire, and that no trap of the stock client is ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from praetor_api.kube.client.api import PatchType, WatchType
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.connection import ApiConnection, from_kubeconfig
from praetor_api.kube.client.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.kube.runtime.informer import Informer

KEY = Key("lab", "leaf-1")
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handle: Handle) -> AsyncIterator[str]:
    app = web.Application(client_max_size=2**24)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handle(request)

    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any) -> str:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "me", "user": user or {}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


@asynccontextmanager
async def client_of(handle: Handle, folder: Path, **options: Any) -> AsyncIterator[KubeClient]:
    async with serving(handle) as server:
        connection = await ApiConnection.open(from_kubeconfig(kubeconfig(folder, server), None))
        async with KubeClient(connection, **options) as client:
            yield client


def status(code: int, reason: str, **more: Any) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": f"it was {reason}"}
    return web.json_response(body | more, status=code)


def event(kind: str, name: str, version: int, **more: Any) -> bytes:
    obj = {"metadata": {"namespace": "lab", "name": name, "resourceVersion": str(version)}, **more}
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def stream(request: web.Request, *chunks: bytes, ends: bool = True) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    if not ends:
        await asyncio.Event().wait()
    await response.write_eof()
    return response


async def watched(client: KubeClient, resource: Resource = DEVICE_PROCESSES) -> list[tuple[str, str]]:
    async with aclosing(client.watch(resource, None, resource_version="1", timeout_s=300)) as events:
        return [(item.type.value, item.object["metadata"].get("name", "")) async for item in events]


class Recorder:
    """Answers with the given responses, and records the requests."""

    def __init__(self, *answers: Callable[[], web.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[Any] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.asked.append((request.method, request.raw_path, json.loads(body) if body else None))
        self.headers.append(request.headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer()


def ok() -> web.Response:
    return web.json_response({"metadata": {"name": "leaf-1"}})


async def test_each_verb_sends_the_request_that_the_api_expects(tmp_path: Path) -> None:
    recorder = Recorder(ok)
    async with client_of(recorder, tmp_path) as client:
        await client.get(DEVICE_PROCESSES, KEY)
        await client.list_page(DEVICE_PROCESSES, None, label_selector="a in (b,c)", continue_token="x/y=")
        await client.create(DEVICE_PROCESSES, "lab", {"spec": {}}, field_manager="praetor")
        await client.patch(DEVICE_PROCESSES, KEY, {"status": {}}, subresource="status")
        await client.delete(DEVICE_PROCESSES, KEY, uid="u1", resource_version="7")
    root = "/apis/azure.com/v1alpha1"
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "u1", "resourceVersion": "7"},
    }
    assert recorder.asked == [
        ("GET", f"{root}/namespaces/lab/deviceprocesses/leaf-1", None),
        ("GET", f"{root}/deviceprocesses?limit=500&continue=x%2Fy%3D&labelSelector=a+in+%28b%2Cc%29", None),
        ("POST", f"{root}/namespaces/lab/deviceprocesses?fieldManager=praetor", {"spec": {}}),
        ("PATCH", f"{root}/namespaces/lab/deviceprocesses/leaf-1/status", {"status": {}}),
        ("DELETE", f"{root}/namespaces/lab/deviceprocesses/leaf-1", options),
    ]


@pytest.mark.parametrize(
    ("body", "patch_type", "content_type"),
    [
        pytest.param({}, PatchType.MERGE, "application/merge-patch+json", id="merge"),
        pytest.param([], PatchType.JSON, "application/json-patch+json", id="json"),
    ],
)
async def test_a_patch_is_sent_with_its_content_type(
    tmp_path: Path, body: Any, patch_type: PatchType, content_type: str
) -> None:
    recorder = Recorder(ok)
    async with client_of(recorder, tmp_path) as client:
        await client.patch(DEVICE_PROCESSES, KEY, body, patch_type=patch_type, field_manager="praetor")
    assert recorder.headers[0]["Content-Type"] == content_type
    assert recorder.asked[0][1].endswith("leaf-1?fieldManager=praetor")


async def test_a_dry_run_marks_every_write(tmp_path: Path) -> None:
    recorder = Recorder(ok)
    async with client_of(recorder, tmp_path, dry_run=True) as client:
        await client.create(DEVICE_PROCESSES, "lab", {"spec": {}}, field_manager="praetor")
        await client.patch(DEVICE_PROCESSES, KEY, {"spec": {}})
        await client.delete(DEVICE_PROCESSES, KEY)
        await client.get(DEVICE_PROCESSES, KEY)
    assert ["dryRun=All" in path for _, path, _ in recorder.asked] == [True, True, True, False]


async def test_a_strict_write_asks_for_the_refusal_of_unknown_fields(tmp_path: Path) -> None:
    recorder = Recorder(ok)
    async with client_of(recorder, tmp_path) as client:
        for strict in (True, False):
            await client.create(DEVICE_PROCESSES, "lab", {"spec": {}}, strict=strict)
            await client.patch(DEVICE_PROCESSES, KEY, {"spec": {}}, strict=strict)
    assert ["fieldValidation=Strict" in path for _, path, _ in recorder.asked] == [True, True, False, False]
    assert ["fieldValidation" in path for _, path, _ in recorder.asked] == [True, True, False, False]


async def test_bodies_are_spelled_as_the_apiserver_spells_them(tmp_path: Path) -> None:
    texts: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        texts.append(await request.text())
        return ok()

    async with client_of(answer, tmp_path) as client:
        await client.create(DEVICE_PROCESSES, "lab", {"data": {"text": "<ü & \u2028>"}})
    assert texts == ['{"data":{"text":"\\u003cü \\u0026 \\u2028\\u003e"}}']


async def test_a_list_is_never_sent_as_a_merge_patch(tmp_path: Path) -> None:
    recorder = Recorder(ok)
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(ValueError, match="only a JSON patch is a list"):
            await client.patch(DEVICE_PROCESSES, KEY, [{"op": "remove", "path": "/spec"}])
        with pytest.raises(ValueError, match="does not take a dict"):
            await client.patch(DEVICE_PROCESSES, KEY, {}, patch_type=PatchType.JSON)
    assert recorder.asked == []


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ServerError),
        (503, "ServiceUnavailable", ServerError),
    ],
)
async def test_a_failure_is_the_error_that_its_status_names(
    tmp_path: Path, code: int, reason: str, error: type[KubeError]
) -> None:
    async with client_of(Recorder(lambda: status(code, reason, details={"name": "leaf-1"})), tmp_path) as client:
        with pytest.raises(error, match=f"{code} {reason}: it was {reason}") as caught:
            await client.get(DEVICE_PROCESSES, KEY)
    assert vars(caught.value)["details"] == {"name": "leaf-1"}


async def test_a_throttled_request_is_sent_at_most_four_times(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(status=429, headers={"Retry-After": "0"}, text="Too many requests"))
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(TooManyRequests):
            await client.get(DEVICE_PROCESSES, KEY)
    assert len(recorder.asked) == 4


async def test_a_throttled_request_is_sent_again_after_the_delay_that_the_server_asks_for(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(status=429, headers={"Retry-After": "0"}, text="Too many requests"), ok)
    async with client_of(recorder, tmp_path) as client:
        assert await client.create(DEVICE_PROCESSES, "lab", {}) == {"metadata": {"name": "leaf-1"}}
    assert len(recorder.asked) == 2


async def test_a_long_throttle_is_raised_with_the_delay_that_the_server_asks_for(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(status=429, headers={"Retry-After": "7"}, text="Too many requests"))
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(TooManyRequests, match="Too many requests") as caught:
            await client.get(DEVICE_PROCESSES, KEY)
    assert caught.value.retry_after == 7.0
    assert len(recorder.asked) == 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        pytest.param("Fri, 31 Dec 1999 23:59:59 GMT", 0.0, 0.0, id="past date"),
        pytest.param("Fri, 31 Dec 2999 23:59:59 -0000", 1e9, 1e12, id="far date"),
        pytest.param("soon", None, None, id="nonsense"),
    ],
)
async def test_retry_after_may_be_a_date(tmp_path: Path, header: str, least: float | None, most: float | None) -> None:
    recorder = Recorder(lambda: web.Response(status=503, headers={"Retry-After": header}, text="later"))
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(ServerError) as caught:
            await client.get(DEVICE_PROCESSES, KEY)
    asked_delay = caught.value.retry_after
    assert (
        (asked_delay is None)
        if least is None or most is None
        else (asked_delay is not None and least <= asked_delay <= most)
    )


async def test_without_a_header_the_delay_of_the_status_object_counts(tmp_path: Path) -> None:
    async with client_of(Recorder(lambda: status(500, "X", details={"retryAfterSeconds": 3})), tmp_path) as client:
        with pytest.raises(ServerError) as caught:
            await client.get(DEVICE_PROCESSES, KEY)
    assert caught.value.retry_after == 3.0


@pytest.mark.parametrize("text", ["<html>log in</html>", "[]", '{"truncated": '])
async def test_an_answer_that_is_not_an_object_is_an_error(tmp_path: Path, text: str) -> None:
    async with client_of(Recorder(lambda: web.Response(text=text)), tmp_path) as client:
        with pytest.raises(Unreachable, match="the answer is no"):
            await client.get(DEVICE_PROCESSES, KEY)


async def test_a_redirect_is_not_followed_with_our_token(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}))
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(KubeError, match="302"):
            await client.get(DEVICE_PROCESSES, KEY)


async def test_a_request_that_hangs_is_unreachable_in_time(tmp_path: Path) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with client_of(hang, tmp_path, request_timeout_s=0.05) as client:
        with pytest.raises(Unreachable, match="cannot get deviceprocesses"):
            await client.get(DEVICE_PROCESSES, KEY)


async def test_a_refused_connection_is_unreachable_and_counted_as_code_0(tmp_path: Path) -> None:
    async with serving(Recorder(ok)) as server:
        path = kubeconfig(tmp_path, server)
    calls: list[tuple[str, str, int]] = []
    async with await KubeClient.from_config(path) as client:
        client.on_request = lambda verb, resource, code: calls.append((verb, resource.plural, code))
        with pytest.raises(Unreachable):
            await client.get(NETWORK_SWITCHES, KEY)
    assert calls == [("get", "networkswitches", 0)]


async def test_the_hooks_are_called_with_the_code_and_the_duration_of_each_request(tmp_path: Path) -> None:
    calls: list[tuple[str, str, int]] = []
    took: list[str] = []
    async with client_of(Recorder(ok, lambda: status(404, "NotFound")), tmp_path) as client:
        # as programs of the first version set it: never with another argument
        client.on_request = lambda verb, resource, code: calls.append((verb, resource.plural, code))
        await client.get(DEVICE_PROCESSES, KEY)
        client.on_duration = lambda verb, seconds: took.append(verb) if 0 <= seconds < 60 else None
        with pytest.raises(NotFound):
            await client.delete(DEVICE_PROCESSES, KEY)
    assert calls == [("get", "deviceprocesses", 200), ("delete", "deviceprocesses", 404)]
    assert took == ["delete"]


async def test_a_watch_asks_for_bookmarks_from_its_version(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(text=""))
    async with client_of(recorder, tmp_path) as client:
        assert await watched(client) == []
    path = "/apis/azure.com/v1alpha1/deviceprocesses"
    query = "watch=true&allowWatchBookmarks=true&resourceVersion=1&timeoutSeconds=300"
    assert recorder.asked == [("GET", f"{path}?{query}", None)]


async def test_a_watch_is_open_before_its_first_event(tmp_path: Path) -> None:
    opened = asyncio.Event()

    async def tell_once_opened(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await opened.wait()
        await response.write(event("ADDED", "leaf-1", 2))
        return response

    async with client_of(tell_once_opened, tmp_path) as client:
        events = client.watch(DEVICE_PROCESSES, None, resource_version="1", timeout_s=300, on_open=opened.set)
        async with aclosing(events):
            async with asyncio.timeout(120):
                assert (await anext(events)).object["metadata"]["name"] == "leaf-1"


async def test_a_refused_watch_was_never_open(tmp_path: Path) -> None:
    opened: list[bool] = []
    async with client_of(Recorder(lambda: status(403, "Forbidden")), tmp_path) as client:
        events = client.watch(
            DEVICE_PROCESSES, None, resource_version="1", timeout_s=300, on_open=lambda: opened.append(True)
        )
        async with aclosing(events):
            with pytest.raises(Forbidden):
                await anext(events)
    assert not opened


async def test_events_are_found_wherever_the_chunks_are_cut(tmp_path: Path) -> None:
    lines = event("ADDED", "leaf-1", 2) + event("MODIFIED", "läaf-2", 3) + b"\n" + event("BOOKMARK", "", 4)

    async def cut(request: web.Request) -> web.StreamResponse:
        return await stream(request, *(lines[i : i + 7] for i in range(0, len(lines), 7)))

    async with client_of(cut, tmp_path) as client:
        assert await watched(client) == [("ADDED", "leaf-1"), ("MODIFIED", "läaf-2"), ("BOOKMARK", "")]


async def test_an_object_of_1_4_mib_arrives_on_one_line(tmp_path: Path) -> None:
    payload = "x" * int(1.4 * 2**20)

    async def big(request: web.Request) -> web.StreamResponse:
        return await stream(request, event("ADDED", "leaf-1", 2, spec=payload), event("DELETED", "leaf-1", 3))

    async with client_of(big, tmp_path) as client:
        assert await watched(client) == [("ADDED", "leaf-1"), ("DELETED", "leaf-1")]


async def test_a_line_without_end_is_cut_off_before_it_fills_memory(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        return await stream(request, *[b"x" * 2**20] * 9)

    async with client_of(endless, tmp_path) as client:
        with pytest.raises(Unreachable, match="longer than 8388608 bytes"):
            await watched(client)


async def test_a_plain_text_429_of_a_watch_is_an_error_with_its_delay(tmp_path: Path) -> None:
    recorder = Recorder(lambda: web.Response(status=429, headers={"Retry-After": "7"}, text="Too many requests"))
    async with client_of(recorder, tmp_path) as client:
        with pytest.raises(TooManyRequests) as caught:
            await watched(client)
    assert caught.value.retry_after == 7.0
    assert len(recorder.asked) == 1


async def test_an_error_event_is_raised(tmp_path: Path) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}

    async def expired(request: web.Request) -> web.StreamResponse:
        return await stream(request, event("ADDED", "leaf-1", 2), json.dumps(gone).encode() + b"\n")

    async with client_of(expired, tmp_path) as client:
        with pytest.raises(Gone, match="410 Expired: too old"):
            await watched(client)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b'{"type": "ADDED", "obj', "cut off within an event", id="truncated"),
        pytest.param(b"<html>\n", "not JSON", id="html"),
        pytest.param(b'{"type": "NEW", "object": {}}\n', "not a watch event", id="unknown type"),
    ],
)
async def test_a_broken_watch_is_unreachable(tmp_path: Path, line: bytes, message: str) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        return await stream(request, line)

    async with client_of(broken, tmp_path) as client:
        with pytest.raises(Unreachable, match=message):
            await watched(client)


async def endless(request: web.Request) -> web.StreamResponse:
    return await stream(request, event("ADDED", "leaf-1", 2), ends=False)


async def test_a_watch_takes_no_connection_that_another_request_left(tmp_path: Path) -> None:
    ports: list[int] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return await stream(request) if "watch" in request.query else ok()

    async with client_of(handle, tmp_path) as client:
        for _ in range(2):
            await client.get(DEVICE_PROCESSES, KEY)
        await watched(client)
    assert ports[0] == ports[1] != ports[2]


async def test_the_kernel_probes_the_connection_of_a_quiet_watch(tmp_path: Path) -> None:
    timers: list[tuple[int, float]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        timers.append(timer_of(request.transport.get_extra_info("peername")[1]))
        return await stream(request)

    async with client_of(handle, tmp_path) as client:
        await watched(client)
    [(kind, left_s)] = timers
    assert (kind, left_s <= 10) == (2, True)


def timer_of(port: int) -> tuple[int, float]:
    """Return which timer the connection from *port* of the loopback has (2: of probes), and how many seconds it has."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, _, timer, *_ = line.split()
        if local == f"0100007F:{port:04X}":
            kind, left = timer.split(":")
            return int(kind, 16), int(left, 16) / 100
    raise LookupError(port)


async def test_a_silent_watch_is_unreachable(tmp_path: Path) -> None:
    async with client_of(endless, tmp_path, watch_idle_s=0.1) as client:
        with pytest.raises(Unreachable, match="cannot watch"):
            await watched(client)


async def test_a_watch_can_be_left_early(tmp_path: Path) -> None:
    async with client_of(endless, tmp_path) as client:
        async with aclosing(client.watch(DEVICE_PROCESSES, None, resource_version="1", timeout_s=300)) as events:
            first = await anext(events)
        assert first.type is WatchType.ADDED


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: web.Response(text=""), id="closed at once"),
        pytest.param(lambda: status(500, "InternalError"), id="500"),
        pytest.param(lambda: web.Response(status=429, headers={"Retry-After": "1"}, text="Too many"), id="429"),
        pytest.param(lambda: status(410, "Expired"), id="410"),
    ],
)
async def test_an_informer_never_asks_in_a_hot_loop(tmp_path: Path, answer: Callable[[], web.Response]) -> None:
    watches = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal watches
        if "watch" in request.query:
            watches += 1
            return answer()
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})

    async with client_of(handle, tmp_path) as client:
        informer = Informer(client, DEVICE_PROCESSES, project=Key.of, clock=SystemClock())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(informer.run(), 0.5)
    assert 1 <= watches < 30  # the stock client: more than a thousand a second


async def test_an_informer_follows_custom_objects_over_the_wire(tmp_path: Path) -> None:
    items = [{"metadata": {"namespace": "lab", "name": "leaf-1", "resourceVersion": "5"}}]

    async def handle(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": items})
        return await stream(request, event("ADDED", "leaf-2", 8) + event("DELETED", "leaf-1", 9), ends=False)

    async with client_of(handle, tmp_path) as client:
        informer = Informer(client, DEVICE_PROCESSES, project=Key.of, clock=SystemClock())
        gone = asyncio.Event()
        informer.add_handler(lambda key, old, new: gone.set() if new is None else None)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            running = group.create_task(informer.run())
            await gone.wait()
            running.cancel()
        assert dict(informer.items()) == {Key("lab", "leaf-2"): Key("lab", "leaf-2")}


async def test_a_burst_of_thousands_of_events_arrives_whole(tmp_path: Path) -> None:
    burst = b"".join(event("MODIFIED", f"leaf-{i}", i, spec={"x": "y" * 500}) for i in range(2, 5002))

    async def handle(request: web.Request) -> web.StreamResponse:
        return await stream(request, burst)

    async with client_of(handle, tmp_path) as client:
        assert len(await watched(client)) == 5000
