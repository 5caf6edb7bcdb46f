# SPDX-License-Identifier: Apache-2.0
"""Long polls: the requests that wait for a device's desired state to change.

A poll waits in `receive()`, so that a client that goes away is noticed at once,
and costs no task of its own: it is woken by moving its timeout to now.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.types import Receive


class Woken(Enum):
    """Why a wait ended."""

    CHANGED = auto()
    EXPIRED = auto()
    GONE = auto()


_NOW = 0.0  # a time in the past: a timeout moved there ends in the loop's next round


class LongPolls:
    """All requests that wait, by device. Nothing is kept of those that ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Timeout]] = {}
        self._released = False

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wake(self, device: str) -> None:
        """Wake all polls of *device*, to compare again."""
        for poll in self._waiting.get(device, ()):
            if not poll.expired():
                poll.reschedule(_NOW)

    def release(self) -> None:
        """End all polls, and let none wait any more: the gateway stops."""
        self._released = True
        for device in self._waiting:
            self.wake(device)

    async def wait(self, device: str, receive: Receive, until: float) -> Woken:
        """Return when *device* changed, when the loop's clock reaches *until*, or when the client went away."""
        if self._released:
            return Woken.EXPIRED
        poll = asyncio.timeout_at(until)
        self._waiting.setdefault(device, set()).add(poll)
        try:
            async with poll:
                while (await receive())["type"] != "http.disconnect":
                    pass
            return Woken.GONE
        except TimeoutError:
            return Woken.CHANGED if poll.when() == _NOW and not self._released else Woken.EXPIRED
        finally:
            others = self._waiting[device]
            others.discard(poll)
            if not others:
                del self._waiting[device]
