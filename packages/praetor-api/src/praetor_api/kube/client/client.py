# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes client: raw objects over aiohttp, each request with a timeout, each failure a KubeError.

The official client's own request path is not used: it takes one scalar timeout for a whole watch, does not check
a watch's HTTP status, and mislabels patches.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt
from yarl import URL

from praetor_api.kube.client.api import KubeApi, Query, WatchEvent, WatchType
from praetor_api.kube.client.connection import ApiConnection, from_kubeconfig
from praetor_api.kube.client.errors import ApiError, KubeError, TooManyRequests, Unauthorized, Unreachable, api_error
from praetor_api.kube.client.framing import LineSplitter, LineTooLong
from praetor_api.kube.client.resource import Resource

__all__ = ["CONNECT_TIMEOUT_S", "MAX_EVENT_BYTES", "REQUEST_TIMEOUT_S", "WATCH_IDLE_S", "KubeClient"]


CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 15.0
"""A connection that a middlebox swallowed answers nothing: who waits for it is blind for so long."""
WATCH_IDLE_S = 150.0
"""A bookmark comes every minute: more than two minutes without one mean a dead connection."""
_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds to the first probe and between two, and how many without an answer end a quiet connection, after 25 s."""
MAX_EVENT_BYTES = 8 * 2**20  # etcd keeps no more than 1.5 MiB; managed fields and encoding come on top
_READ_BUFFER = 2**17  # bounds how many events of a burst are handled before others get a turn
_MAX_MESSAGE = 512
_MAX_ERROR_BYTES = 2**20
_ATTEMPTS = 4
_MAX_THROTTLE_S = 5.0  # a longer wait is left to the caller, which may have better things to do
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_GO_ESCAPES = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


class KubeClient(KubeApi):
    """A KubeApi over HTTP. ``on_request(verb, resource, code)`` is called after each request; code 0 is no answer.

    ``on_duration(verb, seconds)`` is called, too: programs that were built with an older praetor-api set the first
    alone, so that it never gets another argument.

    *request_timeout_s* bounds each request. A list has twice as long, and a watch ends after *watch_idle_s* seconds
    without a byte. With *dry_run* the API validates and defaults every write and answers as if it took place, but
    stores nothing.
    """

    def __init__(
        self,
        connection: ApiConnection,
        *,
        user_agent: str = "praetor",
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        watch_idle_s: float = WATCH_IDLE_S,
        dry_run: bool = False,
    ) -> None:
        self._connection = connection
        self._dry_run = dry_run
        self._request_timeout = aiohttp.ClientTimeout(total=request_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._timeouts = {
            "list": aiohttp.ClientTimeout(total=2 * request_timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            "watch": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=watch_idle_s),
        }
        self._server_name = connection.server_name
        tls = connection.ssl_context()
        # once: aiohttp would look for it, and for a netrc, in each request
        proxy, self._proxy_headers = connection.proxy()
        # Watches take no connection that another request left: one that a middlebox swallowed would delay them.
        self._session, self._watching = (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit, ssl=tls, socket_factory=_probed_socket),
                headers={"Accept": "application/json", "User-Agent": user_agent},
                read_bufsize=_READ_BUFFER,
                proxy=proxy,
            )
            for limit in (100, 0)
        )
        self.on_request: Callable[[str, Resource, int], None] | None = None
        self.on_duration: Callable[[str, float], None] | None = None

    @classmethod
    async def from_config(cls, kubeconfig: str | None = None, context: str | None = None) -> KubeClient:
        """Return a client for *kubeconfig*, else $KUBECONFIG, else ~/.kube/config, else the pod's service account.

        Raises NotConfigured. Use the client as an async context manager, or close() it.
        """
        return cls(await ApiConnection.open(from_kubeconfig(kubeconfig, context)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._watching.close()

    async def _stream(
        self, resource: Resource, path: str, query: Query, on_open: Callable[[], None] | None
    ) -> AsyncGenerator[WatchEvent, None]:
        lines = LineSplitter(MAX_EVENT_BYTES)
        async with self._answer("watch", resource, "GET", path, query) as response:
            try:
                await _raise_for_status(response)
            except Unauthorized:
                await self._connection.renew(_authorization(response))
                raise
            if on_open is not None:
                on_open()
            async for chunk in response.content.iter_any():
                for line in lines.feed(chunk):
                    if line.strip():
                        yield _parse_event(line)
            if not lines.empty:
                raise Unreachable(f"the watch of {resource.plural} was cut off within an event")

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
        if self._dry_run and method != "GET":
            query = {**(query or {}), "dryRun": "All"}
        data = None if body is None else _as_go_writes_it(body)
        sent: dict[str, str] = {}
        failed: KubeError | None = None

        async def send() -> dict[str, Any]:
            nonlocal sent
            async with self._answer(verb, resource, method, path, query, data, content_type) as response:
                sent = _authorization(response)
                await _raise_for_status(response)
                return _parse_object(await response.read())

        async def send_again() -> dict[str, Any]:
            nonlocal failed
            if failed is not None:  # the first attempt
                known, failed = failed, None
                raise known
            return await send()

        async def may_send_again(state: RetryCallState) -> bool:
            error = _error_of(state)
            if isinstance(error, Unauthorized):  # once: credentials that were just renewed are not renewed again
                return state.attempt_number == 1 and await self._connection.renew(sent)
            # a throttled request was refused before anything happened: safe to send again, whatever the verb
            asked = error.retry_after if isinstance(error, TooManyRequests) else None
            return asked is not None and asked <= _MAX_THROTTLE_S

        try:
            return await send()
        except (Unauthorized, TooManyRequests) as e:
            failed = e
        # made when it is needed: it costs a tenth of a request
        retrying = AsyncRetrying(
            retry=may_send_again,
            wait=_asked_delay,
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        return await retrying(send_again)

    @asynccontextmanager
    async def _answer(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        query: Query | None = None,
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = await self._connection.headers()
        if data is not None:
            headers["Content-Type"] = content_type
        code, began = 0, asyncio.get_running_loop().time()
        try:
            session = self._watching if verb == "watch" else self._session
            async with session.request(
                method,
                self._url(path, query),
                data=data,
                headers=headers,
                timeout=self._timeouts.get(verb, self._request_timeout),
                allow_redirects=False,
                proxy_headers=self._proxy_headers,
                server_hostname=self._server_name,
            ) as response:
                code = response.status
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError, LineTooLong) as e:
            raise Unreachable(f"cannot {verb} {resource.plural}: {str(e) or type(e).__name__}") from e
        finally:
            if self.on_request is not None:
                self.on_request(verb, resource, code)
            if self.on_duration is not None:
                self.on_duration(verb, asyncio.get_running_loop().time() - began)

    def _url(self, path: str, query: Query | None) -> URL:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return URL(f"{self._connection.host}{path}{'?' if given else ''}{urlencode(given)}", encoded=True)


def _probed_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket whose peer the kernel probes: a quiet watch sends nothing that could be lost."""
    family, kind, protocol, *_ = info
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened


def _as_go_writes_it(body: Any) -> bytes:
    """Return *body* as JSON in the apiserver's own spelling.

    The data of a ControllerRevision is kept and compared as bytes: spelled otherwise, it would be called changed as
    soon as the apiserver rewrites the object.
    """
    return _ENCODER.encode(body).translate(_GO_ESCAPES).encode("utf-8", "replace")


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError as e:
        raise Unreachable(f"the answer is not JSON: {body[:80]!r}") from e
    if not isinstance(parsed, dict):
        raise Unreachable(f"the answer is no object: {body[:80]!r}")
    return parsed


def _parse_event(line: bytes) -> WatchEvent:
    event = _parse_object(line)
    if event.get("type") == "ERROR":
        raise _from_status_object(event.get("object") or {}, 500, None)
    try:
        return WatchEvent(WatchType(event["type"]), event["object"])
    except (KeyError, ValueError) as e:
        raise Unreachable(f"not a watch event: {line[:80]!r}") from e


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _asked_delay(state: RetryCallState) -> float:
    """Return the seconds that a throttling API asked for, and up to half of it more, so that clients do not return in
    step; 0 after credentials were renewed."""
    error = _error_of(state)
    asked = error.retry_after if isinstance(error, TooManyRequests) else None
    return (asked or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311  # jitter


def _authorization(response: aiohttp.ClientResponse) -> dict[str, str]:
    sent = response.request_info.headers.get("Authorization")
    return {"Authorization": sent} if sent else {}


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    body = b""
    async with asyncio.timeout(REQUEST_TIMEOUT_S):  # a watch has no total timeout of its own
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MAX_ERROR_BYTES:
                break
    retry_after = _seconds(response.headers.get("Retry-After"))
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):  # a proxy, or the apiserver before it knows what is asked: plain text
        text = body.decode("utf-8", "replace").strip()[:_MAX_MESSAGE]
        raise api_error(response.status, response.reason or "", text, None, retry_after)
    raise _from_status_object(status, response.status, retry_after)


def _from_status_object(status: Mapping[str, Any], default_code: int, retry_after: float | None) -> ApiError:
    details = status.get("details") or {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    code = int(status.get("code") or default_code)
    return api_error(code, status.get("reason") or "", status.get("message") or "", details, retry_after)


def _seconds(header: str | None) -> float | None:
    """Return what a Retry-After header asks for: seconds, or until a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
