# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

import pytest

from kube_testing import FakeClock
from praetor_api.kube.options import BindAddress
from praetor_api.kube.runtime.acceptor import LOG_S, Acceptor, WhenFull, bind

ANY_PORT = BindAddress("127.0.0.1", 0)


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left for a while."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Greeting(asyncio.Protocol):
    """Says hello and goes on until the client leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hi")


class LateClock(FakeClock):
    """A clock by which everything takes a second."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1.0
        return self.seconds


@pytest.mark.parametrize(("clock", "rounds"), [(FakeClock(), [3, 6, 9]), (LateClock(), [3, 5, 7, 9])])
async def test_a_loop_that_is_late_accepts_a_few_at_a_time_and_none_that_have_left(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, rounds: list[int]
) -> None:
    opened: list[int] = []

    class Rounds(Acceptor):
        def _pause(self) -> None:
            opened.append(len(self))
            super()._pause()

    for name, value in (("BATCH", 3), ("FEW", 2)):
        monkeypatch.setattr(f"praetor_api.kube.runtime.acceptor.{name}", value)
    listening = bind(ANY_PORT, "--addr")
    clients = [socket.create_connection(listening.getsockname()) for _ in range(11)]
    clients.pop().close()  # the last of them; only a loop that is late looks
    acceptor = Rounds(listening, Greeting, clock, limit=99, when_full=WhenFull.REFUSE)
    acceptor.start()
    for client in clients:
        client.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(client, 2) == b"hi"
    acceptor.close()
    assert opened[: len(rounds)] == rounds
    for client in clients:
        client.close()


async def test_a_process_without_descriptors_accepts_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("praetor_api.kube.runtime.acceptor.RETRY_S", 0.01)
    listening = Exhausted(fileno=bind(ANY_PORT, "--addr").detach())
    acceptor = Acceptor(listening, Greeting, FakeClock(), limit=9, when_full=WhenFull.REFUSE)
    acceptor.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
    assert await reader.readexactly(2) == b"hi"
    assert [record.getMessage() for record in caplog.records] == [
        "connections refused: count=1 reason=cannot accept: Too many open files"
    ]
    writer.close()
    await writer.wait_closed()
    acceptor.close()


async def test_refused_connections_are_counted_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock, refused = FakeClock(), 0

    def count() -> None:
        nonlocal refused
        refused += 1

    listening = bind(ANY_PORT, "--addr")
    port = listening.getsockname()[1]
    acceptor = Acceptor(listening, Greeting, clock, limit=2, when_full=WhenFull.REFUSE, refused=count)
    acceptor.start()

    async def greeted() -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return await reader.read(2), writer

    with caplog.at_level(logging.WARNING):
        answers = [await greeted() for _ in range(5)]
        assert [said for said, _ in answers] == [b"hi", b"hi", b"", b"", b""]
        assert (len(acceptor), refused, len(caplog.records)) == (2, 3, 1)
        await clock.advance(LOG_S)
        answers.append(await greeted())
    assert "count=3" in caplog.records[-1].getMessage()
    for _, writer in answers:
        writer.close()
        await writer.wait_closed()
    acceptor.close()
