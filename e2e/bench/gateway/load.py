# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.bench.gateway.load`: as many requests as servers take, one server at a time, in short turns.

Reads a plan as JSON from standard input: `{rounds, turn_s, spread_s?, targets: [{host, port, pid, requests: [text,
...]}]}`. A target has one connection for each of its requests, which is sent again and again during the target's turn,
for the first time within *spread_s* seconds; `{number}` in it becomes how often it was sent. Writes for each target a
list of its turns, the first (in which it warms up) left out: `{requests, wall_s, server_s, own_s}`, how many were
answered, and the seconds on the clock, of the server's processor (*pid*) and of ours. Turns are short because a machine
that others use is slower now and then: what is compared must meet the same load.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any, TypedDict

from e2e.bench.measure.proc import cpu_seconds

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
NO_BODY = (b"304", b"204")
NUMBER = b"{number}"
DRAIN_S = 10.0


class Turn(TypedDict):
    """What one turn says."""

    requests: int
    wall_s: float
    server_s: float
    own_s: float


class Target:
    """One server, its connections, and how many of them await an answer."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.pid: int = plan["pid"]
        self.active = False
        self.answers = 0
        self.waiting = 0
        self.failed = ""
        self.idle = asyncio.Event()
        self.askers: list[Asker] = []

    async def connect(self) -> None:
        """Open the connections unless they are open: servers close one that sends nothing at first."""
        loop = asyncio.get_running_loop()
        for text in self.plan["requests"][len(self.askers) :]:
            asker = Asker(text.encode(), self)
            await loop.create_connection(lambda asker=asker: asker, self.plan["host"], self.plan["port"])  # type: ignore[misc]
            self.askers.append(asker)

    async def close(self) -> None:
        """Close the connections."""
        for asker in self.askers:
            await asker.close()

    async def turn(self, seconds: float, spread_s: float) -> Turn:
        """Ask for *seconds*, and until the last answer is there. RuntimeError when one is not as it should be."""
        loop = asyncio.get_running_loop()
        answers, wall, server, own = self.answers, time.monotonic(), cpu_seconds(self.pid), time.process_time()
        self.active = True
        for number, asker in enumerate(self.askers):
            loop.call_later(spread_s * number / len(self.askers), asker.ask)
        await asyncio.sleep(seconds)
        self.active = False
        async with asyncio.timeout(DRAIN_S):
            await self.idle.wait()
        if self.failed:
            raise RuntimeError(self.failed)
        return Turn(
            requests=self.answers - answers,
            wall_s=time.monotonic() - wall,
            server_s=cpu_seconds(self.pid) - server,
            own_s=time.process_time() - own,
        )


class Asker(asyncio.Protocol):
    """Sends the same request as soon as the last one was answered, while its target is active."""

    def __init__(self, request: bytes, target: Target) -> None:
        self._request = request
        self._target = target
        self._buffer = b""
        self._asked = 0
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        """Send the request."""
        self._target.waiting += 1
        self._target.idle.clear()
        self._asked += 1
        if self._transport is not None:
            self._transport.write(self._request.replace(NUMBER, b"%d" % self._asked))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4 or len(self._buffer) < end + body_length(self._buffer[:end]):
            return
        target, answer, self._buffer = self._target, self._buffer, b""
        target.answers += 1
        target.waiting -= 1
        if answer[9:10] not in (b"2", b"3"):
            target.failed, target.active = answer.decode("latin-1"), False
        if target.active:
            self.ask()
        elif not target.waiting:
            target.idle.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._target.failed = self._target.failed or "a connection was lost"
        self._target.active = False
        self._target.idle.set()
        self._transport = None
        self._closed.set()

    async def close(self) -> None:
        """Close the connection; returns when it is closed."""
        if self._transport is not None:
            self._transport.close()
            await self._closed.wait()


def body_length(head: bytes) -> int:
    """Return how many bytes follow the *head* of an answer."""
    found = CONTENT_LENGTH.search(head)
    return int(found[1]) if found and head[9:12] not in NO_BODY else 0


async def run(plan: dict[str, Any]) -> list[list[Turn]]:
    """Carry the plan out."""
    targets = [Target(each) for each in plan["targets"]]
    turns: list[list[Turn]] = [[] for _ in targets]
    try:
        for _ in range(plan["rounds"] + 1):
            for target, taken in zip(targets, turns, strict=True):
                await target.connect()
                taken.append(await target.turn(plan["turn_s"], plan.get("spread_s", 0.0)))
    finally:
        for target in targets:
            await target.close()
    return [taken[1:] for taken in turns]


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
