# SPDX-License-Identifier: Apache-2.0
"""How replicas report to the leader which devices they heard: ages, never timestamps, once a second on their own port.

An empty push counts, too: it proves that the observer works. A replica that the leader does not hear, or
refuses, says so on the Lease, and the leader believes no silence meanwhile.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
import structlog
from attrs import define, field, frozen
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from praetor_api.annotations import PEER_ADDRESS_ANNOTATION, PEER_UNHEARD_ANNOTATION
from praetor_api.kube.client.errors import KubeError
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
MAX_INTERVAL_S = 86_400
"""The longest interval of heartbeats that an agent takes."""
MAX_ENTRIES = 40_000
"""How many devices and processes a push names at most: with the longest names and uids that is 14 MiB."""

UNHEARD_S = 3.0
"""How long pushes must have failed before a replica says so on the Lease."""
ANNOUNCE_S = 10.0
"""How often it says so again; a third of the time for which the leader believes it."""
LOG_S = 60.0
"""Between two lines of the log about the same trouble."""

_log = structlog.get_logger()


class PushResult(StrEnum):
    """What became of a push; the values are labels of metrics."""

    TAKEN = "taken"
    REFUSED = "refused"
    INVALID = "invalid"
    NOT_LEADING = "not_leading"
    UNREACHABLE = "unreachable"


_RESULTS: dict[int, PushResult] = {
    HTTPStatus.NO_CONTENT: PushResult.TAKEN,
    HTTPStatus.UNAUTHORIZED: PushResult.REFUSED,
    HTTPStatus.SERVICE_UNAVAILABLE: PushResult.NOT_LEADING,
}
_STATUSES = {result: status for status, result in _RESULTS.items()}


class PeerSecrets:
    """The secrets that all replicas share, newest first. Each is accepted, so that replicas may read a new one late."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.current = secrets

    def replace(self, secrets: tuple[str, ...]) -> None:
        """Use *secrets* from now on."""
        self.current = secrets

    def accept(self, authorization: bytes) -> bool:
        """Return whether an Authorization header has one of them."""
        good = [hmac.compare_digest(authorization, f"Bearer {secret}".encode()) for secret in self.current]
        return any(good)


@frozen(kw_only=True)
class PeerPush:
    """What one replica sends: the seconds since *observer* heard each device, by name, and what each fetched.

    *fetched* has the seconds since then, and the generation of each process by its uid. *intervals* are those of
    devices that may be heard less often than others; *wants* is the one that the replica wants to hand out. All three
    are None from an older version, which does not know them.
    """

    observer: str
    ages: Mapping[str, float]
    fetched: Mapping[str, tuple[float, Mapping[str, int]]] | None = None
    intervals: Mapping[str, int] | None = None
    wants: int | None = None

    def body(self) -> dict[str, object]:
        """Return it as JSON."""
        body: dict[str, object] = {"observer": self.observer, "ages": dict(self.ages)}
        if self.fetched is not None:
            body["fetched"] = dict(self.fetched)
        if self.intervals is not None and self.wants is not None:
            body |= {"intervals": dict(self.intervals), "wants": self.wants}
        return body


class PeerTransport(Protocol):
    """Sends pushes to the leader."""

    async def push(self, address: str, heard: PeerPush) -> PushResult:
        """Push to the replica at *address*; return what became of it."""
        ...


class HttpPeerTransport:
    """Pushes over HTTP, with the newest of *secrets* as bearer, and with the others while that is refused."""

    def __init__(self, secrets: PeerSecrets) -> None:
        self._secrets = secrets
        self._session: aiohttp.ClientSession | None = None

    async def push(self, address: str, heard: PeerPush) -> PushResult:
        """Push; a failure needs no retry, since the next push says it again."""
        result = PushResult.REFUSED
        for secret in self._secrets.current:
            result = await self._push(address, heard, secret)
            if result is not PushResult.REFUSED:
                break
        return result

    async def _push(self, address: str, heard: PeerPush, secret: str) -> PushResult:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"authorization": f"Bearer {secret}"}
        try:
            async with self._session.post(f"http://{address}{PATH}", json=heard.body(), headers=headers) as answer:
                return _RESULTS.get(answer.status, PushResult.INVALID)
        except (aiohttp.ClientError, TimeoutError):
            return PushResult.UNREACHABLE

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


@define(eq=False)
class PeerPusher:
    """Reports to the holder of the Lease which devices we heard; *count* is called with what became of each push.

    Without a *transport*, or an address of the holder, the holder cannot hear us.
    """

    _elector: Elector
    _liveness: LivenessTracker
    _transport: PeerTransport | None
    _identity: str = field(kw_only=True)
    _clock: Clock = field(kw_only=True)
    _stale_s: float = field(kw_only=True)
    _wants: Callable[[], int] = field(kw_only=True)
    _count: Callable[[PushResult], None] = field(kw_only=True)
    _informed: str | None = field(default=None, init=False)  # knows all that was heard before _informed_at
    _informed_at: float = field(default=0.0, init=False)
    _unheard_since: float | None = field(default=None, init=False)
    _announced_at: float | None = field(default=None, init=False)
    _announcements: int = field(default=0, init=False)
    _logged_at: float | None = field(default=None, init=False)

    async def run(self) -> None:
        """Push every second until cancelled, and say so on the Lease when that fails."""
        while True:
            await self._clock.sleep(PUSH_S)
            holder = self._elector.holder
            if holder is None or holder == self._identity or self._liveness.decides:  # it is about to stop
                self._unheard_since = None
                continue
            result = await self._push(holder, self._elector.holder_annotations.get(PEER_ADDRESS_ANNOTATION))
            self._count(result)
            if result is PushResult.TAKEN:
                self._unheard_since = None
            elif self._is_due(self._clock.monotonic()):
                await self._announce(holder, result)

    async def _push(self, holder: str, address: str | None) -> PushResult:
        if self._transport is None or not address:
            return PushResult.UNREACHABLE
        now, liveness = self._clock.monotonic(), self._liveness
        recent, liveness.untold = liveness.untold, set()
        names, since = recent, self._informed_at
        if holder != self._informed:  # a new one gets all
            names, since = liveness.heard_of(), float("-inf")
        for push in self._pushes(names, now, since):
            result = await self._transport.push(address, push)
            if result is not PushResult.TAKEN:
                liveness.tell_again(recent)
                return result
        self._informed, self._informed_at = holder, now
        return PushResult.TAKEN

    def _is_due(self, now: float) -> bool:
        """Return whether to say that we are not heard: while devices talk to us."""
        if self._unheard_since is None:
            self._unheard_since, self._announced_at = now, None
        if now - self._unheard_since < UNHEARD_S:
            return False
        if self._announced_at is not None and now - self._announced_at < ANNOUNCE_S:
            return False
        return self._liveness.hears(self._stale_s)

    async def _announce(self, holder: str, result: PushResult) -> None:
        now = self._announced_at = self._clock.monotonic()
        if self._logged_at is None or now - self._logged_at >= LOG_S:
            self._logged_at = now
            _log.warning("the leader does not take what we heard", leader=holder, reason=result.value)
        self._announcements += 1
        try:
            await self._elector.annotate({PEER_UNHEARD_ANNOTATION: f"{self._identity} {self._announcements}"})
        except (KubeError, TimeoutError) as e:
            _log.warning("cannot say on the Lease that we are not heard", error=str(e))

    def _pushes(self, names: Iterable[str], now: float, since: float) -> Iterator[PeerPush]:
        """Yield what was heard of *names*, and fetched, since *since*, in one push at least and in none too large."""
        ages: dict[str, float] = {}
        fetched: dict[str, tuple[float, Mapping[str, int]]] = {}
        entries = 0
        for name in names:
            session = self._liveness.session(name)
            if session is None:
                continue
            heard_at, fetched_at = session.heard_at, session.fetched_at
            if heard_at is not None and heard_at >= since:
                ages[name] = round(now - heard_at, 3)
                entries += 1
            if fetched_at is not None and fetched_at >= since:
                generations = session.fetched
                fetched[name] = round(now - fetched_at, 3), generations
                entries += 1 + len(generations)
            if entries >= MAX_ENTRIES:
                yield self._push_of(ages, fetched, now)
                ages, fetched, entries = {}, {}, 0
        yield self._push_of(ages, fetched, now)

    def _push_of(
        self, ages: Mapping[str, float], fetched: Mapping[str, tuple[float, Mapping[str, int]]], now: float
    ) -> PeerPush:
        intervals = self._liveness.intervals.longer(ages, now)
        return PeerPush(observer=self._identity, ages=ages, fetched=fetched, intervals=intervals, wants=self._wants())


def create_peer_app(
    secrets: PeerSecrets,
    liveness: LivenessTracker,
    is_leading: Callable[[], bool],
    monotonic: Callable[[], float],
    count: Callable[[PushResult], None],
) -> Starlette:
    """Return the application of the peer port: it takes pushes while *is_leading*, and counts what becomes of them."""
    logged_at = float("-inf")

    def refuse(request: Request) -> PushResult:
        nonlocal logged_at
        if monotonic() - logged_at >= LOG_S:
            logged_at = monotonic()
            address = request.client.host if request.client is not None else ""
            _log.warning("pushes refused: their secret is none of --peer-token-file", address=address)
        return PushResult.REFUSED

    async def take(request: Request) -> PushResult:
        if not secrets.accept(request.headers.get("authorization", "").encode("utf-8", "surrogateescape")):
            return refuse(request)
        if not is_leading():
            return PushResult.NOT_LEADING
        try:
            async with asyncio.timeout(TIMEOUT_S):
                push = _read(await _body(request))
        except (WireError, TimeoutError):
            return PushResult.INVALID
        for device, (age, generations) in (push.fetched or {}).items():
            liveness.fetched_before(device, generations, age=age)
        liveness.pushed(push.observer, complete=push.fetched is not None, wants=push.wants or 0)
        for device, age in push.ages.items():
            if push.intervals is not None:
                liveness.handed(device, push.intervals.get(device))
            liveness.heard_elsewhere(device, push.observer, age=age)
        return PushResult.TAKEN

    async def heard(request: Request) -> Response:
        result = await take(request)
        count(result)
        return Response(status_code=_STATUSES.get(result, HTTPStatus.BAD_REQUEST))

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
    intervals, wants = data.get("intervals"), data.get("wants")
    if intervals is not None and not (isinstance(intervals, dict) and all(map(_is_interval, intervals.values()))):
        raise WireError(Fault("intervals", "must be seconds"))
    if wants is not None and not _is_interval(wants):
        raise WireError(Fault("wants", "must be seconds"))
    fetched = _read_fetched(data.get("fetched"))
    return PeerPush(observer=observer, ages=ages, fetched=fetched, intervals=intervals, wants=wants)


def _is_interval(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_INTERVAL_S


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
