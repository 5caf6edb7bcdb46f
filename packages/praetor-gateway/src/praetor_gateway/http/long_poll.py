# SPDX-License-Identifier: Apache-2.0
"""Long polls: the requests that wait for a device's desired state to change.

Where the server can pause a request, that is all that happens, and one timer ends all polls of the same time. Else a
poll waits in `receive()`, so that a client that goes away is noticed at once, and is woken by its timeout.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Protocol

from attrs import define, field
from starlette.types import Receive, Scope

from praetor_gateway.http.pause import PAUSES, Pause

AT_ONCE = 100
"""How many polls of one time are ended before the loop sees to others."""


class Woken(Enum):
    """Why a wait ended."""

    CHANGED = auto()
    EXPIRED = auto()
    GONE = auto()


class _Poll(Protocol):
    """One wait."""

    def resume(self, woken: Woken) -> None:
        """End it, unless it has ended."""


class _Received:
    """A wait in `receive()`, which *timeout* can end."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self.woken: Woken | None = None

    def resume(self, woken: Woken) -> None:
        """End the wait in the loop's next round."""
        if self.woken is None and not self._timeout.expired():
            self.woken = woken
            self._timeout.reschedule(0.0)


@define(eq=False)
class _Ends:
    """The polls that end at one time, and what calls then."""

    timer: asyncio.TimerHandle
    polls: set[_Poll] = field(factory=set)


class LongPolls:
    """All requests that wait, by device. Nothing is kept of those that ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[_Poll, ...]] = {}
        self._ends: dict[float, _Ends] = {}
        self._released = False

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wake(self, device: str) -> None:
        """Wake all polls of *device* in the loop's next round, to compare again."""
        for poll in self._waiting.get(device, ()):
            asyncio.get_running_loop().call_soon(poll.resume, Woken.CHANGED)

    def release(self) -> None:
        """End all polls, and let none wait any more: the gateway stops."""
        self._released = True
        for until in self._ends:
            asyncio.get_running_loop().call_soon(self._expire, until)

    async def wait(self, device: str, scope: Scope, receive: Receive, until: float) -> Woken:
        """Return when *device* changed, when the loop's clock reaches *until*, or when the client went away."""
        if self._released:
            return Woken.EXPIRED
        if PAUSES in scope:
            pause = Pause()
            self._add(device, pause, until)
            try:
                return await pause or Woken.GONE
            finally:
                self._remove(device, pause, until)
        timeout = asyncio.timeout(None)
        poll = _Received(timeout)
        self._add(device, poll, until)
        try:
            async with timeout:
                while (await receive())["type"] != "http.disconnect":
                    pass
            return Woken.GONE
        except TimeoutError:
            return poll.woken or Woken.EXPIRED
        finally:
            self._remove(device, poll, until)

    def _add(self, device: str, poll: _Poll, until: float) -> None:
        self._waiting[device] = (*self._waiting.get(device, ()), poll)
        ends = self._ends.get(until)
        if ends is None:
            timer = asyncio.get_running_loop().call_at(until, self._expire, until)
            ends = self._ends[until] = _Ends(timer)
        ends.polls.add(poll)

    def _remove(self, device: str, poll: _Poll, until: float) -> None:
        if others := tuple(other for other in self._waiting[device] if other is not poll):
            self._waiting[device] = others
        else:
            del self._waiting[device]
        ends = self._ends.get(until)
        if ends is None:
            return
        ends.polls.discard(poll)
        if not ends.polls:
            ends.timer.cancel()
            del self._ends[until]

    def _expire(self, until: float) -> None:
        """End the polls that wait *until* then, a part of them in this round of the loop."""
        ends = self._ends.get(until)
        if ends is None:
            return
        for _ in range(min(AT_ONCE, len(ends.polls))):
            ends.polls.pop().resume(Woken.EXPIRED)
        if ends.polls:
            asyncio.get_running_loop().call_soon(self._expire, until)
