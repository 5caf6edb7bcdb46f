# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP/1.1 on one connection, with limits on time and size that hold however the bytes arrive.

httptools parses, and uvicorn's cycle speaks ASGI. The connection is ours, because uvicorn's limits neither the size of
a head nor the time of anything but idleness, reads nothing while requests queue, and so misses that a client left, and
ends a connection before a refusal is read. No timer is made for a request: a connection has one, which is checked
against a deadline that moves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

import httptools
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from praetor_gateway.http.connection import (
    ANSWER,
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
from praetor_gateway.http.pause import PAUSES, Pause, resumed

PIECE_BYTES = 512
"""What is parsed at a time: limits hold within so much, and requests within one piece wait for each other parsed, at
more than 2 KiB each. Most requests of a device are smaller."""
KEPT_BYTES = 4096
"""Of an answer, at most: a longer one is written at once, so that its sender notices a slow client."""
DATE_S = 1.0
CHECKED = frozenset({b"expect", b"transfer-encoding", b"content-length", b"host"})
"""Headers that say something to the server."""
_EXTENSIONS: dict[str, dict[str, Any]] = {ANSWER: {}}
STATUSES = {
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: ("Invalid HTTP version", "on PRI"),  # the latter begins HTTP/2
    HTTPStatus.NOT_IMPLEMENTED: ("`Transfer-Encoding`", "Empty Transfer-Encoding"),
}
"""What is said of a request that httptools refuses in such words; of others, 400."""


class UvicornServer:
    """Runs *app* on connections: ``protocol()`` makes the asyncio protocol of one."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.config = Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        # load() would call an application that takes no argument, to see whether it makes one
        self.config.loaded_app, self.config.ws_protocol_class, self.config.loaded = app, None, True
        self.needs_task: bool = getattr(app, "needs_task", True)
        self.state = ServerState()
        self.connections: set[UvicornConnection] = set()
        self._unsent: list[_Output] = []
        self._dated: asyncio.TimerHandle | None = None
        self._ended: asyncio.Event | None = None

    def protocol(self) -> asyncio.Protocol:
        """Return what asyncio calls with the bytes of one connection."""
        return UvicornConnection(self)

    def add(self, connection: UvicornConnection) -> None:
        """Take note of a new connection; while there are any, the Date of answers is kept."""
        self.connections.add(connection)
        if self._dated is None:
            self._date()

    def remove(self, connection: UvicornConnection) -> None:
        """Take note that a connection ended."""
        self.connections.discard(connection)
        if self._ended is not None and not self.connections:
            self._ended.set()

    def send_soon(self, output: _Output) -> None:
        """Write what *output* keeps at the end of the loop's round."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(output)

    def _send(self) -> None:
        outputs, self._unsent = self._unsent, []
        for output in outputs:
            output.flush()

    def _date(self) -> None:
        self.state.default_headers[:] = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        loop = asyncio.get_running_loop()
        self._dated = loop.call_later(DATE_S, self._date) if self.connections else None

    async def stop(self, timeout_s: float) -> None:
        """Close idle connections, and the others after their request; in *timeout_s* seconds all of them."""
        self._ended = asyncio.Event()
        for connection in tuple(self.connections):
            connection.shutdown()
        if self.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
        for task in (left := tuple(self.state.tasks)):
            task.cancel()
        if left:
            await asyncio.wait(left)
        for connection in tuple(self.connections):
            connection.abort()
        if self._dated is not None:
            self._dated.cancel()


SendSoon: TypeAlias = "Callable[[_Output], None]"


class _Output:
    """The transport as a cycle uses it: *close* also reads what the client still sends.

    An answer is kept to the end of the loop's round: one packet, and what writes all of a round costs less for each.
    """

    __slots__ = ("_ended", "_keeps", "_kept", "_send_soon", "_transport", "close")

    def __init__(self, connection: UvicornConnection, transport: asyncio.Transport, send_soon: SendSoon) -> None:
        self._transport = transport
        self._send_soon = send_soon
        self._ended = self._keeps = False
        self._kept = b""
        self.close = connection.finish

    def is_closing(self) -> bool:
        """Return whether nothing can be written any more."""
        return self._ended or self._transport.is_closing()

    def keep(self) -> None:
        """Keep what is written next."""
        self._keeps = True

    def write(self, data: bytes) -> None:
        """Write *data*, behind what is kept."""
        if self._ended:
            return
        if not (self._keeps or self._kept):
            self._transport.write(data)
            return
        if not self._kept:
            self._send_soon(self)
        self._keeps = False
        self._kept += data
        if len(self._kept) > KEPT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if kept := self._kept:
            self._kept = b""
            self._transport.write(kept)

    def end(self) -> None:
        """Write what is kept, and drop what comes later."""
        self.flush()
        self._ended = True

    def lose(self) -> None:
        """Drop what is kept, and what comes later."""
        self._kept, self._ended = b"", True


class UvicornConnection(HttpToolsProtocol):
    """One connection: closes it when the client goes away, takes too long or sends too much."""

    # a tenth of what a connection takes: with these beside uvicorn's, no two would share the keys of their attributes
    __slots__ = (
        "_ahead",
        "_begun",
        "_broken",
        "_closing",
        "_connection",
        "_ends_at",
        "_fresh",
        "_head_bytes",
        "_head_ends",
        "_host",
        "_in_head",
        "_limits",
        "_lines",
        "_output",
        "_refusal",
        "_running",
        "_server",
        "_silent_bytes",
        "_timer",
        "_timer_at",
        "_writing",
        "stepping",
    )

    def __init__(self, server: UvicornServer) -> None:
        super().__init__(server.config, server.state, {})
        self.access_log = False
        self._server = server
        self._limits = server.limits
        self._running: _Cycle | None = None  # self.cycle is the one that was read last
        self._fresh: _Cycle | None = None  # it runs once what arrived is read
        self.stepping = False  # the application runs
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._ends_at = math.inf
        self._writing: asyncio.TimerHandle | None = None
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._broken = False  # nothing more is parsed
        self._closing = False  # by us: what still arrives is dropped
        self._ahead = bytearray()  # not parsed yet: two requests wait already
        self._in_head = False
        self._head_ends = False  # its time is running
        self._begun = 0  # heads that began in this piece
        self._head_bytes = self._silent_bytes = 0
        self._lines = 0
        self._host = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection = transport
        self._output = _Output(self, transport, self._server.send_soon)
        self.transport = self._output  # type: ignore[assignment] # all that a cycle needs of one
        self._server.add(self)
        self._end_in(self._limits.first_byte_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._output.lose()
        for timer in (self._timer, self._writing):
            if timer is not None:
                timer.cancel()
        self._server.remove(self)
        self.pipeline.clear()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        if running is not None and running.pause is not None:
            running.pause.resume()

    def eof_received(self) -> None:
        """Have the transport close, also when the client reads nothing of what is still to be sent."""
        self._output.flush()
        self._watch_writing()

    def shutdown(self) -> None:
        """Close now if nothing is answered; if not, after the last answer."""
        self._output.flush()
        if not self._is_answered():
            self.cycle.keep_alive = False
        elif unsent(self._connection):
            self.finish()
        else:
            self.abort()

    def abort(self) -> None:
        """Close now."""
        self._output.flush()
        with suppress(AttributeError):  # in early 3.11 a transport of TLS raises it once the connection is gone
            self._connection.abort()

    def finish(self) -> None:
        """Send what is written, and read, for a while, what the client still sends: else it might lose the answer."""
        if self._closing:
            return
        self._closing = True
        self._output.end()
        self.flow.resume_reading()
        if not self._connection.can_write_eof():  # TLS
            self._ends_at = math.inf
            self._close()
            return
        if not self._connection.is_closing():
            self._connection.write_eof()
        self._end_in(self._limits.linger_s)

    def data_received(self, data: bytes) -> None:
        if self._closing or self._broken:
            return
        if self.pipeline:
            self._read_ahead(data)
        elif len(data) <= PIECE_BYTES:
            self._parse(data)
        else:
            self._parse_all(data)
        if self._fresh is not None:
            cycle, self._fresh = self._fresh, None
            cycle.begin(self)
        self._time_head()

    def _time_head(self) -> None:
        if self._in_head and not self._head_ends and not self._closing and self._is_answered():
            self._head_ends = True
            self._end_in(self._limits.head_s)

    def _parse_all(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            if self._closing or self._broken:
                return
            if self.pipeline:
                self._read_ahead(data[at:])
                return
            self._parse(data[at : at + PIECE_BYTES])

    def _read_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > READ_BYTES:
            self.abort()

    def _parse(self, piece: bytes) -> None:
        fresh = self._in_head or self._is_answered()
        self._begun, silent_bytes = 0, self._silent_bytes
        self._silent_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as e:
            self._in_head = False
            if rest := piece[e.args[0] :]:
                self._parse(rest)
            return
        except httptools.HttpParserError as e:
            self._fail(*(self._refusal or (_status_of(str(e)), str(e))))
            return
        if self._in_head:
            if self._begun == 0 or (fresh and self._begun == 1):
                self._head_bytes += len(piece)
            if self._head_bytes >= MAX_HEAD_BYTES:
                self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large")
        elif self._silent_bytes > silent_bytes and self._silent_bytes >= MAX_HEAD_BYTES:
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of a chunk is too large")

    # what httptools calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_ends, self._host = True, False, False
        self._begun += 1
        self._head_bytes = self._lines = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        if self._lines > MAX_HEADER_LINES:
            raise self._refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header lines")
        if not self._in_head:  # trailers are counted, and not believed
            return
        name, value = name.lower(), value.rstrip(b" \t")
        self.headers.append((name, value))
        if name not in CHECKED:
            return
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise self._refused(HTTPStatus.NOT_IMPLEMENTED, "no other Transfer-Encoding than chunked is known")
        if name == b"content-length" and len(value) > LENGTH_DIGITS:
            raise self._refused(HTTPStatus.BAD_REQUEST, "the length has too many digits")
        if name == b"host":
            if self._host:
                raise self._refused(HTTPStatus.BAD_REQUEST, "more than one Host")
            self._host = True

    def on_headers_complete(self) -> None:
        version, upgrades = self.parser.get_http_version(), self.parser.should_upgrade()
        if version not in VERSIONS:
            raise self._refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is spoken")
        if not self._host and version == "1.1":
            raise self._refused(HTTPStatus.BAD_REQUEST, "Host is missing")
        method = self.parser.get_method()
        if method not in METHODS:
            raise self._refused(HTTPStatus.BAD_REQUEST, "there is no such method")
        if upgrades:  # ignored, as RFC 9110 allows; httptools would take the body for the next request
            if method == b"CONNECT":
                raise self._refused(HTTPStatus.METHOD_NOT_ALLOWED, "this is no proxy")
            if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
                raise self._refused(HTTPStatus.BAD_REQUEST, "a request that upgrades has no body")
        self._in_head = False
        self._silent_bytes = self._lines = 0
        self._ends_at = math.inf
        raw_path, _, query = origin_form(self.url).partition(b"?")
        path = raw_path.decode("latin-1")
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["method"], scope["http_version"] = method.decode("ascii"), version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = raw_path, query
        scope["extensions"] = _EXTENSIONS
        is_next = self._is_answered()
        self.cycle = cycle = self._cycle(version)
        if is_next and not (self._server.needs_task or self.stepping):
            self._running = self._fresh = cycle
        elif is_next:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Take note that the client goes on."""
        self._silent_bytes = 0

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        super().on_message_complete()

    # what a cycle and the transport call

    def on_response_complete(self) -> None:
        if self._closing or self._connection.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if not self.pipeline:
                self._parse_ahead()
            return
        if self._refusal is not None:
            self._refuse(*self._refusal)
            return
        self._end_in(self._limits.keep_alive_s)
        if self._ahead:
            self._parse_ahead()
        else:
            self._time_head()

    def _parse_ahead(self) -> None:
        data, self._ahead = bytes(self._ahead), bytearray()
        if data:
            self.data_received(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        assert isinstance(cycle, _Cycle)  # noqa: S101 - _cycle() made it
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def go_on(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        """Have a task run on a request's *coroutine*, which waits for *waits_for*."""
        task = self.loop.create_task(resumed(coroutine, waits_for))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if self._closing:
            self._watch_writing()

    def _cycle(self, version: str) -> _Cycle:
        return _Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=_Arrival(),  # type: ignore[arg-type] # all that a cycle needs of an event
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def _is_answered(self) -> bool:
        last: RequestResponseCycle | None = self.cycle
        return last is None or last.response_complete

    def _refused(self, status: HTTPStatus, why: str) -> httptools.HttpParserError:
        self._refusal = status, why
        return httptools.HttpParserError(why)

    def _fail(self, status: HTTPStatus, why: str) -> None:
        """Answer that what was read is no request, after the answers to those before it; parse no more."""
        self._broken = True
        if self._is_answered():
            self._refuse(status, why)
        elif self.pipeline:  # one of them is broken, and must not be answered
            self._refusal = status, why
            self.pipeline.clear()
        elif self.cycle.more_body:
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.abort()
            else:
                self._refuse(status, why)
        else:
            self._refusal = status, why

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._output.flush()
        headers = [*self.server_state.default_headers, (b"connection", b"close"), (b"content-type", b"text/plain")]
        lines = (b"%b: %b\r\n" % header for header in (*headers, (b"content-length", b"%d" % len(why))))
        status_line = f"HTTP/1.1 {status} {status.phrase}\r\n".encode()
        self._connection.write(b"".join((status_line, *lines, b"\r\n", why.encode())))
        self.finish()

    # time

    def _end_in(self, seconds: float) -> None:
        self._ends_at = self.loop.time() + seconds
        if self._ends_at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._ends_at
            self._timer = self.loop.call_at(self._timer_at, self._check_time)

    def _check_time(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._ends_at == math.inf:
            return
        if (left_s := self._ends_at - self.loop.time()) > 0.001:
            self._end_in(left_s)
        elif unsent(self._connection):
            self._close()
        else:
            self.abort()

    def _close(self) -> None:
        """Close once the client took all, or takes no more of it.

        TLS is closed when the kernel has all: from then on it ends within the time of a handshake, whatever is unsent.
        """
        self._closing = True
        self._output.flush()
        self._watch_writing()
        if self._connection.is_closing():
            return
        if unsent(self._connection) and not self._connection.can_write_eof():
            self.loop.call_later(DRAINED_S, self._close)
        else:
            self._connection.close()

    def _watch_writing(self) -> None:
        size = unsent(self._connection)
        if size and self._writing is None:
            self._writing = self.loop.call_later(self._limits.write_s, self._check_writing, size)

    def _check_writing(self, before: int) -> None:
        self._writing = None
        if unsent(self._connection) >= before:
            self.abort()
        else:
            self._watch_writing()


class _Arrival:
    """Whether something of a request arrived: an event for the one task that reads it.

    asyncio's takes 0.8 KiB for others that may wait, in each connection that does.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the task that waits, and have none wait until clear()."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Have wait() wait."""
        self._is_set = False

    async def wait(self) -> None:
        """Return when something arrived."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class _Cycle(RequestResponseCycle):
    """One request and its answer; says that the connection ends when the rest of a body will not be read."""

    pause: Pause | None = None
    """What it waits for, if it has no task."""
    _connection: UvicornConnection
    _coroutine: Coroutine[Any, Any, None]

    def begin(self, connection: UvicornConnection) -> None:
        """Run the application without a task until it waits."""
        if not self.more_body:
            cast(dict[str, Any], self.scope)[PAUSES] = True
        self._connection, self._coroutine = connection, self.run_asgi(connection.app)
        self.step(None)

    def step(self, value: object) -> None:
        """Run the application on, whose Pause returns *value*; if it waits for anything else, a task runs the rest."""
        connection, coroutine, self.pause = self._connection, self._coroutine, None
        connection.stepping = True
        try:
            waits_for = coroutine.send(value)
        except StopIteration:
            del self._connection, self._coroutine
            return
        finally:
            connection.stepping = False
        if type(waits_for) is Pause:
            self.pause, waits_for.stepper = waits_for, self
        else:
            del self._connection, self._coroutine
            cast(dict[str, Any], self.scope).pop(PAUSES, None)
            connection.go_on(coroutine, waits_for)

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except ClientDisconnect:
            pass
        except Exception:  # the server must go on
            self.logger.exception("the application failed")
        finally:
            self.on_response = _nothing
            if not (self.response_complete or self.disconnected):
                self.transport.close()

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override] # all that ASGI promises
        if message["type"] == ANSWER:
            if self.flow.write_paused and not self.disconnected:
                return self._answer_later(message)
            self._answer(message)
            return _SENT
        if not self.response_started:
            self.transport.keep()  # type: ignore[attr-defined] # it is an _Output
            if self.more_body:
                self.keep_alive = False
        return super().send(message)

    async def _answer_later(self, message: Any) -> None:
        await self.flow.drain()
        self._answer(message)

    def _answer(self, message: Any) -> None:
        """Send a whole answer."""
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("there is an answer already")
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.keep_alive = self.keep_alive and not self.more_body
        content = [STATUS_LINE[message["status"]]]
        for name, value in (*self.default_headers, *message["headers"]):
            content += (name, b": ", value, b"\r\n")
        content.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            content.append(message["body"])
        self.transport.keep()  # type: ignore[attr-defined] # it is an _Output
        self.transport.write(b"".join(content))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class _Sent:
    """Has nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_SENT = _Sent()


def _status_of(why: str) -> HTTPStatus:
    """Return the status for a request that httptools refuses in such words."""
    known = (status for status, words in STATUSES.items() if any(word in why for word in words))
    return next(known, HTTPStatus.BAD_REQUEST)


def _nothing() -> None:
    """Do nothing; uvicorn breaks a cycle of references with it."""
