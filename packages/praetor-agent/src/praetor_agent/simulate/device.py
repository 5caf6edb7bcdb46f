# SPDX-License-Identifier: Apache-2.0
"""One simulated device: it polls, and reports the desired processes as if it ran them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from praetor_agent.__about__ import __version__
from praetor_agent.clock import Clock, rfc3339
from praetor_agent.core.polls import poll_retry, poll_wait
from praetor_agent.core.report import ReportState, first_seq, heartbeat_delay, report
from praetor_agent.errors import GatewayError
from praetor_agent.simulate.disconnections import Contact
from praetor_agent.simulate.faults import Faults
from praetor_agent.simulate.http import Connection, Link, Response
from praetor_agent.simulate.statistics import Receipt, Tally
from praetor_api.canonical import spec_hash as hash_of
from praetor_api.protocol import (
    AGENT_FEATURES,
    DEFAULT_STALE_MULTIPLIER,
    INTERVAL_HEADER,
    MAX_WAIT_SECONDS,
    POLL_HEADER,
    REPORTED_HEADER,
    RESYNC_HEADER,
    Observation,
    Report,
    ReportAck,
    connect_path,
    desired_path,
    report_path,
)
from praetor_api.wire import WireError, parse_json, read, write

TIMEOUT_SECONDS = 10.0
QUICK_SECONDS = 0.5
"""A poll that is answered sooner was not held."""
EARLY_SECONDS = 0.5
"""How much earlier than asked a held poll may be answered: gateways answer some together."""
IDLE_SECONDS = 3600.0
BUSY_SECONDS = 0.2
REVISIONS_PER_GENERATION = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSettings:
    """Settings of `simulate`. *secret* mints a token per device, *token* is one for all; periods are in seconds.

    *gateways* are URLs. *processes* None: as many as open files and ports ask for. *sources*, *lag* and *loss* are
    those of a Link; every *reconnect_seconds* all connections are closed at once, never if that is 0. *up_since*, as
    RFC 3339, is when the devices booted and started their processes; None: now. *api* is the URL at which the statuses
    of the devices are followed, None: they are not; *namespace* None: all.
    """

    gateways: Sequence[str]
    devices: Sequence[str]
    processes: int | None
    sources: Sequence[str]
    token: str | None = field(repr=False)
    secret: bytes | None = field(repr=False)
    ca_bundle: str | None
    start_splay: float
    fail_rate: float
    faults: Faults
    lag: float
    loss: float
    reconnect_seconds: float
    summary_seconds: float
    as_json: bool
    changes_file: Path | None
    up_since: str | None
    api: str | None
    namespace: str | None


@dataclass(slots=True, kw_only=True)
class SimulatedFleet:
    """What all simulated devices of one process share. *tally* is where they count.

    *reporting* devices report now, at most *most_reporting*: each has a second connection then. *crowded* is whether
    there are not enough open files for all to keep it.
    """

    settings: SimulateSettings
    link: Link
    clock: Clock
    tally: Callable[[], Tally]
    most_reporting: int
    crowded: bool
    reporting: int = 0
    random: random.Random = field(default_factory=random.Random)  # noqa: S311 - no secret


def boot_id_of(device: str, up_since: str) -> str:
    """Return the boot id of a simulated *device* that booted at *up_since*: the same one in each run."""
    return hashlib.sha256(f"{device} {up_since}".encode()).hexdigest()[:32]


def version_of(spec: object) -> str:
    """Return what stands for *spec* on whichever device: each has the name of its own in it."""
    return hash_of({key: spec[key] for key in spec if key != "deviceRef"} if isinstance(spec, dict) else spec)


class SimulatedDevice:
    """The device *name* of the fleet; *token* authenticates it, *number* says which gateway it uses first."""

    def __init__(self, name: str, token: str | None, fleet: SimulatedFleet, number: int) -> None:
        self.name = name
        self._fleet = fleet
        self._polling = Connection(fleet.link, token, number)
        self._reporting = Connection(fleet.link, token, number)
        self._etag: str | None = None
        self._observed: dict[str, Observation] = {}
        self._since: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._pid = 1000
        self.silent = fleet.settings.faults.is_dead(name)
        now = fleet.clock.now()
        facts = {"os": "simulated", "hostname": name, "features": ",".join(sorted(AGENT_FEATURES))}
        boot_id, revision = f"{fleet.random.getrandbits(128):032x}", first_seq(now)
        if fleet.settings.up_since is not None:
            boot_id, revision = boot_id_of(name, fleet.settings.up_since), 0
        self._identity = Report(agent_version=__version__, boot_id=boot_id, facts=facts, revision=revision)
        self._reports = ReportState(base=first_seq(now), next_at=now)
        self._polls = first_seq(now)
        self._quiet = self._resync = self._introduced = False
        self._failures = 0  # of polls, in a row
        self._began = now
        self._heard_since = self._heard = 0.0  # 0: never
        self._said: Contact | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the device's last report was acknowledged, and its last poll answered."""
        return not self.silent and self._reports.sent > 0 and self._reports.lost == 0 and self._failures == 0

    def contact(self, now: float) -> Contact | None:
        """Return since when the device is in contact with its gateway, or was; None if that was said already."""
        limit = self._limit
        if self._heard:
            broken = self.silent or now - self._heard > limit
            until = self._heard if broken else None
            found = Contact(self.name, self._heard_since, until, limit, self.silent)
        elif self.silent:
            found = Contact(self.name, self._began, self._began, limit, silent=True)
        else:
            return None
        if found == self._said:
            return None
        self._said = found
        return found

    @property
    def _limit(self) -> float:
        """After how many seconds of silence the gateway calls the device disconnected."""
        return DEFAULT_STALE_MULTIPLIER * self._reports.interval

    def _was_heard(self, began: float) -> None:
        """Record that a request was answered that *began* then: the gateway got it later, and counts from there."""
        if not self._heard or began - self._heard > self._limit:
            self._heard_since = self._fleet.clock.now()
        self._heard = max(self._heard, began)

    def hang_up(self) -> None:
        """Lose the connections; the device opens them again, as after a failure of its network."""
        self._polling.close()
        self._reporting.close()

    async def run(self) -> None:
        """Simulate the device until cancelled, or until a fault silences it."""
        await asyncio.sleep(self._fleet.settings.start_splay * self._fleet.random.random())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poll(), name=f"poll {self.name}")
                group.create_task(self._report_changes(), name=f"report {self.name}")
        finally:
            self.hang_up()

    async def _poll(self) -> None:
        while not self.silent:
            began = self._fleet.clock.now()
            try:
                if not self._introduced:  # once, as an agent does
                    self._introduced = True
                    await self._ask("POST", connect_path(self.name), "", b"", self._polling, TIMEOUT_SECONDS)
                changed = await self._poll_once()
            except (GatewayError, WireError) as e:
                self._failures += 1
                self._fleet.tally().failed(e)
                pause = poll_retry(self._failures, self._reports.interval, self._fleet.random.random())
                retry_after = e.retry_after if isinstance(e, GatewayError) else None
                await asyncio.sleep(max(pause, retry_after or 0.0))
                continue
            self._failures = 0
            if not changed and self._fleet.clock.now() - began < QUICK_SECONDS:
                await asyncio.sleep(heartbeat_delay(self._reports.interval, self._fleet.random.random()))

    async def _poll_once(self) -> bool:
        interval, fraction = self._reports.interval, self._fleet.random.random()
        wait = poll_wait(interval, fraction, quiet=self._quiet, configured=None, most=MAX_WAIT_SECONDS)
        headers = f"Prefer: wait={wait}\r\n{self._numbered()}"
        if self._etag is not None:
            headers += f"If-None-Match: {self._etag}\r\n"
        began = self._fleet.clock.now()
        answer = await self._ask("GET", desired_path(self.name), headers, b"", self._polling, wait + TIMEOUT_SECONDS)
        tally, took = self._fleet.tally(), self._fleet.clock.now() - began
        tally.polls += 1
        if self._etag is None or took >= wait - EARLY_SECONDS:
            tally.latencies["poll"].add(took if self._etag is None else max(0.0, took - wait))
        asked = self._polled(answer)
        if answer.status == 304:
            return asked
        before, self._etag = self._etag, answer.headers.get("etag")
        self._apply(parse_json(answer.body))
        return before != self._etag

    def _numbered(self) -> str:
        """Return the headers that make a poll a heartbeat."""
        boot_id = self._identity.boot_id
        self._polls += 1
        standing = None if self._resync else self._reports.standing(self._observed, self._identity.revision)
        said = "" if standing is None else f"{REPORTED_HEADER}: {boot_id}/{standing}\r\n"
        return f"{POLL_HEADER}: {boot_id}/{self._polls}\r\n{said}"

    def _polled(self, answer: Response) -> bool:
        """Take what the answer to a poll says of heartbeats; return whether it asks for a report of everything."""
        interval = answer.headers.get(INTERVAL_HEADER.lower(), "")
        self._quiet = interval.isdigit()
        if self._quiet:
            self._reports = self._reports.polled(float(interval), self._fleet.clock.now())
        if answer.headers.get(RESYNC_HEADER.lower()) != "1":
            return False
        self._resync = True
        self._changed.set()
        return True

    def _apply(self, body: object) -> None:
        """Apply the desired state *body*."""
        items = body.get("items", []) if isinstance(body, dict) else []
        wanted = {item["uid"]: item for item in items if isinstance(item, dict) and isinstance(item.get("uid"), str)}
        self.silent = any(self._fleet.settings.faults.silences(self.name, item) for item in wanted.values())
        for uid in set(self._observed) - set(wanted):
            del self._observed[uid]
        now = self._fleet.clock.now()
        if self._fleet.settings.up_since is not None:
            self._revise(wanted.values())
        for uid, item in wanted.items():
            spec_hash = str(item.get("specHash", ""))
            known = self._observed.get(uid)
            if known is None or known.observed_spec_hash != spec_hash:
                start_time = self._fleet.settings.up_since if known is None else None
                self._observed[uid] = self._started(uid, spec_hash, item, start_time)
                self._since[uid] = now
                wall = self._fleet.clock.wall().isoformat()
                version = version_of(item.get("spec"))
                self._fleet.tally().received(Receipt(self.name, spec_hash, version, now, wall, known is not None))
        self._reports = self._reports.revised(self._observed, now if self._fleet.settings.up_since is None else 0.0)
        self._changed.set()

    def _revise(self, wanted: Iterable[Mapping[str, Any]]) -> None:
        """Number what is reported of *wanted* from its generation, not the time: another run says the same again."""
        newest = max((item["generation"] for item in wanted if isinstance(item.get("generation"), int)), default=0)
        revision = max(self._reports.revision, newest * REVISIONS_PER_GENERATION)
        self._reports = replace(self._reports, revision=revision)

    def _started(self, uid: str, spec_hash: str, item: Mapping[str, Any], start_time: str | None) -> Observation:
        self._pid += 1
        settings = self._fleet.settings
        fails = self._fleet.random.random() < settings.fail_rate or settings.faults.fails(self.name, item)
        return Observation(
            namespace=str(item.get("namespace", "")),
            name=str(item.get("name", "")),
            uid=uid,
            observed_spec_hash=spec_hash,
            process_started=not fails,
            healthy=not fails,
            pid=None if fails else self._pid,
            start_time=start_time or rfc3339(self._fleet.clock.wall()),
            error_message="simulated failure" if fails else None,
        )

    async def _report_changes(self) -> None:
        await self._changed.wait()  # an agent knows from its disk what it runs, and its first report says so
        while not self.silent:
            self._changed.clear()
            now = self._fleet.clock.now()
            if self._resync:
                self._resync, self._reports = False, self._reports.resync(now)
            current = self._reports.latest
            due_at = self._reports.due_at(current, now)
            if due_at <= now:
                if self._fleet.reporting >= self._fleet.most_reporting:
                    await asyncio.sleep(BUSY_SECONDS * (1.0 + self._fleet.random.random()))
                    continue
                self._fleet.reporting += 1
                try:
                    await self._report_once(current)
                finally:
                    self._fleet.reporting -= 1
                    if self._quiet or self._fleet.crowded:
                        self._reporting.close()  # as the agent does
                continue
            try:
                async with asyncio.timeout(min(due_at - now, IDLE_SECONDS)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _report_once(self, current: Mapping[str, Observation]) -> None:
        due = self._reports.due(current)
        sent = report(self._identity, self._reports, due, rfc3339(self._fleet.clock.wall()), current)
        body, fraction = json.dumps(write(sent)).encode(), self._fleet.random.random()
        began = self._fleet.clock.now()
        try:
            answer = await self._ask("POST", report_path(self.name), "", body, self._reporting, TIMEOUT_SECONDS)
            ack = read(ReportAck, parse_json(answer.body))
        except (GatewayError, WireError) as e:
            self._fleet.tally().failed(e)
            retry_after = e.retry_after if isinstance(e, GatewayError) else None
            self._reports = self._reports.failed(self._fleet.clock.now(), fraction, retry_after)
            return
        now, tally = self._fleet.clock.now(), self._fleet.tally()
        tally.reports += 1
        tally.latencies["report"].add(now - began)
        self._quiet = ack.poll_is_heartbeat
        for seen in due:
            since = self._since.pop(seen.uid, None)
            if since is not None:
                tally.latencies["reported"].add(now - since)
        self._reports = self._reports.acked(ack, current, due, now, fraction)

    async def _ask(
        self, method: str, path: str, headers: str, body: bytes, connection: Connection, timeout: float
    ) -> Response:
        began = self._fleet.clock.now()
        answer = await connection.request(method, path, headers, body, timeout)
        if answer.status not in (200, 304):
            retry_after = answer.headers.get("retry-after", "")
            seconds = float(retry_after) if retry_after.isdigit() else None
            raise GatewayError(f"the gateway answered {answer.status}", retry_after=seconds)
        self._was_heard(began)
        return answer
