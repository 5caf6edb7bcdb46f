# SPDX-License-Identifier: Apache-2.0
"""The device's clocks, and a wait that ends at a time, at a wake-up from another thread, at a signal or when a process
ends.

`Clock.now` neither jumps nor stops while the device is suspended; the wall clock is for people.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timezone
from threading import Condition
from typing import Protocol

log = logging.getLogger(__name__)


class Clock(Protocol):
    """What the shell reads the time from. Decisions in `core` get `now` as a parameter."""

    def now(self) -> float:
        """Return seconds since the device booted."""
        ...

    def wall(self) -> datetime:
        """Return the time of day, in UTC."""
        ...


class SystemClock:
    """The device's clocks."""

    def now(self) -> float:
        """Return seconds since the device booted: the same scale before and after a restart of the agent."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> datetime:
        return datetime.now(timezone.utc)


def rfc3339(moment: datetime) -> str:
    """Return *moment* in whole seconds as Kubernetes writes it: `2025-01-31T12:00:00Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


MAX_WAIT_SECONDS = 60.0
BLIND_WAIT_SECONDS = 1.0
"""How often to check processes where the kernel cannot notify us of their end (no pidfd before Linux 5.3)."""


_NOTE = b"n"
"""No number of a signal, which `signal.set_wakeup_fd` writes."""


class Waker:
    """Wakes the loop. `wake` may be called from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: dict[int, int] = {}

    @property
    def descriptor(self) -> int:
        """Descriptor to write to for waking the loop, as `signal.set_wakeup_fd` wants it."""
        return self._writer

    def wake(self) -> None:
        """End a wait, the current or the next one, at once."""
        with suppress(BlockingIOError):  # it is woken already
            os.write(self._writer, b"w")

    def note(self) -> None:
        """End a wait as `wake` does, for what is only to be shown."""
        with suppress(BlockingIOError):
            os.write(self._writer, _NOTE)

    def wait(self, seconds: float, pids: Iterable[int] = ()) -> bool:
        """Return after *seconds*, after `wake`, or when one of *pids* ended; False after nothing but `note`."""
        seconds = max(0.0, min(seconds, MAX_WAIT_SECONDS))
        if not self._watch(set(pids)):
            seconds = min(seconds, BLIND_WAIT_SECONDS)
        poll = select.poll()
        for descriptor in (self._reader, *self._watched.values()):
            poll.register(descriptor, select.POLLIN)
        return not poll.poll(seconds * 1000) or self._drain()

    def close(self) -> None:
        """Close all descriptors."""
        self._watch(set())
        os.close(self._reader)
        os.close(self._writer)

    def _watch(self, pids: set[int]) -> bool:
        """Open a descriptor for each of *pids*; return whether that worked for all."""
        for pid in set(self._watched) - pids:
            os.close(self._watched.pop(pid))
        complete = True
        for pid in pids - set(self._watched):
            try:
                self._watched[pid] = os.pidfd_open(pid)
            except OSError:  # it ended meanwhile, or an old kernel
                complete = False
        return complete

    def _drain(self) -> bool:
        """Return whether there was more than notes."""
        ended = [pid for pid, descriptor in self._watched.items() if _is_readable(descriptor)]
        for pid in ended:  # it stays readable: let go of it
            os.close(self._watched.pop(pid))
        causes: set[int] = set()
        with suppress(BlockingIOError):
            while found := os.read(self._reader, 4096):
                causes.update(found)
        return bool(ended) or causes != set(_NOTE)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


HANG_SECONDS = 70.0
"""A loop without progress for longer hangs: twice as long as its slowest command may take, and a margin."""

PROGRESS: ContextVar[Callable[[], None]] = ContextVar("progress", default=lambda: None)
"""To be called after each command that may take long. A thread other than the loop's calls what does nothing."""

_WAKE_SECONDS = 2.0


class Pulse:
    """Lets threads say that the device lives only while the loop makes progress; *wake* causes a pass."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._beat = Condition()
        self._at = clock.now()

    def beat(self) -> None:
        """Record that the loop goes on."""
        with self._beat:
            self._at = self._clock.now()
            self._beat.notify_all()

    def wait(self) -> None:
        """Return when the loop's latest progress is recent; never, if it hangs."""
        with self._beat:
            if self._is_recent():
                return
            self._wake()  # the device may have been suspended
            if not self._beat.wait_for(self._is_recent, _WAKE_SECONDS):
                log.error("the loop hangs, so that the gateway is told nothing more seconds=%d", HANG_SECONDS)
                self._beat.wait_for(self._is_recent)
                log.info("the loop makes progress again")

    def _is_recent(self) -> bool:
        return self._clock.now() - self._at <= HANG_SECONDS
