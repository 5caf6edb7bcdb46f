# SPDX-License-Identifier: Apache-2.0
"""Ways to a server for TCP connections: one that leads elsewhere or swallows what it carries, as a broken middlebox
does. Ways for HTTP: one that can hold requests up and names the client in their User-Agent, and one that spreads
requests over several servers.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

from e2e.clusters.api.credentials import write_kubeconfig

POLL_S = 0.02
ROUNDS = 5
"""Rounds of the loop without a task after which none is to come: a connection that was just accepted makes its task
some rounds later, and one that is aborted closes in the next."""
ENDED = (OSError, EOFError, asyncio.LimitOverrunError)

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Listener(ABC):
    """Serves each connection to a port of its own on loopback, in a thread, while it is entered."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._port = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._keep, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        quiet = 0
        while quiet < ROUNDS:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0)
            quiet = 0 if others else quiet + 1

    async def _keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. The loop knows tasks by weak references: one whose client sent all may be collected."""
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._serving.discard(task)

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""


class Relay(_Listener):
    """Passes connections to a port of its own on to *target*, a URL of this machine."""

    def __init__(self, target: str) -> None:
        super().__init__("relay")
        self._target = urlsplit(target)
        self._ways: set[_Way] = set()

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

    def _cut(self) -> None:
        for way in tuple(self._ways):
            way.cut()

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


class Proxy(_Listener):
    """Plain HTTP on loopback, passed on to where *kubeconfig* points; *agent* becomes every request's User-Agent."""

    def __init__(self, kubeconfig: Path, agent: str, workdir: Path) -> None:
        super().__init__(f"proxy {agent}")
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._upstream = urlsplit(cluster["server"])
        encrypted = self._upstream.scheme == "https"
        self._tls = ssl.create_default_context(cafile=cluster.get("certificate-authority")) if encrypted else None
        self._agent = agent
        self._credentials = user
        self._held = b""
        self.kubeconfig = workdir / f"{agent}.kubeconfig"

    def hold(self, part: str) -> None:
        """Hold up requests with *part* in their first line until `release`; they are passed on then, however late."""
        self._held = part.encode()

    def release(self) -> None:
        """Hold nothing up any more."""
        self._held = b""

    def __enter__(self) -> Self:
        super().__enter__()
        url = f"http://127.0.0.1:{self._port}"
        write_kubeconfig(self.kubeconfig, url=url, user=self._agent, credentials=self._credentials)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*ENDED, asyncio.CancelledError):
            host, port = self._upstream.hostname, self._upstream.port
            answers, requests = await asyncio.open_connection(host, port, ssl=self._tls)
            passing_on = asyncio.ensure_future(_copy(answers, writer))
            try:
                await self._pass_on(reader, requests)
            finally:
                passing_on.cancel()
                requests.transport.abort()  # close() would wait for the end of TLS
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        """Pass one request after the other on, until the client goes."""
        while True:
            first, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            named = _named(headers)
            body = await reader.readexactly(int(named.get(b"content-length", b"0")))
            while self._held and self._held in first:  # noqa: ASYNC110  # another thread changes it
                await asyncio.sleep(POLL_S)
            kept = [each for each in headers if each and not each.lower().startswith(b"user-agent:")]
            head = b"\r\n".join([first, f"User-Agent: {self._agent}".encode(), *kept, b"", b""])
            requests.write(head + body)
            await requests.drain()


class Balancer(_Listener):
    """Spreads requests over *targets*, URLs of this machine, as a proxy does that balances by request.

    Requests for one path go to the targets in turn. One that accepts no connection is passed over. *passed* counts
    requests by their path and target.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        super().__init__("balancer")
        self._targets = targets
        self._turns: Counter[str] = Counter()
        self.passed: Counter[tuple[str, str]] = Counter()

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"http://127.0.0.1:{self._port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request: each connection carries no more, on both sides."""
        with suppress(*ENDED, asyncio.CancelledError):
            first, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            named = _named(headers)
            body = await reader.readexactly(int(named.get(b"content-length", b"0")))
            answers, requests = await self._open(first.split(b" ")[1].decode())
            kept = [each for each in headers if each and not each.lower().startswith(b"connection:")]
            requests.write(b"\r\n".join([first, b"Connection: close", *kept, b"", b""]) + body)
            try:
                await _copy(answers, writer)
            finally:
                requests.transport.abort()
        writer.close()

    async def _open(self, path: str) -> _Streams:
        for _ in self._targets:
            target = self._targets[self._turns[path] % len(self._targets)]
            self._turns[path] += 1
            where = urlsplit(target)
            with suppress(OSError):
                streams = await asyncio.open_connection(where.hostname, where.port)
                self.passed[path, target] += 1
                return streams
        raise EOFError("no target accepts connections")


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


def _named(headers: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return *headers* by their names in lower case."""
    return {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in headers)}


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(*ENDED):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()
