# SPDX-License-Identifier: Apache-2.0
"""The long poll, in a thread of its own, and the desired state that it receives for the loop."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Protocol

from praetor_agent.clock import Clock
from praetor_agent.core.polls import FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS, PollPath, poll_retry, poll_wait
from praetor_agent.core.report import first_seq, heartbeat_delay
from praetor_agent.errors import GatewayError
from praetor_agent.link.client import GatewayClient, Poll, PollAnswer
from praetor_agent.state import Received
from praetor_api.backports import dataclass
from praetor_api.protocol import DEFAULT_HEARTBEAT_SECONDS


class Inbox:
    """Holds the latest desired state; *wake* is called when it changes."""

    def __init__(self, wake: Callable[[], None], latest: Received | None = None) -> None:
        self._lock = Lock()
        self._wake = wake
        self._latest = latest

    def put(self, received: Received) -> bool:
        """Store *received* and return whether it is new."""
        with self._lock:
            if self._latest is not None and self._latest.etag == received.etag and self._latest.body == received.body:
                return False
            self._latest = received
        self._wake()
        return True

    def latest(self) -> Received | None:
        """Return the latest desired state; None if the device never received one."""
        with self._lock:
            return self._latest

    def etag(self) -> str | None:
        """Return the ETag of the latest desired state."""
        latest = self.latest()
        return latest.etag if latest else None


log = logging.getLogger(__name__)

QUICK_SECONDS = 1.0
"""A gateway that answers 'unchanged' faster did not hold the poll; polling again at once would be a hot loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeats:
    """How the device says that it lives: every *interval* seconds, and with *quiet* by polls as long as it has nothing
    to report. *standing* is what the gateway acknowledged, None if that is not all.
    """

    boot_id: str = ""
    interval: float = DEFAULT_HEARTBEAT_SECONDS
    quiet: bool = False
    standing: str | None = None


class HeartbeatKeeper(Protocol):
    """What decides whether a poll is enough."""

    def heartbeats(self) -> Heartbeats:
        """Return what the next poll has to say."""
        ...

    def polled(self, answer: PollAnswer) -> None:
        """Take the answer to a poll."""
        ...


class Poller:
    """Polls for the desired state and puts changes into the inbox, while *keeper* says how the device lives.

    *wait* is the longest that a poll is held, in seconds, None for the default; *splay* is in seconds, too. *alive* is
    called before each poll, and returns while the loop makes progress.
    """

    def __init__(
        self,
        client: GatewayClient,
        inbox: Inbox,
        clock: Clock,
        keeper: HeartbeatKeeper,
        *,
        wait: int | None = None,
        splay: float = 0.0,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._clock = clock
        self._keeper = keeper
        self._wait = wait
        self._splay = splay
        self._alive = alive
        self._number = first_seq(clock.now())
        self._path = PollPath()
        self._was_asked = False
        self._nudged = Event()
        self._stopping = False
        self._failures = 0
        self._thread = Thread(target=self._run, name="poll desired", daemon=True)

    def start(self) -> None:
        """Begin polling; the first request comes after *splay* seconds."""
        self._thread.start()

    def nudge(self) -> None:
        """End a pause now: the gateway can be reached, or has a change."""
        self._nudged.set()

    def stop(self) -> None:
        """Stop polling. A held poll is not awaited; the thread ends with the program."""
        self._stopping = True
        self._nudged.set()

    def _run(self) -> None:
        self._nudged.wait(self._splay)
        self._connect()
        while not self._stopping:
            self._nudged.clear()
            pause = self._poll()
            if pause > 0 and not self._stopping:
                self._nudged.wait(pause)
        self._client.close()

    def _connect(self) -> None:
        try:
            self._client.connect()
        except GatewayError as e:
            log.info("gateway not reached yet reason=%s", e)

    def _poll(self) -> float:
        """Poll once and return the seconds to pause."""
        self._alive()
        said, began, fraction = self._keeper.heartbeats(), self._clock.now(), random.random()  # noqa: S311 - no secret
        wait = poll_wait(said.interval, fraction, quiet=said.quiet, configured=self._wait, most=self._path.most)
        self._number += 1
        try:
            poll = Poll(boot_id=said.boot_id, number=self._number, standing=said.standing)
            answer = self._client.poll(self._inbox.etag(), wait, poll)
        except GatewayError as e:
            now = self._clock.now()
            self._path = self._path.failed(wait, now - began, now)
            return self._failed(e, said.interval)
        except Exception:  # a bug must not end polling
            log.exception("poll crashed")
            return MOST_RETRY_SECONDS
        if self._failures:
            log.info("gateway reached again")
            self._failures = 0
        now = self._clock.now()
        self._path = self._path.answered(now)
        self._keeper.polled(answer)
        return self._after(answer, now - began, min(QUICK_SECONDS, wait / 2))

    def _after(self, answer: PollAnswer, took: float, quick: float) -> float:
        new = answer.received is not None and self._inbox.put(answer.received)
        asked, self._was_asked = answer.resync and not self._was_asked, answer.resync
        if new or asked or took >= quick:
            return 0.0
        return heartbeat_delay(answer.interval or DEFAULT_HEARTBEAT_SECONDS, random.random())  # noqa: S311 - no secret

    def _failed(self, error: GatewayError, interval: float) -> float:
        self._failures += 1
        level = logging.ERROR if error.unauthorized else logging.WARNING
        log.log(level, "cannot poll failures=%d reason=%s", self._failures, error)
        fraction = random.random()  # noqa: S311 - no secret
        pause = poll_retry(self._failures, interval, fraction)
        if error.unauthorized:
            pause = max(pause, FIRST_RETRY_SECONDS)
        return pause if error.retry_after is None else error.retry_after * (1.0 + 0.25 * fraction)
