# SPDX-License-Identifier: Apache-2.0
"""Requests that uvicorn runs without a task, and the Pauses that they wait for."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from starlette.types import Receive, Scope, Send

from connection_testing import Client, connected, echo
from gateway_testing import listening
from hostile_requests import GET
from praetor_gateway.http.app import DeviceApp
from praetor_gateway.http.long_poll import AT_ONCE, LongPolls, Woken
from praetor_gateway.http.pause import PAUSES, Pause
from praetor_gateway.http.uvicorn import UvicornServer
from praetor_gateway.settings import ServerKind

LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Pausing:
    """Waits for a Pause where it may, then answers as echo; *ended* says what the Pause returned."""

    needs_task = False

    def __init__(self) -> None:
        self.pauses: list[Pause] = []
        self.paths: list[str] = []
        self.ended: asyncio.Queue[object] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        if PAUSES not in scope:
            await echo(scope, receive, send)
            return
        assert asyncio.current_task() is None
        self.pauses.append(pause := Pause())
        value = await pause
        if scope["path"] == "/task":
            await asyncio.sleep(0)
            assert asyncio.current_task() is not None
            assert PAUSES not in scope
        if value is not None:
            await echo(scope, receive, send)
        await self.ended.put(value)

    async def held(self, count: int = 1) -> Pause:
        """Return the last of *count* pauses once they wait."""
        while len(self.pauses) < count:  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0)
        return self.pauses[-1]


async def _first_line(client: Client) -> bytes:
    return (await client[0].readuntil(b"\r\n\r\n")).partition(b"\r\n")[0]


@pytest.mark.parametrize("path", [b"/x", b"/task"])
async def test_a_paused_request_goes_on_where_it_is_resumed(path: bytes) -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener, connected(listener) as client:
        server = listener._server
        assert isinstance(server, UvicornServer)
        for _ in range(2):
            client[1].write(GET.replace(b"/x", path))
            pause = await app.held()
            assert not server.state.tasks
            pause.resume("yes")
            pause.resume("again")
            assert await app.ended.get() == "yes"
            assert await _first_line(client) == b"HTTP/1.1 200 OK"
            await client[0].readexactly(len(b"GET ") + 2 * len(path) + 1)
            app.pauses.clear()
    assert app.ended.empty()


async def test_a_client_that_leaves_ends_its_paused_request() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener:
        async with connected(listener) as client:
            client[1].write(GET)
            pause = await app.held()
        assert await app.ended.get() is None
        pause.resume("late")
    assert app.ended.empty()


async def test_requests_behind_a_paused_one_wait_for_it_and_have_a_task() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener, connected(listener) as client:
        client[1].write(GET + GET.replace(b"/x", b"/y"))
        pause = await app.held()
        client[1].write(LAST)
        for _ in range(5):
            await asyncio.sleep(0)
        assert app.paths == ["/x"]
        pause.resume("yes")
        answers = await client[0].read()
    assert answers.count(b"HTTP/1.1 200") == 3
    assert app.paths == ["/x", "/y", "/last"]


async def test_a_request_whose_body_is_still_to_come_is_not_paused() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener, connected(listener) as client:
        client[1].write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        while not app.paths:  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0)
        client[1].write(b"abc")
        assert await _first_line(client) == b"HTTP/1.1 200 OK"
    assert not app.pauses


async def test_a_paused_request_ends_with_a_server_that_stops() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN, timeout_s=0.01) as listener, connected(listener) as client:
        client[1].write(GET)
        await app.held()
    assert await app.ended.get() is None


def test_devices_are_answered_without_a_task() -> None:
    assert DeviceApp.needs_task is False


@pytest.mark.parametrize("pauses", [True, False], ids=["paused", "received"])
async def test_any_number_of_polls_end_together_and_leave_nothing(pauses: bool) -> None:
    polls = LongPolls()
    until = asyncio.get_running_loop().time() + 0.02
    waits = [asyncio.ensure_future(_driven(polls, f"leaf-{n}", until, pauses=pauses)) for n in range(2 * AT_ONCE + 1)]
    await asyncio.sleep(0)
    assert len(polls) == len(waits)
    assert set(await asyncio.gather(*waits)) == {Woken.EXPIRED}
    assert (len(polls), polls._ends) == (0, {})


@pytest.mark.parametrize("pauses", [True, False], ids=["paused", "received"])
async def test_all_polls_of_a_device_are_woken_and_no_others(pauses: bool) -> None:
    polls = LongPolls()
    until = asyncio.get_running_loop().time() + 1000
    waits = [asyncio.ensure_future(_driven(polls, name, until, pauses=pauses)) for name in ("a", "b", "a")]
    await asyncio.sleep(0)
    polls.wake("a")
    polls.wake("a")
    assert [await waits[0], await waits[2]] == [Woken.CHANGED] * 2
    assert (len(polls), waits[1].done()) == (1, False)
    polls.release()
    assert await waits[1] is Woken.EXPIRED
    assert await _driven(polls, "a", until, pauses=pauses) is Woken.EXPIRED
    assert (len(polls), polls._ends) == (0, {})


async def _driven(polls: LongPolls, device: str, until: float, *, pauses: bool) -> Woken:
    """Return why a wait ended: one that a server steps, or one in receive()."""

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    if not pauses:
        return await polls.wait(device, {}, receive, until)
    ended: asyncio.Future[Woken] = asyncio.get_running_loop().create_future()

    class Server:
        coroutine = polls.wait(device, {PAUSES: True}, receive, until)

        def step(self, value: object) -> None:
            try:
                self.coroutine.send(value).stepper = self
            except StopIteration as e:
                ended.set_result(e.value)

    Server().step(None)
    return await ended


async def test_an_answer_that_waits_for_the_end_of_the_round_is_not_lost_with_its_connection() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener, connected(listener) as client:
        server = listener._server
        assert isinstance(server, UvicornServer)
        client[1].write(GET)
        pause = await app.held()
        (connection,) = server.connections
        pause.resume("yes")
        connection.shutdown()
        assert (await client[0].read()).endswith(b"GET /x /x")


async def test_answers_of_one_round_are_each_sent_to_their_client() -> None:
    app = Pausing()
    async with listening(app, server=ServerKind.UVICORN) as listener, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(listener)) for _ in range(3)]
        for number, (_, writer) in enumerate(clients):
            writer.write(GET.replace(b"/x", b"/%d" % number))
            await app.held(number + 1)
        clients[1][1].transport.abort()
        for pause in app.pauses:
            pause.resume("yes")
        for number in (0, 2):
            await _first_line(clients[number])
            assert await clients[number][0].readexactly(9) == b"GET /%d /%d" % (number, number)
