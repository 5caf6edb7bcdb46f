# SPDX-License-Identifier: Apache-2.0
"""Sends reports when they are due, and lost ones again, in a thread of its own."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace
from threading import Event, Thread

from praetor_agent.clock import MAX_WAIT_SECONDS, Clock, rfc3339
from praetor_agent.core import report as reports
from praetor_agent.core.health import Health
from praetor_agent.core.masking import Masking
from praetor_agent.core.model import Exchange, Memory, ObservedDevice
from praetor_agent.core.report import Observations, ReportState
from praetor_agent.errors import GatewayError
from praetor_agent.link.client import GatewayClient, PollAnswer
from praetor_agent.link.poller import Heartbeats, Inbox
from praetor_api.backports import dataclass
from praetor_api.protocol import Desired, Report, ReportAck

log = logging.getLogger(__name__)

FACTS_SECONDS = 300.0
"""Between two reads of the facts."""

KEPT_SECONDS = 5.0
"""A connection without a report for longer is closed while polls are heartbeats: the gateway holds half as many."""

CRASH_PAUSE_SECONDS = 15.0
"""Until the next attempt after a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What the next report is about; one is due *ask_at* at the latest.

    *wanted* and *interval* are those of the *desired* state.
    """

    current: Observations = field(default_factory=dict)
    desired: Desired | None = None
    ask_at: float | None = None

    @property
    def wanted(self) -> frozenset[str]:
        desired = self.desired or Desired(device_name="")
        return frozenset(item.uid for item in desired.items) | frozenset(item.uid for item in desired.invalid)

    @property
    def interval(self) -> float | None:
        return float(self.desired.heartbeat_interval_seconds) if self.desired is not None else None


class Reporter:
    """Reports observations to the gateway, in a thread that supervises nothing: a report may hang for minutes. Where
    the gateway takes polls for heartbeats, it reports what is new, and when no poll was answered in time.

    *alive* is called before each report, and returns while the loop makes progress. *nudge* wakes the poller when the
    gateway has a newer desired state; *facts* reads the facts of the device. After each report *wake* is called if a
    change waits for an exchange, else *note*. The first one is sent after *splay* seconds.

    *heard_at* is when the latest acknowledged report was sent, in seconds since boot; *exchange* is the latest report,
    or poll in its place, for people.
    """

    def __init__(
        self,
        client: GatewayClient,
        inbox: Inbox,
        clock: Clock,
        identity: Report,
        nudge: Callable[[], None],
        facts: Callable[[], Mapping[str, str]],
        wake: Callable[[], None] = lambda: None,
        splay: float = 0.0,
        note: Callable[[], None] = lambda: None,
        alive: Callable[[], None] = lambda: None,
        masking: Masking | None = None,
    ) -> None:
        self._masking = masking or Masking()
        self._alive = alive
        self._polled: deque[PollAnswer] = deque()
        self._quiet: bool | None = None
        self._client = client
        self._inbox = inbox
        self._clock = clock
        self._identity = identity
        self._nudge = nudge
        self._facts = facts
        self._wake = wake
        self._note = note
        self._facts_at = float("-inf")
        self._differs = 0
        self.heard_at: float | None = None
        self.exchange: Exchange | None = None
        now = clock.now()
        self._state = ReportState(base=reports.first_seq(now), next_at=now + splay, quiet_until=now + splay)
        self._latest: _Offer | None = None
        self._offered = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, name="report", daemon=True)

    def offer(
        self,
        desired: Desired | None,
        memory: Memory,
        device: ObservedDevice,
        health: Mapping[str, Health],
        now: float,
        ask_at: float | None = None,
    ) -> None:
        """Let the next report be about *device* as it was *now*, in seconds since boot, and no longer about what was
        offered before; wait for nothing.
        """
        found = reports.observations(desired, memory, device, health, now)
        if self._masking.texts:
            found = {uid: self._masking.reported(seen) for uid, seen in found.items()}
        latest = _Offer(current=found, desired=desired, ask_at=ask_at)
        if latest != self._latest:
            self._latest = latest
            self._offered.set()

    def heartbeats(self) -> Heartbeats:
        """Return what the next poll has to say. Called by the poller's thread."""
        identity, latest, received, state = self._identity, self._latest, self._inbox.latest(), self._state
        standing = None
        if latest is not None and latest.desired == (received and received.desired):
            standing = state.standing(latest.wanted, identity.revision)
        quiet, interval = self._quiet, state.interval
        if quiet is None:  # an agent that starts goes by what its gateway said before
            quiet = received is not None and received.desired.poll_is_heartbeat
            interval = float(received.desired.heartbeat_interval_seconds) if received is not None else interval
        return Heartbeats(boot_id=identity.boot_id, interval=interval, quiet=quiet, standing=standing)

    def polled(self, answer: PollAnswer) -> None:
        """Take the answer to a poll. Called by the poller's thread."""
        self._polled.append(answer)
        self._offered.set()

    def start(self) -> None:
        """Begin to report what was offered."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reporting. A report on its way is not awaited; the thread ends with the program."""
        self._stopping = True
        self._offered.set()

    def step(self) -> float:
        """Send a report if one is due, and return when the next one is; never, if nothing was offered yet."""
        self._take_polls()
        latest = self._latest
        if latest is None:
            return float("inf")
        now = self._clock.now()
        self._update_facts(now)
        if latest.interval is not None and self._quiet is None:
            self._state = replace(self._state, interval=latest.interval)
        self._state = reports.asked(self._state.revised(latest.current, now), latest.ask_at)
        current = self._state.latest
        due_at = self._state.due_at(current, now)
        if due_at > now:
            return due_at
        self._send(current, latest.wanted)
        if self._latest is not None and self._latest.ask_at is not None:
            self._wake()
        else:
            self._note()
        return self._state.due_at(current, self._clock.now())

    def _take_polls(self) -> None:
        while self._polled:
            answer = self._polled.popleft()
            self._quiet = answer.interval is not None
            if answer.interval is not None:
                if not self._state.lost:
                    at = rfc3339(self._clock.wall())
                    self.exchange = Exchange(at=at, answer="acknowledged", acknowledged_at=at)
                self._state = self._state.polled(float(answer.interval), self._clock.now())
            if answer.resync:
                self._state = self._state.resync(self._clock.now())

    def _run(self) -> None:
        while not self._stopping:
            self._offered.clear()
            try:
                due_at = self.step()
            except Exception:  # a bug must not end reporting
                log.exception("report crashed")
                due_at = self._clock.now() + CRASH_PAUSE_SECONDS
            left = max(0.0, due_at - self._clock.now())
            if self._quiet and left > KEPT_SECONDS:
                self._client.close()  # the poller's connection is all that the device needs
            if not self._stopping:
                self._offered.wait(min(left, MAX_WAIT_SECONDS))
        self._client.close()

    def _send(self, current: Observations, wanted: Collection[str]) -> None:
        self._alive()
        state, sent_at, at = self._state, self._clock.now(), rfc3339(self._clock.wall())
        due, last = state.due(current), self.exchange.acknowledged_at if self.exchange else None
        report = reports.report(self._identity, state, due, at, wanted)
        fraction = random.random()  # noqa: S311 - no secret
        try:
            ack = self._client.report(report)
        except GatewayError as e:
            level = logging.ERROR if e.unauthorized else logging.WARNING
            log.log(level, "report lost lost=%d reason=%s", state.lost + 1, e)
            self._state = state.failed(self._clock.now(), fraction, e.retry_after)
            self.exchange = Exchange(at=at, answer=str(e), acknowledged_at=last)
            return
        self.heard_at, self.exchange = sent_at, Exchange(at=at, answer="acknowledged", acknowledged_at=at)
        if state.lost:
            log.info("reports arrive again")
        for rejected in ack.rejected:
            log.warning("observation rejected name=%s reason=%s", rejected.name, rejected.reason)
        self._quiet = ack.poll_is_heartbeat
        self._state = state.acked(ack, current, due, self._clock.now(), fraction)
        self._compare(ack)

    def _update_facts(self, now: float) -> None:
        if now < self._facts_at:
            return
        facts, self._facts_at = self._facts(), now + FACTS_SECONDS
        if facts != self._identity.facts:
            self._state = replace(self._state, facts_known=False)  # first: the poller must not vouch for the new ones
            self._identity = replace(self._identity, facts=facts, revision=reports.first_seq(now))

    def _compare(self, ack: ReportAck) -> None:
        """Fetch a changed desired state that the long poll should have received."""
        if ack.desired_etag is None or ack.desired_etag == self._inbox.etag():
            self._differs = 0
            return
        self._differs += 1
        self._nudge()
        if self._differs > 1:  # the poller had one interval: its connection may be dead unnoticed
            try:
                received = self._client.desired(self._inbox.etag())
            except GatewayError as e:
                log.warning("cannot fetch desired state reason=%s", e)
                return
            if received is not None:
                self._inbox.put(received)
