# SPDX-License-Identifier: Apache-2.0
"""For tests of the programs: a clock that the test moves, and the Kubernetes API of a control plane in the process."""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import structlog
from attrs import frozen

import kubeplane
from kubeplane import ControlPlane
from kubeplane.routes import route
from praetor_api.kube.client.api import KubeApi, PatchType, Query, WatchEvent, WatchType
from praetor_api.kube.client.errors import KubeError, Unreachable, api_error
from praetor_api.kube.client.resource import Key, Resource
from praetor_api.kube.runtime.clock import Clock, SystemClock

CRDS = Path(__file__).resolve().parents[3] / "crds"
NAMESPACES = ("lab", "other", "elsewhere", "one", "two", "three", "third", "a", "b", "praetor-system")
"""The namespaces that tests find, beside those of every control plane."""

_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_MAX_SPINS = 100_000
_SPINS_UNSEEN = 50  # for loops that do not show whether they have something to run


class FakeClock:
    """Time stands still until the test advances it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = 0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._sequence, woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move both clocks on; each task that sleeps wakes at its time and runs until all tasks wait again."""
        end = self._monotonic + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._move(max(0.0, due - self._monotonic))
            woken.set_result(None)
            await self.settle()
        self._move(max(0.0, end - self._monotonic))
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP or a person does; the monotonic one does not notice."""
        self._now += timedelta(seconds=seconds)

    def oversleep(self, seconds: float) -> None:
        """Move both clocks on while no task runs, as a stopped process or a sleeping machine sees it."""
        self._move(seconds)

    async def settle(self) -> None:
        """Let all tasks run until each waits for time or for the network."""
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        for _ in range(_MAX_SPINS if ready is not None else _SPINS_UNSEEN):
            await asyncio.sleep(0)
            if ready is not None and not ready:
                return

    def _move(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)


@frozen
class Request:
    """One request that a client sent; *verb* as RBAC calls it (get, list, create, patch, delete, watch)."""

    verb: str
    resource: Resource
    key: Key | None = None
    subresource: str | None = None


@frozen
class _Fault:
    error: KubeError | None  # None: never answers
    verb: str | None
    resource: Resource | None

    def hits(self, request: Request) -> bool:
        return self.verb in (None, request.verb) and self.resource in (None, request.resource)


@cache
def _origin() -> ControlPlane:
    """Return a control plane that holds the project's kinds; it is made once, and copied for each test."""
    return ControlPlane(crds=CRDS, namespaces=NAMESPACES)


class InProcessKube(KubeApi):
    """A KubeApi on a control plane in this process.

    Another client of the same objects, with faults of its own, comes from another_client().

    Args:
        clock: of the control plane, and of its watches.
        plane: the control plane of another client; by default a new one that holds the project's kinds.
    """

    def __init__(self, clock: Clock | None = None, *, plane: ControlPlane | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self.plane = plane or ControlPlane(clock=self._clock, bookmark_s=0, origin=_origin())
        self._faults: list[_Fault] = []
        self._watches: set[_Watch] = set()
        self.requests: list[Request] = []
        self.unreachable = False  # while true, every request fails; open watches stay silent

    def another_client(self) -> InProcessKube:
        """Return a second client of the same objects, as another process has one."""
        return InProcessKube(self._clock, plane=self.plane)

    # The objects and the faults, for tests.

    def objects(self, resource: Resource) -> dict[Key, dict[str, Any]]:
        """Return copies of all objects of a kind."""
        return {key: copied(obj) for key, obj in self.peek(resource).items()}

    def peek(self, resource: Resource) -> dict[Key, dict[str, Any]]:
        """Return all objects of a kind as they are stored; they must not be changed."""
        stored = self.plane.objects(resource.group, resource.version, resource.plural)
        return {Key(*key): obj for key, obj in stored.items()}

    @property
    def version(self) -> int:
        """The resourceVersion of the newest change."""
        return self.plane.store.rv

    async def loosen(self, resource: Resource) -> None:
        """Serve *resource* without validation and defaults, as an earlier definition did."""
        name = f"{resource.plural}.{resource.group}"
        (version,) = self.peek(_DEFINITIONS)[Key("", name)]["spec"]["versions"]
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        spec = {"versions": [version | {"schema": {"openAPIV3Schema": schema}}]}
        await self._exchange("PATCH", _DEFINITIONS.path(None, name), {}, {"spec": spec}, PatchType.MERGE.value)

    def fail_next(
        self, error: KubeError, *, verb: str | None = None, resource: Resource | None = None, times: int = 1
    ) -> None:
        """Let the next *times* requests (of *verb*, of *resource*) fail without effect."""
        self._faults += [_Fault(error, verb, resource)] * times

    def hang_next(self, *, verb: str | None = None, resource: Resource | None = None, times: int = 1) -> None:
        """Let the next *times* requests (of *verb*, of *resource*) have no effect and no answer, until cancelled."""
        self._faults += [_Fault(None, verb, resource)] * times

    def heal(self) -> None:
        """Forget failures and hangs that were not met yet."""
        self._faults.clear()
        self.unreachable = False

    def expire_history(self) -> None:
        """Compact: a watch from an older version gets 410; this client's open watches end so, too."""
        self.plane.store.restart_at(self.version + 1)
        self.end_watches(api_error(410, "Expired", "too old resource version"))

    def rewind(self, version: int) -> None:
        """Set the resourceVersion back, as restoring etcd from a backup does."""
        self.plane.store.restart_at(version)

    def end_watches(self, error: KubeError | None = None) -> None:
        """End this client's open watches, as a server does: normally, or with *error*."""
        for watch in tuple(self._watches):
            watch.end(error)

    def silence_watches(self) -> None:
        """Let nothing more arrive on this client's open watches, as in a dead network."""
        for watch in self._watches:
            watch.silent = True

    def send_bookmarks(self) -> None:
        """Send a bookmark on each open watch."""
        self.plane.send_bookmarks()

    # KubeApi

    async def _call(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        where = route(method, unquote(path), {})
        assert where is not None
        name = body.get("metadata", {}).get("name") if verb == "create" else where.name
        key = Key(where.namespace, name) if name else None
        await self._arrive(Request(verb, resource, key, where.subresource or None))
        answer: dict[str, Any] = json.loads((await self._exchange(method, path, query or {}, body, content_type)).body)
        return answer

    async def _stream(
        self, resource: Resource, path: str, query: Query, on_open: Callable[[], None] | None
    ) -> AsyncGenerator[WatchEvent, None]:
        await self._arrive(Request("watch", resource))
        watch = _Watch(await self._exchange("GET", path, query))
        self._watches.add(watch)
        if on_open is not None:
            on_open()
        try:
            async for event in watch.events():
                yield event
        finally:
            self._watches.discard(watch)

    async def _arrive(self, request: Request) -> None:
        self.requests.append(request)
        await asyncio.sleep(0)  # others get a turn, as with a real network
        if self.unreachable:
            raise Unreachable("the API is unreachable")
        fault = next((fault for fault in self._faults if fault.hits(request)), None)
        if fault is None:
            return
        self._faults.remove(fault)
        if fault.error is None:
            await asyncio.get_running_loop().create_future()
        else:
            raise fault.error

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Query,
        body: Any = None,
        content_type: str = "application/json",
    ) -> kubeplane.Response:
        given = {name: value for name, value in query.items() if value is not None}
        data = json.dumps(body).encode() if body is not None else b""
        headers = {"content-type": content_type, "user-agent": "praetor"}
        response = await self.plane.handle(kubeplane.Request(method, unquote(path), given, headers, data))
        if response.status >= 300:
            known = response.body.startswith(b"{")  # a path of no kind is answered in plain text
            raise _refusal(json.loads(response.body)) if known else api_error(response.status, "", str(response.body))
        return response


class _Watch:
    """One open watch: takes the lines that the control plane sends, until it is cut off."""

    def __init__(self, response: kubeplane.Response) -> None:
        self._response = response
        self._lines: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: KubeError | None = None
        self.silent = False

    def end(self, error: KubeError | None) -> None:
        if not self.silent:
            self._ended, self._error = True, error
            self._wake.set()

    async def events(self) -> AsyncIterator[WatchEvent]:
        stream = asyncio.create_task(self._run(), name="stream a watch")
        try:
            while True:
                self._wake.clear()
                while self._lines:
                    yield _event(json.loads(self._lines.popleft()))
                if self._ended:
                    break
                await self._wake.wait()
        finally:
            stream.cancel()
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        assert self._response.stream is not None
        await self._response.stream(self._take)
        self.end(None)

    async def _take(self, data: bytes) -> None:
        if not self.silent:
            self._lines.extend(data.splitlines())
            self._wake.set()


def _event(line: dict[str, Any]) -> WatchEvent:
    if line["type"] == "ERROR":
        raise _refusal(line["object"])
    return WatchEvent(WatchType(line["type"]), line["object"])


def _refusal(status: Mapping[str, Any]) -> KubeError:
    details = status.get("details") or {}
    seconds = details.get("retryAfterSeconds")
    return api_error(status["code"], status["reason"], status["message"], details, float(seconds) if seconds else None)


def body_of(resource: Resource, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    """Return an object of *resource* as a client sends it: *parts* are its spec, status or data."""
    head = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**head, "metadata": {"name": name, **(metadata or {})}, **parts}


def copied(obj: Any) -> Any:
    """Return a deep copy of a JSON value."""
    return json.loads(json.dumps(obj))


@contextmanager
def own_logging() -> Iterator[None]:
    """Undo what the block does to the configuration of logging and structlog."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
