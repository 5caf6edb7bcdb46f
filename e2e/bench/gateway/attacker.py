# SPDX-License-Identifier: Apache-2.0
"""Clients that are hostile in one of many ways, as long as they are told to.

`python -m e2e.bench.gateway.attacker` reads a plan as a line of JSON: `{host, port, devices: {name: token}}`, devices
whose tokens are good and who misuse them. Each line after it is the name of an attack, which begins, or is empty, which
ends it; each is answered with a line once that is done: how many connections the attack has opened so far.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

from hostile_requests import GET, HEAD, LEFT, REFUSED, SILENT, UNCLEAR
from praetor_api.protocol import TOKEN_HEADER, desired_path, report_path

HELD = 200
"""Connections that are held at a time."""
AT_ONCE, PER_S = 32, 200
"""Connections that come and go: so many at a time, and so many a second at most. What is measured is what a hostile
request costs others, not whether one program can answer more requests than its core can."""
ANSWER_S = 1.0
DRIP_S = 0.5
BEGUN_S = 0.2
"""How long an attack goes on before it counts as begun."""

Work = Callable[["Crowd"], Coroutine[Any, Any, None]]


class Crowd:
    """The connections of one attack on the server of *plan*."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._host, self._port = plan["host"], plan["port"]
        self.opened = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; close() ends it."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self.opened += 1
        self._writers.add(writer)
        return reader, writer

    def leave(self, writer: asyncio.StreamWriter) -> None:
        """End one connection without a word."""
        self._writers.discard(writer)
        writer.transport.abort()

    def close(self) -> None:
        """End all of them."""
        for writer in tuple(self._writers):
            self.leave(writer)


def repeated(texts: Iterable[bytes], *, answered: bool = True) -> Work:
    """Send *texts*, one on each connection, again and again; leave once it is *answered*, or at once."""
    texts = itertools.cycle(texts)

    async def once(crowd: Crowd) -> None:
        with suppress(OSError, TimeoutError):
            reader, writer = await crowd.connect()
            writer.write(next(texts))
            if answered:
                async with asyncio.timeout(ANSWER_S):
                    await reader.read(2**16)
            else:
                await writer.drain()
            crowd.leave(writer)

    async def again(crowd: Crowd, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            await asyncio.gather(once(crowd), asyncio.sleep(AT_ONCE / PER_S))

    async def work(crowd: Crowd) -> None:
        await asyncio.gather(*(again(crowd, number / PER_S) for number in range(AT_ONCE)))

    return work


def held(*pieces: bytes, drip: bytes = b"") -> Work:
    """Send *pieces* on many connections, then *drip* again and again, and read nothing; replace what is closed."""

    async def one(crowd: Crowd) -> None:
        while True:
            with suppress(OSError):
                _, writer = await crowd.connect()
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                while not writer.transport.is_closing():
                    await asyncio.sleep(DRIP_S)
                    writer.write(drip)
            await asyncio.sleep(DRIP_S)

    async def work(crowd: Crowd) -> None:
        await asyncio.gather(*(one(crowd) for _ in range(HELD)))

    return work


def attacks(devices: Mapping[str, str]) -> Mapping[str, Work]:
    """Return all attacks by name; *devices* are those that misuse their tokens."""
    heads = [(name, f"Host: x\r\n{TOKEN_HEADER}: {token}\r\n") for name, token in devices.items()]
    get = [f"GET {desired_path(name)} HTTP/1.1\r\n{head}\r\n".encode() for name, head in heads]
    wrong = [f"GET {desired_path(name)} HTTP/1.1\r\nHost: x\r\n{TOKEN_HEADER}: x\r\n\r\n".encode() for name in devices]

    def reports(body: bytes, sent: int | None = None) -> list[bytes]:
        lines = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        begun = [f"POST {report_path(name)} HTTP/1.1\r\n{head}{lines}".encode() for name, head in heads]
        return [each + body[:sent] for each in begun]

    bodies = {
        "no-json": b"{",
        "nested-without-end": b"[" * 20_000,
        "no-list": b'{"observations": {}}',
        "too-large": b'{"agentVersion": "' + b"x" * 300_000 + b'"}',
        "64-observations": b'{"observations": [' + b",".join([b'{"name": "x"}'] * 64) + b"]}",
    }
    return {
        **{name: repeated([text]) for name, (text, _) in REFUSED.items()},
        **{name: repeated([text]) for name, text in UNCLEAR.items()},
        **{f"left, {name}": repeated([text], answered=False) for name, text in LEFT.items()},
        **{f"silent, {name}": held(*pieces) for name, pieces in SILENT.items()},
        "a head that drips": held(HEAD, drip=b"A: b\r\n"),
        "a body that drips": held(reports(b" " * 2**17, 1)[0], drip=b" "),
        "answers unread": held(GET * 500),
        "no such path": repeated([GET]),
        "wrong tokens": repeated(wrong),
        "too many polls": repeated(get[:1]),
        "too many reports": repeated(reports(b"{}")[:1]),
        **{f"report, {name}": repeated(reports(body)) for name, body in bodies.items()},
    }


async def run(plan: dict[str, Any]) -> None:
    """Attack as standard input asks for, until it ends."""
    known = attacks(plan["devices"])
    crowd, attacking = Crowd(plan), None
    while line := await asyncio.to_thread(sys.stdin.readline):
        if attacking is not None:
            attacking.cancel()
            await asyncio.wait([attacking])
        crowd.close()
        attacking = asyncio.ensure_future(known[line.strip()](crowd)) if line.strip() else None
        await asyncio.sleep(BEGUN_S)
        if attacking is not None and attacking.done():
            attacking.result()  # an attack never ends by itself
        print(crowd.opened, flush=True)


if __name__ == "__main__":
    os.nice(19)  # a client has a machine of its own, and takes no processor from the gateway and the devices
    asyncio.run(run(json.loads(sys.stdin.readline())))
