# SPDX-License-Identifier: Apache-2.0
"""A way for TCP connections that leads elsewhere on command, or swallows what it carries as a broken middlebox does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Passes connections to a port of its own on to *target*, a URL of this machine."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._ways: set[_Way] = set()
        self._port = 0

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"{self._target.scheme}://127.0.0.1:{self._port}"

    def redirect(self, target: str) -> None:
        """Lead to *target* from now on; what is open ends."""
        self._target = urlsplit(target)
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self) -> None:
        """Let no byte through any connection that is open now, and let none of them end; new ones work."""
        for way in tuple(self._ways):
            way.swallows = True

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _cut(self) -> None:
        for way in tuple(self._ways):
            way.cut()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # lets what was aborted close

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            there = await asyncio.open_connection(self._target.hostname, self._target.port)
            way = _Way((reader, writer), there)
            self._ways.add(way)
            try:
                await way.run()
            finally:
                self._ways.discard(way)
        writer.transport.abort()


class _Way:
    """One connection, both directions."""

    def __init__(self, here: _Streams, there: _Streams) -> None:
        self._here, self._there = here, there
        self.swallows = False

    async def run(self) -> None:
        """Pass on until one side ends, which ends the other; never, once this swallows."""
        copies = [
            asyncio.ensure_future(self._copy(self._here[0], self._there[1])),
            asyncio.ensure_future(self._copy(self._there[0], self._here[1])),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            self.cut()

    def cut(self) -> None:
        """Close both sides."""
        for _, writer in (self._here, self._there):
            writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not self.swallows:
                    target.write(data)
                    await target.drain()
        if self.swallows:
            await asyncio.Event().wait()
