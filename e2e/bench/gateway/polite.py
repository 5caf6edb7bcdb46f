# SPDX-License-Identifier: Apache-2.0
"""Devices that keep to the rules, and how long each of their requests takes.

`python -m e2e.bench.gateway.polite` reads a plan as a line of JSON: `{host, port, requests: [[text, ...], ...]}`, the
requests that each device sends in turn on a connection of its own. Each line after it is a number of seconds: for so
long the devices ask, one after the other at a steady pace, and how long each answer took is written as a JSON list.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from e2e.bench.gateway.load import body_length

PERIOD_S = 0.4
"""Between two requests of one device: 1.25 a second to each of two endpoints, which may be asked twice a second."""
ANSWER_S = 20.0


class Device:
    """One device and its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: list[str]) -> None:
        self._reader, self._writer = reader, writer
        self._requests: Iterator[bytes] = itertools.cycle([text.encode() for text in requests])

    async def turn(self, after_s: float, seconds: float) -> list[float]:
        """Ask from *after_s* seconds on, until *seconds* have passed; return how long each answer took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        taken: list[float] = []
        for number in itertools.count():
            at = began + after_s + number * PERIOD_S
            if at >= began + seconds:
                return taken
            await asyncio.sleep(at - loop.time())
            taken.append(await self._ask())
        raise AssertionError

    async def _ask(self) -> float:
        """Return how long the answer takes; RuntimeError when it is none that a device with good manners gets."""
        self._writer.write(next(self._requests))
        sent = time.monotonic()
        async with asyncio.timeout(ANSWER_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(body_length(head))
        took = time.monotonic() - sent
        if head[9:10] not in (b"2", b"3"):
            raise RuntimeError(head.decode("latin-1"))
        return took


async def run(plan: dict[str, Any]) -> None:
    """Take turns as standard input asks for, until it ends."""
    devices = [Device(*await asyncio.open_connection(plan["host"], plan["port"]), each) for each in plan["requests"]]
    while line := await asyncio.to_thread(sys.stdin.readline):
        shares = (number / len(devices) * PERIOD_S for number in range(len(devices)))
        turns = [device.turn(share, float(line)) for device, share in zip(devices, shares, strict=True)]
        print(json.dumps(list(itertools.chain.from_iterable(await asyncio.gather(*turns)))), flush=True)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.stdin.readline())))
