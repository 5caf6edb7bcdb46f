# SPDX-License-Identifier: Apache-2.0
"""A proxy before the apiserver that can hold requests up, and that names the client in their User-Agent."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

from e2e.clusters.api.credentials import write_kubeconfig

POLL_S = 0.02
ENDED = (OSError, EOFError, asyncio.LimitOverrunError)


class Proxy:
    """Plain HTTP on loopback, passed on to where *kubeconfig* points; *agent* becomes every request's User-Agent."""

    def __init__(self, kubeconfig: Path, agent: str, workdir: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._upstream = urlsplit(cluster["server"])
        encrypted = self._upstream.scheme == "https"
        self._tls = ssl.create_default_context(cafile=cluster.get("certificate-authority")) if encrypted else None
        self._agent = agent
        self._credentials = user
        self._workdir = workdir
        self._held = b""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {agent}", daemon=True)
        self.kubeconfig = workdir / f"{agent}.kubeconfig"

    def hold(self, part: str) -> None:
        """Hold up requests with *part* in their first line until `release`; they are passed on then, however late."""
        self._held = part.encode()

    def release(self) -> None:
        """Hold nothing up any more."""
        self._held = b""

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        write_kubeconfig(self.kubeconfig, url=url, user=self._agent, credentials=self._credentials)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # lets what was aborted close

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
            named = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in headers)}
            body = await reader.readexactly(int(named.get(b"content-length", b"0")))
            while self._held and self._held in first:  # noqa: ASYNC110  # another thread changes it
                await asyncio.sleep(POLL_S)
            kept = [each for each in headers if each and not each.lower().startswith(b"user-agent:")]
            head = b"\r\n".join([first, f"User-Agent: {self._agent}".encode(), *kept, b"", b""])
            requests.write(head + body)
            await requests.drain()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(*ENDED):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()
