# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 over asyncio with h11: requests in whole, responses in whole or streamed. Loopback only.

aiohttp's server would take half of the second in which the control plane has to be ready to import.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from kubeplane.http.messages import Handler, Request, Response

MAX_BODY = 8 * 1024 * 1024
_READ = 65536
_SLOW_READER = 64 * 1024 * 1024  # bytes that may wait for a watcher before it is dropped


class Connection:
    """One client's connection: requests are answered one after the other."""

    def __init__(self, handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handler = handler
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)

    async def run(self) -> None:
        """Serve until the client goes."""
        try:
            while await self._exchange():
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if self._http.our_state is h11.IDLE:
                await self._respond(Response(error.error_status_hint, str(error).encode(), "text/plain"), close=True)
        except ConnectionError:
            pass  # the client went: there is no one to answer
        finally:
            self._writer.close()

    async def _exchange(self) -> bool:
        """Serve one request; return whether another may follow."""
        head = await self._event()
        if not isinstance(head, h11.Request):
            return False
        body = await self._body()
        request = _request(head, body)
        response = await self._handler(request)
        if response.stream is None:
            await self._respond(response, bodiless=request.method == "HEAD")
        else:
            await self._stream(response)
        return not response.cut and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is excluded
            if self._http.they_are_waiting_for_100_continue:
                informed = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._writer.write(informed or b"")
            self._http.receive_data(await self._reader.read(_READ))

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self._event(), h11.Data):
            size += len(event.data)
            if size > MAX_BODY:
                raise h11.RemoteProtocolError("request body is too large", error_status_hint=413)
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def _respond(self, response: Response, *, close: bool = False, bodiless: bool = False) -> None:
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        headers += list(response.headers) + ([("Connection", "close")] if close else [])
        head = h11.Response(status_code=response.status, headers=headers)
        data = self._http.send(head) or b""
        if not bodiless:
            data += self._http.send(h11.Data(data=response.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        await self._writer.drain()

    async def _stream(self, response: Response) -> None:
        headers = [("Content-Type", response.content_type), ("Transfer-Encoding", "chunked"), *response.headers]
        self._writer.write(self._http.send(h11.Response(status_code=response.status, headers=headers)) or b"")
        gone = asyncio.ensure_future(self._reader.read(1))
        streaming = asyncio.ensure_future(self._produce(response))
        try:
            await asyncio.wait({gone, streaming}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done() or gone.done():
                raise ConnectionResetError("the client went")
            streaming.result()
        finally:
            await _ended(gone, streaming)
        if not response.cut:
            self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
            await self._writer.drain()

    async def _produce(self, response: Response) -> None:
        async def send(data: bytes) -> None:
            self._writer.write(self._http.send(h11.Data(data=data)) or b"")
            if self._writer.transport.get_write_buffer_size() > _SLOW_READER:
                raise ConnectionResetError("the client does not read")
            await asyncio.sleep(0)

        assert response.stream is not None
        await response.stream(send)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _request(head: h11.Request, body: bytes) -> Request:
    parts = urlsplit(head.target.decode("ascii"))
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(head.method.decode("ascii"), unquote(parts.path), query, headers, body)


class Server:
    """Listens on loopback and serves each connection with *handler*."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Begin to listen; returns the port."""
        limit = 1024 * 1024
        self._server = await asyncio.start_server(self._accept, host, port, backlog=1024, limit=limit, ssl=tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await Connection(self._handler, reader, writer).run()
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops; asyncio reports a cancelled handler as an error otherwise
        finally:
            self._tasks.discard(task)

    async def stop(self) -> None:
        """Stop listening and break every connection."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
