# SPDX-License-Identifier: Apache-2.0
"""The device protocol's endpoints. Nothing here waits for the apiserver: all answers come from memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus

from attrs import define, field
from starlette.types import Receive, Scope, Send

from praetor_api.canonical import etag_matches
from praetor_api.protocol import (
    INTERVAL_HEADER,
    RESYNC_HEADER,
    Observation,
    Rejected,
    Report,
    read_report,
)
from praetor_api.wire import WireError, parse_json, write
from praetor_gateway.errors import Problem
from praetor_gateway.fleet.devices import EMPTY_ETAG, DeclaredDevice, DeviceIndex
from praetor_gateway.fleet.order import Poll
from praetor_gateway.fleet.references import Refusal
from praetor_gateway.http.auth import DeviceAuthenticator, TokenDecision
from praetor_gateway.http.connection import ANSWER
from praetor_gateway.http.desired import render
from praetor_gateway.http.long_poll import LongPolls, Woken
from praetor_gateway.http.rate_limit import RateLimit
from praetor_gateway.http.requests import (
    FEATURES,
    IF_NONE_MATCH,
    POLL,
    REPORTED,
    TOKEN,
    Bodies,
    RequestHead,
    named_features,
    preferred_wait,
    read_body,
    read_head,
)
from praetor_gateway.reports.handler import ReportHandler
from praetor_gateway.reports.heartbeats import Heartbeat, parse_heartbeat, read_heartbeat, read_poll

_OK, _NOT_MODIFIED = HTTPStatus.OK.value, HTTPStatus.NOT_MODIFIED.value  # to ask the class costs 0.5 µs each time
_ACKNOWLEDGED = (
    b'{"ack":true,"desiredETag":"\\"%b\\"","heartbeatIntervalSeconds":%d,"pollIsHeartbeat":true,"resync":%b}'
)
_JSON = (b"content-type", b"application/json")
HELD = "praetor.held"
"""Set in the scope of a poll that was held."""
LEFT = "praetor.left"
"""Set in the scope of a poll whose client went away while it was held, so that there is no answer."""
RETRY_S, RETRY_SPREAD_S = 5, 10
"""After how many seconds what is refused in an overload may come back, and over how many more that is spread at least,
over an interval of heartbeats else."""
TOGETHER_S = 0.25
"""Polls that end within so many seconds are answered together, the later ones early. A gateway that wakes up for each
of thousands of them does most of its work with cold caches, and so do the programs beside it."""
_NO_STORE = (b"cache-control", b"no-store")
_INTERVAL = INTERVAL_HEADER.lower().encode()
_RESYNC = (RESYNC_HEADER.lower().encode(), b"1")


@define(eq=False)
class DeviceApi:
    """Answers devices, once *is_synced* returns that the fleet is known.

    Every device is asked to be heard every *interval* seconds, and waits at most *max_wait_s* seconds in a poll.
    With *tls_terminated* a proxy before the gateway ends TLS, and plain connections come from it alone.
    While *is_overloaded*, every other new request is refused, but no poll that can be held: one with the present ETag.
    It may send *rate_per_s* requests a second to each endpoint in the long run, by the seconds of *monotonic*.
    *count* is called with the route and status of each answer.
    """

    _fleet: DeviceIndex
    _long_polls: LongPolls
    _authenticator: DeviceAuthenticator
    _reports: ReportHandler
    _interval: Callable[[], int] = field(kw_only=True)
    _max_wait_s: int = field(kw_only=True)
    _rate_per_s: float = field(kw_only=True)
    _monotonic: Callable[[], float] = field(kw_only=True)
    _is_synced: Callable[[], bool] = field(kw_only=True)
    _is_overloaded: Callable[[], bool] = field(kw_only=True)
    _count: Callable[[str, int], None] = field(kw_only=True)
    _tls_terminated: bool = field(default=False, kw_only=True)
    _rates: Mapping[str, RateLimit] = field(init=False)
    bodies: Bodies = field(factory=Bodies, init=False)
    _in_overload: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        # each endpoint by itself: a device that reports without end still gets its desired state
        self._rates = {action: RateLimit(self._rate_per_s) for action in ("desired", "report", "connect")}

    def declares(self, name: str) -> bool:
        """Return whether there is a device of this *name*, which is a device's name then."""
        return self._fleet.device(name) is not None

    async def desired(self, name: str, scope: Scope, receive: Receive, send: Send, began: float) -> None:
        """Answer GET and HEAD of the desired state: 200, 304, or a 304 that is held as long as the client prefers."""
        head = read_head(scope)
        sent = read_poll(head.get(POLL), head.get(REPORTED))
        device, poll, access = self._admit(name, head, scope, began, sent)
        if device is not None and poll is sent and FEATURES not in head:
            device.knows(frozenset())
        known, etag = head.get(IF_NONE_MATCH), _etag(device, access)
        is_known = known is not None and etag_matches(known.decode("latin-1"), etag)
        applied = preferred_wait(head, self._max_wait_s) if is_known and scope["method"] == "GET" else 0
        if not applied:  # to hold a poll costs less than to have it sent again
            self._relieve()
        if is_known:
            if device is not None and known != b"*":
                self._reports.fetched(device)
            resync = False
            if scope["method"] == "GET":
                resync = self._ask(device, poll)
                applied = 0 if resync else applied
            if not applied:
                await self._not_modified(scope, send, device, etag, applied, poll, resync=resync)
                return
            scope[HELD] = True
            wait_s = self._until_compared(device, poll, applied)
            woken, access = await self._held(name, head, scope, etag, receive, wait_s)
            if woken is Woken.GONE:
                scope[LEFT] = True
                return
            device = self._not_held(self._fleet.device(name))
            if _etag(device, access) == etag:
                lacks = device is not None and (device.session.unreported or device.session.behind)
                resync = bool(lacks) and self._ask(device, poll)  # else the next poll, in a moment, is early enough
                await self._not_modified(scope, send, device, etag, applied, poll, resync=resync)
                return
        if device is not None and scope["method"] == "GET":
            self._reports.fetched(device)  # before it is sent: it may act on it before we learn that it was sent
        await self._send_desired(name, device, access, scope, send, applied, poll)

    def _ask(self, device: DeclaredDevice | None, poll: Poll | None) -> bool:
        """Return whether to ask a device that has its present desired state to report everything."""
        return device is not None and poll is not None and self._reports.ask(device, poll)

    def _until_compared(self, device: DeclaredDevice | None, poll: Poll | None, applied: int) -> float:
        """Return how many of *applied* seconds to hold a poll: no longer than a record may be behind."""
        compare_in_s = None if device is None or poll is None else self._reports.compare_in_s(device)
        return applied if compare_in_s is None else min(compare_in_s, applied)

    async def report(self, name: str, scope: Scope, receive: Receive, send: Send, began: float) -> None:
        """Answer POST of a report: 200 with the acknowledgement."""
        head = read_head(scope)
        device, _, access = self._admit(name, head, scope, began)
        self._relieve()
        body = await read_body(head, receive, self.bodies)
        report, observations, rejected = _read(body)
        resync = False
        if device is not None:
            rejected += self._reports.report(device, report, observations, access)
            resync = bool(device.session.unreported)
        self._count("report", _OK)
        await self._acknowledge(scope, send, device, access, resync, rejected)

    async def connect(self, name: str, scope: Scope, receive: Receive, send: Send, began: float) -> None:
        """Answer POST of connect, a heartbeat without a report."""
        head = read_head(scope)
        device, _, access = self._admit(name, head, scope, began)
        self._relieve()
        await read_body(head, receive, self.bodies)
        self._count("connect", _OK)
        resync = device is not None and bool(device.session.unreported)
        await self._acknowledge(scope, send, device, access, resync, ())

    def _admit(
        self, name: str, head: RequestHead, scope: Scope, now: float, poll: Poll | None = None
    ) -> tuple[DeclaredDevice | None, Poll | None, Refusal | None]:
        """Return the device behind a valid token, which counts as heard; None when it is not declared.

        A *poll* that says which one it is counts only if it is new; it is returned if it does. The last one is why the
        connection carries no values of Secrets, None if it may.

        Raises Problem (503, 401, 429, 409).
        """
        if not self._is_synced():  # an empty answer would stop what runs, and the credential epoch is not known either
            detail = "the gateway does not know the desired state yet"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"retry-after": "1"})
        device = self._fleet.device(name)
        access = self._authenticate(name, device, head, scope)
        if device is not None:
            counts = True
            if poll is None:
                self._reports.heard(device, now)
            elif not self._reports.polled(device, poll):
                poll, counts = None, False
            if counts and FEATURES in head:  # what is repeated may be of an earlier agent
                device.knows(named_features(head))
        # after the token: no one spends what is another's
        wait_s = self._rates[scope["action"]].spend(name, now)
        if wait_s > 0:
            detail = "the device asks too often; wait as long as Retry-After says"
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"retry-after": str(int(wait_s) + 1)})
        return self._not_held(device), poll, access

    def _relieve(self) -> None:
        """Raise Problem (503) for every other request in an overload; the device is known to live by now."""
        if not self._is_overloaded():
            return
        self._in_overload += 1
        if self._in_overload % 2:
            wait_s = RETRY_S + self._in_overload // 2 % (max(RETRY_SPREAD_S, self._interval()) + 1)
            detail = "the gateway is overloaded; wait as long as Retry-After says"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"retry-after": str(wait_s)})

    def _authenticate(
        self, name: str, device: DeclaredDevice | None, head: RequestHead, scope: Scope
    ) -> Refusal | None:
        """Return why the connection carries no values of Secrets, None if it may: others could read them.

        Raises Problem (401) if the token is not valid for the device by what is known at this moment.
        """
        session, epoch = (device.session, device.epoch) if device is not None else (None, 0)
        decision = self._authenticator.decide(name, head.get(TOKEN), epoch, session)
        if decision is TokenDecision.REFUSED:
            detail = "the token is missing or not valid for this device"
            raise Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"www-authenticate": "X-Device-Token"})
        if not self._tls_terminated and scope.get("scheme") != "https":
            return Refusal.PLAIN_TEXT
        return None if decision is TokenDecision.HMAC else Refusal.SHARED_TOKEN

    def _not_held(self, device: DeclaredDevice | None) -> DeclaredDevice | None:
        """Return *device*; raise Problem (409) if it is to keep what it runs."""
        if device is not None and device.held:
            detail = "the object of the device is gone while another one declares its name; it keeps what it runs"
            raise Problem(HTTPStatus.CONFLICT, detail)
        return device

    async def _held(
        self, name: str, head: RequestHead, scope: Scope, etag: str, receive: Receive, wait_s: float
    ) -> tuple[Woken, Refusal | None]:
        """Hold a 304 while the desired state has *etag*, until the time is up or the client goes away; return which.

        The token is checked again after each wait, for it may have been revoked meanwhile; why the connection carries
        no values of Secrets is returned as it is then.
        """
        until = asyncio.get_running_loop().time() + wait_s
        if wait_s >= 1.0:
            until -= until % TOGETHER_S
        while (woken := await self._long_polls.wait(name, scope, receive, until)) is not Woken.GONE:
            device = self._fleet.device(name)
            access = self._authenticate(name, device, head, scope)
            if woken is not Woken.CHANGED or _etag(device, access) != etag:
                return woken, access
        return woken, None

    async def _send_desired(
        self,
        name: str,
        device: DeclaredDevice | None,
        access: Refusal | None,
        scope: Scope,
        send: Send,
        applied: int,
        poll: Poll | None,
    ) -> None:
        rows = () if device is None else device.served
        self._reports.served(rows)
        interval = self._hand(device)
        if device is None:
            body = render(name, interval, rows)
        else:
            body = render(name, interval, rows, device.session.features, partial(device.resolved, access=access))
        etag = _etag(device, access).encode()
        headers = [_JSON, _NO_STORE, (b"etag", etag), (b"content-length", b"%d" % len(body))]
        self._count("desired", _OK)
        await send_answer(scope, send, _OK, headers + _preference(applied) + self._terms(device, poll), body)

    def _not_modified(
        self,
        scope: Scope,
        send: Send,
        device: DeclaredDevice | None,
        etag: str,
        applied: int,
        poll: Poll | None,
        *,
        resync: bool,
    ) -> Awaitable[None]:
        headers = [_NO_STORE, (b"etag", etag.encode()), *_preference(applied), *self._terms(device, poll)]
        if resync:
            headers.append(_RESYNC)
        self._count("desired", _NOT_MODIFIED)
        return send_answer(scope, send, _NOT_MODIFIED, headers, b"")

    def _hand(self, device: DeclaredDevice | None) -> int:
        """Return the interval of heartbeats to answer, by which the device is judged."""
        interval = self._interval()
        if device is not None:
            self._reports.handed(device, interval)
        return interval

    def _terms(self, device: DeclaredDevice | None, poll: Poll | None) -> list[tuple[bytes, bytes]]:
        """Return what says that the *poll* was taken as a heartbeat, and when the next one is due."""
        return [(_INTERVAL, b"%d" % self._hand(device))] if poll is not None else []

    def _acknowledge(
        self,
        scope: Scope,
        send: Send,
        device: DeclaredDevice | None,
        access: Refusal | None,
        resync: bool,
        rejected: Sequence[Rejected],
    ) -> Awaitable[None]:
        etag = _etag(device, access)[1:-1].encode()  # hexadecimal between quotes
        body = _ACKNOWLEDGED % (etag, self._hand(device), b"true" if resync else b"false")
        if rejected:
            body = b'%b,"rejected":%b}' % (body[:-1], json.dumps(write(tuple(rejected))).encode())
        headers = [_JSON, _NO_STORE, (b"content-length", b"%d" % len(body))]
        return send_answer(scope, send, _OK, headers, body)


def _read(body: bytes) -> tuple[Report | Heartbeat, tuple[Observation, ...], tuple[Rejected, ...]]:
    if (plain := parse_heartbeat(body)) is not None:
        return plain, (), ()
    try:
        data = parse_json(body)
        heartbeat = read_heartbeat(data)
        return (heartbeat, (), ()) if heartbeat is not None else read_report(data)
    except WireError as e:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not valid", faults=e.faults) from e


def _etag(device: DeclaredDevice | None, access: Refusal | None) -> str:
    return EMPTY_ETAG if device is None else device.etag_for(access)


def _preference(applied: int) -> list[tuple[bytes, bytes]]:
    return [(b"preference-applied", b"wait=%d" % applied)] if applied else []


def send_answer(
    scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> Awaitable[None]:
    """Send a whole answer, in one message if the server can take one: two cost an eighth of a poll more.

    Nothing is checked: *headers* have names in lower case, no control characters, and the length of *body* where there
    may be one.
    """
    if ANSWER in scope.get("extensions", ()):
        return send({"type": ANSWER, "status": status, "headers": headers, "body": body})
    return _answer_in_parts(send, status, headers, body)


async def _answer_in_parts(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
