# SPDX-License-Identifier: Apache-2.0
"""The benchmark of hostile clients: its devices, its attacks, and that its table fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from e2e.bench.gateway.attacker import AT_ONCE, HELD, Crowd, Work, attacks, held, repeated
from e2e.bench.gateway.hostile import KINDS, TIMES_ALONE
from e2e.bench.gateway.polite import PERIOD_S, Device
from e2e.bench.measure.figures import Figure, table
from hostile_requests import LEFT, REFUSED, SILENT, UNCLEAR

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
REQUESTS = ["GET /a HTTP/1.1\r\n\r\n", "GET /b HTTP/1.1\r\n\r\n"]


class Seen:
    """What a server was sent, one text for each connection, the newest last."""

    def __init__(self, port: int, sent: list[bytes]) -> None:
        self.port, self.sent = port, sent

    async def count(self, connections: int) -> None:
        """Return once there were so many *connections* with something sent."""
        async with asyncio.timeout(60):
            while sum(map(bool, self.sent)) < connections:  # noqa: ASYNC110 - what is awaited is in another task
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(answer: bytes) -> AsyncIterator[Seen]:
    """Run a server that gives *answer* to each head."""
    sent: list[bytes] = []
    handling: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        number = len(sent)
        sent.append(b"")
        with suppress(OSError):
            while data := await reader.read(2**16):
                sent[number] += data
                if data.endswith(b"\r\n\r\n"):
                    writer.write(answer)
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield Seen(server.sockets[0].getsockname()[1], sent)
        await asyncio.gather(*(task for task in handling if task is not None))


@asynccontextmanager
async def device_of(server: Seen) -> AsyncIterator[Device]:
    """Connect a device with its requests, and leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield Device(reader, writer, REQUESTS)
    writer.close()
    await writer.wait_closed()


async def test_a_device_sends_its_requests_in_turn_at_its_pace() -> None:
    async with served(ANSWER) as server, device_of(server) as device:
        taken = await device.turn(0.0, 2.5 * PERIOD_S) + await device.turn(0.1, PERIOD_S)
    assert len(taken) == 4
    assert min(taken) > 0
    assert server.sent == ["".join(REQUESTS * 2).encode()]


async def test_a_device_that_is_refused_ends_the_benchmark() -> None:
    async with served(REFUSAL) as server, device_of(server) as device:
        with pytest.raises(RuntimeError, match="429"):
            await device.turn(0.0, PERIOD_S)


@pytest.mark.parametrize(
    ("work", "at_once", "sent"),
    [
        pytest.param(repeated([b"x\r\n\r\n"]), 2 * AT_ONCE, b"x\r\n\r\n", id="until-it-is-answered"),
        pytest.param(repeated([b"left"], answered=False), 2 * AT_ONCE, b"left", id="left-at-once"),
        pytest.param(held(b"a", b"b"), HELD, b"ab", id="held"),
    ],
)
async def test_an_attack_goes_on_until_it_is_ended(work: Work, at_once: int, sent: bytes) -> None:
    async with served(ANSWER) as server:
        crowd = Crowd({"host": "127.0.0.1", "port": server.port})
        attacking = asyncio.ensure_future(work(crowd))
        await server.count(at_once)
        attacking.cancel()
        await asyncio.wait([attacking])
        crowd.close()
    assert crowd.opened >= at_once
    assert {each for each in server.sent if each} <= {sent, sent[:1]}


def test_every_hostile_request_of_the_tests_is_an_attack_of_its_own() -> None:
    known = attacks({"leaf-1": "t"})
    assert len(known) >= len(REFUSED) + len(UNCLEAR) + len(LEFT) + len(SILENT) + 10


def test_the_table_fits_a_terminal() -> None:
    figures = [
        Figure(what=f"{kind}: {name}", value=100.0, unit="x", goal=TIMES_ALONE, detail="9,999.9/99.9 ms")
        for kind in KINDS
        for name in attacks({"leaf-1": "t"})
    ]
    assert max(map(len, table(figures).splitlines())) <= 80
