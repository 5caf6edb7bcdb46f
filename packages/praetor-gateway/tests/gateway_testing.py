# SPDX-License-Identifier: Apache-2.0
"""What tests of the gateway share: builders of objects, an ASGI client, a whole gateway on fakes."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from attrs import evolve, field, fields_dict, frozen, mutable
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message

from kube_testing import FakeClock, InProcessKube, body_of
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, LEASES, NETWORK_SWITCHES, Key
from praetor_api.kube.objects import DeviceProcessStatus, NetworkSwitchStatus
from praetor_api.kube.runtime.tracing import NO_TRACER, Tracer
from praetor_api.spec import DeviceKind
from praetor_gateway.cli import main, read_settings
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch, SharedSpec
from praetor_gateway.gateway import Gateway
from praetor_gateway.http.server import Listener
from praetor_gateway.liveness.pace import no_load
from praetor_gateway.liveness.peers import PeerTransport

T = TypeVar("T")

SHARED_TOKEN = "open sesame"

FLAGS = ("--addr=127.0.0.1:0", "--health-probe-bind-address=127.0.0.1:0", f"--device-token={SHARED_TOKEN}")
_PARAMS = main.make_context("gateway", [*FLAGS, "--lease-namespace=lab"]).params
SETTINGS = evolve(read_settings(_PARAMS), identity="gateway-1")
"""The defaults, but for what they take from the machine."""


def process_row(**fields: Any) -> CachedProcess:
    """Return a row with defaults for what is not given; *fields* are its own, or of what it shares with others."""
    shared = {name: fields.pop(name) for name in fields_dict(SharedSpec).keys() & fields}
    row = CachedProcess(
        key=Key("lab", "agent-leaf-1"),
        uid="uid-1",
        resource_version="7",
        generation=2,
        device="leaf-1",
        deleting=False,
        shared=SharedSpec(**{"parts": (b'{"a":', b"}"), "device_namespace": "lab", **shared}),
        status=DeviceProcessStatus(),
    )
    return evolve(row, **fields)


def switch_row(**fields: Any) -> CachedSwitch:
    """Return a row with defaults for what is not given."""
    row = CachedSwitch(
        key=Key("lab", "leaf-1"),
        uid="uid-s",
        resource_version="3",
        generation=1,
        site="",
        status=NetworkSwitchStatus(),
    )
    return evolve(row, **fields)


def process_object(device: str, name: str = "", **spec: Any) -> dict[str, Any]:
    """Return a DeviceProcess as a person writes it."""
    execution = {"backend": "process", "command": ["sleep", "9"]}
    spec = {"deviceRef": {"name": device}, "execution": execution, **spec}
    return body_of(DEVICE_PROCESSES, name or f"agent-{device}", spec=spec)


def switch_object(name: str, *, kind: DeviceKind = DeviceKind.NETWORK_SWITCH, **labels: str) -> dict[str, Any]:
    """Return a device, by default a NetworkSwitch, as a person writes it."""
    return body_of(DEVICES[kind], name, {"labels": labels}, spec={})


@frozen(kw_only=True)
class Answer:
    """What came back; headers by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@mutable
class AsgiClient:
    """Calls an ASGI application without a socket; a server need not name the *scheme*, which is empty then."""

    app: ASGIApp
    token: str | None = SHARED_TOKEN
    scheme: str = "http"

    async def get(self, path: str, **headers: str) -> Answer:
        """GET *path*; a header's name has `_` for `-`."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        """POST *body*: bytes as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        return await self.request("POST", path, headers=headers, chunks=(raw,))

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        chunks: Sequence[bytes] = (b"",),
        gone: asyncio.Event | None = None,
        between: asyncio.Event | None = None,
    ) -> Answer:
        """Send a request whose body comes in *chunks*, the last one after *between*.

        The client goes away when *gone* is set.
        """
        exchange = _Exchange(chunks=list(chunks), gone=gone or asyncio.Event(), between=between)
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if self.token is not None:
            pairs.append(("X-Device-Token", self.token))
        raw_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            **({"scheme": self.scheme} if self.scheme else {}),
            "path": raw_path.replace("%2f", "/").replace("%2d", "-"),
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in pairs],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        await self.app(scope, exchange.receive, exchange.send)
        return exchange.answer()


@mutable
class _Exchange:
    chunks: list[bytes]
    gone: asyncio.Event
    between: asyncio.Event | None = None
    sent: list[Message] = field(factory=list)

    async def receive(self) -> Message:
        if self.chunks:
            chunk = self.chunks.pop(0)
            if self.between is not None and not self.chunks:
                await self.between.wait()
            return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def answer(self) -> Answer:
        if not self.sent:
            return Answer(status=0, headers={}, body=b"")
        headers = {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
        body = b"".join(message.get("body", b"") for message in self.sent[1:])
        return Answer(status=self.sent[0]["status"], headers=headers, body=body)


@frozen(kw_only=True)
class GatewayLab:
    """A running gateway, and the world around it."""

    kube: InProcessKube
    clock: FakeClock
    gateway: Gateway
    client: AsgiClient
    registry: CollectorRegistry

    async def declare(self, device: str, *, switch: bool = True, **spec: Any) -> None:
        """Create a process of *device*, and its switch."""
        if switch:
            await self.kube.create(NETWORK_SWITCHES, "lab", switch_object(device))
        await self.settled(self.kube.create(DEVICE_PROCESSES, "lab", process_object(device, **spec)))

    async def desired(self, device: str) -> Any:
        return (await self.client.get(f"/v1/devices/{device}/desired")).json()

    async def settled(self, work: Awaitable[T]) -> T:
        """Let what *work* causes happen, but for what waits for time; return what it returns."""
        result = await work
        await self.clock.settle()
        return result

    async def report(self, device: str, *observations: object, then_s: float = 0.0, **report: Any) -> Any:
        """Send a report and let what it causes happen within *then_s* seconds."""
        body = {"heartbeat": True, **report, "observations": list(observations)}
        answer = await self.settled(self.client.post(f"/v1/devices/{device}/report", body))
        if then_s:
            await self.clock.advance(then_s)
        return answer.json()

    async def running(self, device: str) -> dict[str, Any]:
        """Return the observation of the device's first process as it should be."""
        item = (await self.desired(device))["items"][0]
        return {
            "namespace": item["namespace"],
            "name": item["name"],
            "uid": item["uid"],
            "observedSpecHash": item["specHash"],
            "processStarted": True,
            "healthy": True,
            "pid": 42,
        }

    def process(self, device: str) -> dict[str, Any]:
        return self.kube.objects(DEVICE_PROCESSES)[Key("lab", f"agent-{device}")]

    def switch(self, device: str) -> dict[str, Any]:
        return self.kube.objects(NETWORK_SWITCHES)[Key("lab", device)]

    def etag(self, device: str) -> str:
        """Return the ETag of the device's desired state."""
        known = self.gateway._fleet.device(device)
        assert known is not None
        return known.etag

    def value(self, metric: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"praetor_gateway_{metric}", labels) or 0.0


def conditions(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return the status of each condition of an object."""
    return {each["type"]: each["status"] for each in obj.get("status", {}).get("conditions", ())}


@asynccontextmanager
async def running_lab(
    kube: InProcessKube | None = None,
    clock: FakeClock | None = None,
    transport: PeerTransport | None = None,
    devices: Sequence[str] = (),
    spans: Tracer = NO_TRACER,
    load: Callable[[], float] = no_load,
    **settings: Any,
) -> AsyncIterator[GatewayLab]:
    """Run a gateway on fakes that knows *devices*; *settings* replace those of SETTINGS."""
    clock = clock or FakeClock()
    kube = kube or InProcessKube(clock)
    registry = CollectorRegistry()
    gateway = Gateway(kube, evolve(SETTINGS, **settings), clock, registry, transport, tracer=spans, load=load)
    client = AsgiClient(gateway.app)
    async with _on_time(gateway, clock):
        await clock.settle()
        lab = GatewayLab(kube=kube, clock=clock, gateway=gateway, client=client, registry=registry)
        for device in devices:
            await lab.declare(device)
        yield lab


async def one_device() -> AsyncIterator[GatewayLab]:
    """Run a gateway on fakes that knows leaf-1. A test module makes it a fixture."""
    async with running_lab(devices=["leaf-1"]) as lab:
        yield lab


async def healthy(lab: GatewayLab) -> dict[str, Any]:
    """Return the observation of leaf-1's process as it should be. A test module makes it a fixture."""
    return await lab.running("leaf-1")


@mutable
class Agent:
    """Reports as the agent does: what changed, and everything when it is asked to."""

    item: Mapping[str, Any]
    boot: str = "boot-1"
    revision: int = 100
    pid: int = 1
    facts_revision: int = 100
    polls: int = 0
    _acked: int = field(default=0, init=False)
    _knows_facts: bool = field(default=False, init=False)

    def change(self) -> None:
        self.pid += 1
        self.revision += 1

    def reboot(self, boot: str) -> None:
        self.boot, self.revision, self.facts_revision = boot, 100, 100
        self.pid += 1
        self._acked, self._knows_facts = 0, False

    def body(self) -> dict[str, Any]:
        """Return the next report."""
        new = self._acked != self.revision
        observations = [{**self.item, "pid": self.pid, "revision": self.revision}] if new else []
        body = {"agentVersion": "1", "bootID": self.boot, "revision": self.facts_revision, "observations": observations}
        if not self._knows_facts:
            body["facts"] = {"os": self.boot}
        return body if observations else {**body, "reported": self._acked}

    async def poll(self, lab: GatewayLab, *, again: bool = False, wait: int = 0) -> Answer:
        """Send a poll that is a heartbeat; *again*: as a proxy that repeats the last one."""
        self.polls += not again
        headers = {"Praetor-Poll": f"{self.boot}/{self.polls}", "If-None-Match": lab.etag("leaf-1")}
        if self._acked == self.revision and self._knows_facts:
            headers["Praetor-Reported"] = f"{self.boot}/{self._acked}.{self.facts_revision}"
        if wait:
            headers["Prefer"] = f"wait={wait}"
        return await lab.settled(lab.client.get("/v1/devices/leaf-1/desired", **headers))

    async def live(self, polled: GatewayLab, other: GatewayLab | None = None) -> bool:
        """Poll, and report to *other* what is new, or everything if it is asked for; return whether it is."""
        asked = "praetor-resync" in (await self.poll(polled)).headers
        if asked:
            self._acked, self._knows_facts = 0, False
        if asked or self._acked != self.revision:
            await self.report(other or polled)
        return asked

    async def report(self, lab: GatewayLab) -> bool:
        """Send a report to *lab*, and another one if it asks for a resync; return whether it does."""
        resync: bool = (await deliver(lab, self.body()))["resync"]
        self._acked, self._knows_facts = self.revision, True
        if resync:
            self._acked, self._knows_facts = 0, False
            await deliver(lab, self.body())
            self._acked, self._knows_facts = self.revision, True
        return resync


async def deliver(lab: GatewayLab, body: Mapping[str, Any]) -> Any:
    answer = await lab.settled(lab.client.post("/v1/devices/leaf-1/report", body))
    assert answer.status == 200, answer.body
    return answer.json()


@asynccontextmanager
async def replicas(count: int = 2, kube: InProcessKube | None = None) -> AsyncIterator[tuple[list[GatewayLab], Agent]]:
    """Run *count* gateways that know leaf-1, and yield them with its agent, which has not reported yet."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_lab(kube, identity="gateway-0"))
        labs = [first]
        for number in range(1, count):
            client = first.kube.another_client()
            labs.append(await stack.enter_async_context(running_lab(client, first.clock, identity=f"gateway-{number}")))
        await first.declare("leaf-1")
        yield labs, Agent(await first.running("leaf-1"))


def writes(*labs: GatewayLab) -> int:
    return sum(request.verb == "patch" and request.resource != LEASES for lab in labs for request in lab.kube.requests)


@asynccontextmanager
async def listening(app: ASGIApp, *, timeout_s: float = 1.0, **options: Any) -> AsyncIterator[Listener]:
    """Serve *app* on a free port of the loopback; at the end requests have *timeout_s* seconds to end."""
    stop = asyncio.Event()
    listener = Listener(app, SETTINGS.addr, option="--addr", **{"server": SETTINGS.server, **options})
    serving = asyncio.ensure_future(listener.serve(stop.wait, timeout_s))
    try:
        yield listener
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def _on_time(gateway: Gateway, clock: FakeClock) -> AsyncIterator[None]:
    """Run the lifespan, time passing while it ends."""
    opened, finish = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with gateway.lifespan():
            opened.set()
            await finish.wait()

    task = asyncio.ensure_future(live())
    opener = asyncio.ensure_future(opened.wait())
    await asyncio.wait({task, opener}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        finish.set()
        while not task.done():
            await clock.advance(0.5)
        task.result()


class _VirtualTimeSelector(selectors.DefaultSelector):
    """Moves time on where a loop would wait for it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0 if timeout is not None else None)
        if not events and timeout:
            self.now_s += timeout
        return events


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualTimeSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run_in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* on a loop whose time is virtual: it passes in no real time, and only where the loop would wait."""
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        return runner.run(work)
