# SPDX-License-Identifier: Apache-2.0
"""Hypercorn's HTTP/1.1 on one connection, with limits on time and size that hold however the bytes arrive.

Hypercorn reads and writes HTTP (h11) and speaks ASGI. The connection is ours, because Hypercorn's keeps one that ended
until a timer fires, never times out a head or a slow reader, and switches to HTTP/2.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from praetor_gateway.http.connection import (
    DRAINED_S,
    LENGTH_DIGITS,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    METHODS,
    READ_BYTES,
    VERSIONS,
    ConnectionLimits,
    origin_form,
    unsent,
)

Message = MutableMapping[str, Any]

TOO_MANY_LINES = "too many header lines"
QUEUED_CHUNKS = 10  # of a body that the application does not read yet
UNCLEAR_LINES = re.compile(
    rb"[\x00-\x08\x0b-\x1f\x7f]|\n[ \t]|\ncontent-length:(?:[^\n]*,|.*\ncontent-length:)", re.I | re.S
)
"""In the lines of a head: control characters, a line that is folded, a length that is given twice."""
CHUNK_HEAD = re.compile(
    rb"""0{0,4}[0-9a-f]{1,16}(?:;(?!;|\r)[!#$%&'*+.^_`|~0-9a-z-]*(?:=(?:[!#$%&'*+.^_`|~0-9a-z-]*|"(?:[^"\\]|\\.)*"))?)*\r\n""",
    re.I,
)
TARGET = re.compile(rb"[/*]|[a-z]+://[0-9a-z_.!~*'()%;:&=+$,@\[\]-]*(?:[/?]|$)", re.I)
BODY = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say that there is a body, and where it ends."""


class HypercornServer:
    """Runs *app* on connections: ``protocol()`` makes the asyncio protocol of one."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits) -> None:
        self.app = app
        self.limits = limits
        self.config = _Config()
        self.context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], HypercornConnection] = {}

    def protocol(self) -> asyncio.Protocol:
        """Return what asyncio calls with the bytes of one connection."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES // 2, loop=loop)  # it pauses at twice its limit
        return _Stream(reader, self._connected, loop=loop)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = HypercornConnection(self, reader, writer)
        task = asyncio.get_running_loop().create_task(connection.run(), name="connection")
        self._connections[task] = connection
        task.add_done_callback(lambda ended: self._connections.pop(ended, None))

    async def stop(self, timeout_s: float) -> None:
        """Close idle connections, and the others after their request; in *timeout_s* seconds all of them."""
        await self.context.terminated.set()
        for connection in self._connections.values():
            connection.stop()
        if self._connections:
            await asyncio.wait(self._connections, timeout=timeout_s)
        for task in (left := tuple(self._connections)):
            task.cancel()
        if left:
            await asyncio.wait(left)


class HypercornConnection:
    """One connection: reads, and closes it when the client goes away or takes too long."""

    def __init__(self, server: HypercornServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._limits = server.limits
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._stream: _Stream
        self._taken = 0  # bytes of those that arrived
        self._http: _Http1
        self._deadline = asyncio.timeout(None)
        self._reading = False
        self._idle = True  # no request is being read or answered
        self._closing = False  # by us: what still arrives is dropped

    async def run(self) -> None:
        """Serve until the connection ends; then its descriptor is closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._http = self._protocol(tasks)
                stream = self._transport.get_protocol()
                assert isinstance(stream, _Stream)  # noqa: S101 - HypercornServer.protocol() made it
                self._stream = stream
                stream.on_end, stream.on_data = self._client_ended, self._check_ahead
                self._http.parser.on_paused = self._check_ahead
                await self._read_all()
                await self._http.handle(Closed())
                await self._close()
        except* OSError:  # the connection broke
            pass
        finally:
            self._transport.abort()

    def stop(self) -> None:
        """Close the connection now if it is idle; if not, Hypercorn does after the answer."""
        if self._idle:
            self._expire()

    def _protocol(self, tasks: asyncio.TaskGroup) -> _Http1:
        server, bound = self._server, self._writer.get_extra_info("socket")
        return _Http1(
            server.app,
            server.config,
            server.context,
            _Applications(tasks, server.config),
            ConnectionState({}),
            self._writer.get_extra_info("ssl_object") is not None,
            parse_socket_addr(bound.family, self._writer.get_extra_info("peername")),
            parse_socket_addr(bound.family, self._writer.get_extra_info("sockname")),
            self._send,
        )

    async def _read_all(self) -> None:
        self._reading = True
        try:
            async with asyncio.timeout(self._limits.first_byte_s) as self._deadline:
                while data := await self._reader.read(READ_BYTES):
                    self._taken += len(data)
                    if self._closing:
                        continue
                    if self._idle:
                        self._idle = False
                        self._end_in(self._limits.head_s)
                    await self._http.handle(RawData(data))
        except OSError:  # too slow (TimeoutError), or broken
            pass
        finally:
            self._reading = False

    def _end_in(self, seconds: float | None) -> None:
        """End reading in so many seconds; never for None."""
        if self._reading and not self._deadline.expired():
            self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def _expire(self) -> None:
        self._end_in(0.0)

    def _client_ended(self) -> None:
        """End a read that waits for the application, which would see the end of the stream only after that."""
        if self._http.waits:
            self._expire()

    def _check_ahead(self) -> None:
        """End a client that sends more requests than are read ahead: its end would be seen only after all of them."""
        parser, unread = self._http.parser, self._stream.received - self._taken
        if self._http.waits and parser.their_state is not h11.SEND_BODY and unread + parser.buffered > READ_BYTES:
            self._expire()

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._writer.write(event.data)
            await self._flushed(self._writer.drain)
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._end_in(self._limits.keep_alive_s if event.idle else None)
        elif isinstance(event, Closed) and not self._closing:
            self._closing = True
            if self._reading and self._transport.can_write_eof() and not self._transport.is_closing():
                self._writer.write_eof()
            self._end_in(self._limits.linger_s)

    async def _close(self) -> None:
        if not self._transport.can_write_eof():
            await self._flushed(self._empty)
        if self._transport.get_write_buffer_size():
            self._writer.close()
            await self._flushed(self._writer.wait_closed)
        self._transport.abort()  # now: the application may take a while to end

    async def _flushed(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait with *wait* while the client takes any bytes; else abort."""
        while left := unsent(self._transport):
            try:
                async with asyncio.timeout(self._limits.write_s):
                    await wait()
                return
            except TimeoutError:
                if unsent(self._transport) >= left:
                    self._transport.abort()
                    return
            except (OSError, RuntimeError):  # closed meanwhile
                return

    async def _empty(self) -> None:
        """Return when the kernel has all."""
        while unsent(self._transport) and not self._transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(DRAINED_S)


class _Stream(asyncio.StreamReaderProtocol):
    """The bytes of a connection; calls *on_end* when the client sends no more, or the connection breaks.

    *received* are the bytes that arrived, and *on_data* is called after each piece of them.
    """

    on_end: Callable[[], None] | None = None
    on_data: Callable[[], None] | None = None
    received = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received += len(data)
        if self.on_data is not None:
            self.on_data()

    def eof_received(self) -> bool | None:
        keep_open = super().eof_received()
        if self.on_end is not None:
            self.on_end()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_end is not None:
            self.on_end()
            self.on_end = self.on_data = None


class _Applications:
    """Runs the application for each request, in *tasks*: Hypercorn's task group."""

    def __init__(self, tasks: asyncio.TaskGroup, config: Config) -> None:
        self._tasks = tasks
        self._config = config

    async def spawn_app(
        self, app: ASGIApp, _: Config, scope: Message, send: Callable[[Message | None], Awaitable[None]]
    ) -> Callable[[Message], Awaitable[None]]:
        messages: asyncio.Queue[Message] = asyncio.Queue(QUEUED_CHUNKS)
        task = self._tasks.create_task(self._run(app, scope, messages.get, send))

        async def put(message: Message) -> None:
            if message["type"] == "http.disconnect":
                while messages.full():  # the application does not read, and need not read all of it any more
                    messages.get_nowait()
            if not task.done():
                await messages.put(message)

        return put

    async def _run(
        self,
        app: ASGIApp,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message | None], Awaitable[None]],
    ) -> None:
        try:
            await app(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception:  # the server must go on
            await self._config.log.exception("the application failed")
        finally:
            await send(None)


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: an Upgrade is ignored, as RFC 9110 allows, and HTTP/2 gets a 505."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.parser = _StrictConnection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.connection = self.parser
        self.waits = False
        """Whether handle() waits for the application."""

    async def handle(self, event: Event) -> None:
        self.waits = isinstance(event, RawData)
        try:
            await super().handle(event)
        finally:
            self.waits = False

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            headers = [*event.headers, (b"connection", b"close")]  # the rest of the body will not be read
            event = Response(stream_id=event.stream_id, status_code=event.status_code, headers=headers)
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Switch to no other protocol."""

    async def _create_stream(self, request: h11.Request) -> None:
        await super()._create_stream(_plain(request))


def _plain(request: h11.Request) -> h11.Request:
    """Return *request* in origin form (RFC 9112 §3.2.1) and without Upgrade."""
    target, headers = request.target, list(request.headers)
    upgrades = any(name == b"upgrade" for name, _ in headers)
    if target.startswith((b"/", b"*")) and not upgrades:
        return request
    headers = [(name, value) for name, value in headers if name != b"upgrade"]
    return h11.Request(
        method=request.method, target=origin_form(target), headers=headers, http_version=request.http_version
    )


class _Lines(ReceiveBuffer):
    """What arrived; refuses lines that h11 would take and httptools does not, for others may see other lines in them.

    Of a head or trailers with too many lines none is parsed, which takes h11 milliseconds.
    """

    def skip_empty_lines(self) -> int:
        """Forget empty lines, which RFC 9112 §2.2 allows before a request, once it begins; return how long they are."""
        size = len(self._data) - len(self._data.lstrip(b"\r\n"))
        if 0 < size < len(self._data):
            self._extract(size)
        return size

    def forget(self) -> None:
        """Forget all."""
        self._extract(len(self._data))

    def maybe_extract_lines(self) -> list[bytearray] | None:
        before = len(self)
        lines: list[bytearray] | None = super().maybe_extract_lines()
        if lines is None:
            return None
        if len(lines) > MAX_HEADER_LINES + 1:  # a head begins with that of the request
            raise h11.RemoteProtocolError(TOO_MANY_LINES, error_status_hint=431)
        if before - len(self) != sum(map(len, lines)) + 2 * len(lines) + 2:
            raise h11.RemoteProtocolError("lines end with CR and LF", error_status_hint=400)
        if UNCLEAR_LINES.search(b"\n".join(lines)):
            raise h11.RemoteProtocolError("lines are not folded, and have no control characters", error_status_hint=400)
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        line: bytearray | None = super().maybe_extract_next_line()
        if line is not None and not CHUNK_HEAD.fullmatch(line):
            raise h11.RemoteProtocolError("this is no head of a chunk", error_status_hint=400)
        return line


class _StrictConnection(h11.Connection):
    """h11 limits what is incomplete; this limits what arrived in one piece, too, and takes what httptools takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receive_buffer = self._lines = _Lines()
        self.on_paused: Callable[[], None] = _nothing
        """Is called when what arrived waits for an answer to what came before it."""

    @property
    def buffered(self) -> int:
        """How many bytes arrived that are not parsed."""
        return len(self._lines)

    def next_event(self) -> Any:
        before = self.buffered
        if self.their_state is h11.MUST_CLOSE and before:  # behind the last request
            self._lines.forget()
            return h11.NEED_DATA
        if self.their_state is h11.IDLE and before:
            empty = self._lines.skip_empty_lines()
            if empty > MAX_HEAD_BYTES:
                raise self._refused("these are empty lines", 431)
            if empty == before:
                return h11.NEED_DATA
            before -= empty
        event = super().next_event()
        if event is h11.NEED_DATA:
            return event
        if event is h11.PAUSED:
            self.on_paused()
            return event
        head = before - self.buffered - (len(event.data) if isinstance(event, h11.Data) else 0)
        if head > MAX_HEAD_BYTES:
            raise self._refused("the head is too large", 431)
        if isinstance(event, h11.Request | h11.EndOfMessage) and len(event.headers) > MAX_HEADER_LINES:
            raise self._refused(TOO_MANY_LINES, 431)
        if isinstance(event, h11.EndOfMessage) and any(name in BODY for name, _ in event.headers):
            raise self._refused("a trailer says where the body ends", 400)
        if isinstance(event, h11.Request) and (refusal := _refusal(event)) is not None:
            raise self._refused(*refusal)
        return event

    def _refused(self, why: str, status: int) -> h11.RemoteProtocolError:
        self._process_error(self.their_role)
        return h11.RemoteProtocolError(why, error_status_hint=status)


def _refusal(request: h11.Request) -> tuple[str, int] | None:
    """Return why *request*, which h11 takes, is none, and the status that says so; None if it is one."""
    if request.http_version.decode() not in VERSIONS:
        return "only HTTP/1.1 is spoken", 505
    if request.method not in METHODS:
        return "there is no such method", 400
    if request.method == b"CONNECT":
        return "this is no proxy", 405
    if not TARGET.match(request.target):
        return "the target is no path", 400
    headers = dict(request.headers)
    if headers.keys() >= BODY:
        return "Content-Length and Transfer-Encoding exclude each other", 400
    if len(headers.get(b"content-length", b"")) > LENGTH_DIGITS:
        return "the length has too many digits", 400
    if b"upgrade" in headers and not BODY.isdisjoint(headers):
        words = b",".join(value.lower() for name, value in request.headers if name == b"connection").split(b",")
        if b"upgrade" in (word.strip() for word in words):
            return "a request that upgrades has no body", 400
    return None


def _nothing() -> None:
    """Do nothing."""


class _Config(Config):
    keep_alive_max_requests = sys.maxsize  # 1000, its default, are some hours of heartbeats
    include_server_header = False
    loglevel = "WARNING"
