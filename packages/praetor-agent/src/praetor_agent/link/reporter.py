"""Sends reports: when they are due, as they are due, and again when they were lost."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from praetor_agent.clock import Clock, rfc3339
from praetor_agent.core import report as reports
from praetor_agent.core.health import Health
from praetor_agent.core.model import Exchange, Memory, Record, Stage, World
from praetor_agent.core.reconcile import unknown
from praetor_agent.core.report import Reporter
from praetor_agent.errors import GatewayError
from praetor_agent.link.client import GatewayClient
from praetor_agent.link.poller import Inbox
from praetor_api.protocol import Desired, Observation, Report, ReportAck

log = logging.getLogger(__name__)


class Teller:
    """Tells the gateway what the device sees. *nudge* wakes the poller when the gateway holds something newer;
    *facts* tells what the device is at a time. *heard_at* is when the latest report was sent that was acknowledged,
    *exchange* is about the latest, for people."""

    def __init__(
        self,
        client: GatewayClient,
        inbox: Inbox,
        clock: Clock,
        identity: Report,
        nudge: Callable[[], None],
        facts: Callable[[float], Mapping[str, str]],
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._clock = clock
        self._identity = identity
        self._nudge = nudge
        self._facts = facts
        self._differs = 0
        self.heard_at: float | None = None
        self.exchange: Exchange | None = None
        now = clock.now()
        self._reporter = Reporter(base=reports.first_seq(now), next_at=now)

    def delay(self, seconds: float) -> None:
        """Send the first report *seconds* from now."""
        self._reporter = reports.delayed(self._reporter, self._clock.now() + seconds)

    def step(
        self,
        desired: Desired | None,
        memory: Memory,
        world: World,
        health: Mapping[str, Health],
        ask_at: float | None = None,
    ) -> float:
        """Send a report if one is due, one *ask_at* at the latest, and return when the next one is."""
        current = observations(desired, memory, world, health)
        self._reporter = reports.asked(self._reporter, ask_at)
        if desired is not None and self.heard_at is None:
            self._reporter = replace(self._reporter, interval=float(desired.heartbeat_interval_seconds))
        if self._reporter.due_at(current, self._clock.now()) <= self._clock.now():
            self._send(current)
        return self._reporter.due_at(current, self._clock.now())

    def _send(self, current: Mapping[str, Observation]) -> None:
        self._look()
        reporter, due, sent_at = self._reporter, self._reporter.due(current), self._clock.now()
        at, last = rfc3339(self._clock.wall()), self.exchange.acknowledged_at if self.exchange else None
        report = reports.report(self._identity, reporter, due, at)
        fraction = random.random()  # noqa: S311 - no secret
        try:
            ack = self._client.report(report)
        except GatewayError as e:
            level = logging.ERROR if e.unauthorized else logging.WARNING
            log.log(level, "report lost lost=%d reason=%s", reporter.lost + 1, e)
            self._reporter = reporter.failed(self._clock.now(), fraction, e.retry_after)
            self.exchange = Exchange(at=at, answer=str(e), acknowledged_at=last)
            return
        self.heard_at, self.exchange = sent_at, Exchange(at=at, answer="acknowledged", acknowledged_at=at)
        if reporter.lost:
            log.info("reports arrive again")
        for rejected in ack.rejected:
            log.warning("observation rejected name=%s reason=%s", rejected.name, rejected.reason)
        self._reporter = reporter.acked(ack, current, due, self._clock.now(), fraction)
        self._compare(ack)

    def _look(self) -> None:
        facts = self._facts(self._clock.now())
        if facts != self._identity.facts:
            self._identity = replace(self._identity, facts=facts)
            self._reporter = replace(self._reporter, facts_known=False)

    def _compare(self, ack: ReportAck) -> None:
        """Look after a desired state that the long poll should have brought."""
        if ack.desired_etag is None or ack.desired_etag == self._inbox.etag():
            self._differs = 0
            return
        self._differs += 1
        self._nudge()
        if self._differs > 1:  # the poller had an interval's time: its connection may be dead without its knowing
            try:
                received = self._client.desired(self._inbox.etag())
            except GatewayError as e:
                log.warning("cannot fetch desired state reason=%s", e)
                return
            if received is not None:
                self._inbox.put(received)


def observations(
    desired: Desired | None, memory: Memory, world: World, health: Mapping[str, Health]
) -> dict[str, Observation]:
    """Return by the record's uid what to tell of each process that is desired."""
    if desired is None:
        return {}
    hashes = {item.uid: item.spec_hash for item in desired.items}
    hashes |= {bad.uid or f"{bad.namespace}/{bad.name}": bad.spec_hash for bad in desired.invalid}
    told = {}
    for uid, record in memory.items():
        if not record.name:
            continue
        wanted = hashes.get(uid, "")
        seen = reports.observation(
            record, world.observed.get(uid), health.get(uid), world.artifacts.get(wanted), world.hold
        )
        told[uid] = reports.with_spec_hash(_unless_unknown(seen, record, world), wanted)
    return told


def _unless_unknown(seen: Observation, record: Record, world: World) -> Observation:
    """Return *seen* without what nobody can tell while the backend is silent: that is a warning, not a failure."""
    why = unknown(record, world)
    if why is None:
        return seen
    error = None if seen.error_message == why else seen.error_message
    warning = f"{seen.warning_message}; {why}" if seen.warning_message else why
    seen = replace(seen, error_message=error, warning_message=warning)
    if record.stage is not Stage.RUNNING or record.boot_id != world.boot_id:
        return seen  # nobody saw it run, or it ended
    # left out, what the gateway knows stands; but a new version must not pass for healthy because the old one was
    started = True if record.healthy_since is None else None
    return replace(seen, process_started=started, healthy=None, exit_code=None)
