# SPDX-License-Identifier: Apache-2.0
"""How replicas report to the leader which devices they heard: ages, never timestamps, once a second on their own port.

An empty push counts, too: it proves that the observer works.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
import structlog
from attrs import define, field, frozen
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from praetor_api.annotations import PEER_ADDRESS_ANNOTATION
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.elector import Elector
from praetor_api.wire import Fault, WireError, parse_json
from praetor_gateway.liveness.tracker import LivenessTracker

PATH = "/v1/heard"
PUSH_S = 1.0
"""How often to push: a fifth of the silence after which the leader freezes the devices of a replica."""
TIMEOUT_S = 5.0
"""How long a push may take; after that silence the leader counts the replica as failed anyway."""
MAX_BODY_BYTES = 16 * 2**20
MAX_ENTRIES = 40_000
"""How many devices and processes a push names at most: with the longest names and uids that is 14 MiB."""

_log = structlog.get_logger()


@frozen(kw_only=True)
class PeerPush:
    """What one replica sends: the seconds since *observer* heard each device, by name, and what each fetched.

    *fetched* has the seconds since then, and the generation of each process by its uid. It is None from an older
    version, which does not know it.
    """

    observer: str
    ages: Mapping[str, float]
    fetched: Mapping[str, tuple[float, Mapping[str, int]]] | None = None

    def body(self) -> dict[str, object]:
        """Return it as JSON."""
        body: dict[str, object] = {"observer": self.observer, "ages": dict(self.ages)}
        if self.fetched is not None:
            body["fetched"] = dict(self.fetched)
        return body


class PeerTransport(Protocol):
    """Sends pushes to the leader."""

    async def push(self, address: str, heard: PeerPush) -> bool:
        """Push to the replica at *address*; return whether it took it."""
        ...


class HttpPeerTransport:
    """Pushes over HTTP, with *token* as bearer."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def push(self, address: str, heard: PeerPush) -> bool:
        """Push; False for every failure, since the next push says it again."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"authorization": f"Bearer {self._token}"}
        body = heard.body()
        try:
            async with self._session.post(f"http://{address}{PATH}", json=body, headers=headers) as answer:
                return answer.status == HTTPStatus.NO_CONTENT
        except (aiohttp.ClientError, TimeoutError) as e:
            _log.warning("push to the arbiter failed", address=address, error=str(e) or type(e).__name__)
            return False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


@define(eq=False)
class PeerPusher:
    """Reports to the holder of the Lease which devices we heard."""

    _elector: Elector
    _liveness: LivenessTracker
    _transport: PeerTransport
    _identity: str = field(kw_only=True)
    _clock: Clock = field(kw_only=True)
    _informed: str | None = field(default=None, init=False)  # knows all that was heard before _informed_at
    _informed_at: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Push every second until cancelled."""
        while True:
            await self._clock.sleep(PUSH_S)
            holder = self._elector.holder
            address = self._elector.holder_annotations.get(PEER_ADDRESS_ANNOTATION)
            if holder is not None and holder != self._identity and address:
                await self._push(holder, address)

    async def _push(self, holder: str, address: str) -> None:
        now = self._clock.monotonic()
        since = self._informed_at if holder == self._informed else float("-inf")  # a new one gets all
        for push in self._pushes(now, since):
            if not await self._transport.push(address, push):
                return  # the next one says it again
        self._informed, self._informed_at = holder, now

    def _pushes(self, now: float, since: float) -> Iterator[PeerPush]:
        """Yield what was heard and fetched since *since*, in one push at least and in none too large."""
        ages: dict[str, float] = {}
        fetched: dict[str, tuple[float, Mapping[str, int]]] = {}
        entries = 0
        for name in self._liveness.heard_at.keys() | self._liveness.fetched.keys():
            heard_at, known = self._liveness.heard_at.get(name), self._liveness.fetched.get(name)
            if heard_at is not None and heard_at >= since:
                ages[name] = round(now - heard_at, 3)
                entries += 1
            if known is not None and known.at >= since:
                fetched[name] = round(now - known.at, 3), dict(known.generations)
                entries += 1 + len(known.generations)
            if entries >= MAX_ENTRIES:
                yield PeerPush(observer=self._identity, ages=ages, fetched=fetched)
                ages, fetched, entries = {}, {}, 0
        yield PeerPush(observer=self._identity, ages=ages, fetched=fetched)


def create_peer_app(token: str, liveness: LivenessTracker, is_leading: Callable[[], bool]) -> Starlette:
    """Return the application of the peer port: it takes pushes while *is_leading*."""
    expected = f"Bearer {token}".encode()

    async def heard(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            return Response(status_code=HTTPStatus.UNAUTHORIZED)
        if not is_leading():
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            push = _read(await _body(request))
        except WireError:
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        for device, (age, generations) in (push.fetched or {}).items():
            liveness.fetched_before(device, generations, age=age)
        liveness.pushed(push.observer, complete=push.fetched is not None)
        for device, age in push.ages.items():
            liveness.heard(device, age=age, observer=push.observer)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    return Starlette(routes=[Route(PATH, heard, methods=["POST"])])


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise WireError(Fault("", "is too large"))
    return bytes(body)


def _read(body: bytes) -> PeerPush:
    data = parse_json(body)
    if not isinstance(data, dict):
        raise WireError(Fault("", "must be an object"))
    observer, ages = data.get("observer"), data.get("ages")
    if not isinstance(observer, str) or not observer or not isinstance(ages, dict):
        raise WireError(Fault("", "needs an observer and ages"))
    if not all(type(age) in (int, float) and age >= 0 for age in ages.values()):
        raise WireError(Fault("ages", "must be seconds"))
    return PeerPush(observer=observer, ages=ages, fetched=_read_fetched(data.get("fetched")))


def _read_fetched(data: Any) -> Mapping[str, tuple[float, Mapping[str, int]]] | None:
    if data is None:
        return None
    try:
        fetched = {device: (float(age), dict(generations)) for device, (age, generations) in data.items()}
    except (AttributeError, TypeError, ValueError) as e:
        raise WireError(Fault("fetched", "must be seconds and generations")) from e
    if not all(age >= 0 and all(map(_is_generation, said.values())) for age, said in fetched.values()):
        raise WireError(Fault("fetched", "must be seconds and generations"))
    return fetched


def _is_generation(value: object) -> bool:
    return type(value) is int and value >= 0
