# SPDX-License-Identifier: Apache-2.0
"""Sends reports when they are due, and lost ones again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from praetor_agent.clock import Clock, rfc3339
from praetor_agent.core import report as reports
from praetor_agent.core.health import Health
from praetor_agent.core.model import Exchange, Memory, ObservedDevice
from praetor_agent.core.report import ReportState
from praetor_agent.errors import GatewayError
from praetor_agent.link.client import GatewayClient
from praetor_agent.link.poller import Inbox
from praetor_api.protocol import Desired, Observation, Report, ReportAck

log = logging.getLogger(__name__)

FACTS_SECONDS = 300.0
"""Between two reads of the facts."""


class Reporter:
    """Reports observations to the gateway.

    *nudge* wakes the poller when the gateway has a newer desired state; *facts* reads the facts of the device;
    the first report is sent after *splay* seconds.
    *heard_at* is when the latest acknowledged report was sent, in seconds since boot; *exchange* is the latest report,
    for people.
    """

    def __init__(
        self,
        client: GatewayClient,
        inbox: Inbox,
        clock: Clock,
        identity: Report,
        nudge: Callable[[], None],
        facts: Callable[[], Mapping[str, str]],
        splay: float = 0.0,
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._clock = clock
        self._identity = identity
        self._nudge = nudge
        self._facts = facts
        self._facts_at = float("-inf")
        self._differs = 0
        self.heard_at: float | None = None
        self.exchange: Exchange | None = None
        now = clock.now()
        self._state = ReportState(base=reports.first_seq(now), next_at=now + splay, quiet_until=now + splay)

    def step(
        self,
        desired: Desired | None,
        memory: Memory,
        device: ObservedDevice,
        health: Mapping[str, Health],
        ask_at: float | None = None,
    ) -> float:
        """Send a report if one is due, one *ask_at* at the latest, and return when the next one is."""
        current = reports.observations(desired, memory, device, health)
        self._state = reports.asked(self._state, ask_at)
        if desired is not None and self.heard_at is None:
            self._state = replace(self._state, interval=float(desired.heartbeat_interval_seconds))
        if self._state.due_at(current, self._clock.now()) <= self._clock.now():
            self._send(current)
        return self._state.due_at(current, self._clock.now())

    def _send(self, current: Mapping[str, Observation]) -> None:
        self._update_facts()
        state, due, sent_at = self._state, self._state.due(current), self._clock.now()
        at, last = rfc3339(self._clock.wall()), self.exchange.acknowledged_at if self.exchange else None
        report = reports.report(self._identity, state, due, at)
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
        self._state = state.acked(ack, current, due, self._clock.now(), fraction)
        self._compare(ack)

    def _update_facts(self) -> None:
        now = self._clock.now()
        if now < self._facts_at:
            return
        facts, self._facts_at = self._facts(), now + FACTS_SECONDS
        if facts != self._identity.facts:
            self._identity = replace(self._identity, facts=facts)
            self._state = replace(self._state, facts_known=False)

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
