# SPDX-License-Identifier: Apache-2.0
"""The content of the next report, and when it is due. Pure.

A report carries the observations that changed since the gateway acknowledged
them, or all of them after the gateway asked for a resync.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field, replace

from praetor_agent.core import environment, files, reboot, restart
from praetor_agent.core.health import Health
from praetor_agent.core.model import (
    ArtifactState,
    FailureReason,
    Memory,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    TerminationReason,
    pinned,
)
from praetor_agent.core.reconcile import unknown
from praetor_api.backports import dataclass
from praetor_api.protocol import (
    DEFAULT_HEARTBEAT_SECONDS,
    HEARTBEAT_JITTER,
    MAX_BODY_BYTES,
    MAX_OBSERVATIONS,
    Desired,
    DesiredItem,
    Observation,
    PendingReason,
    Report,
    ReportAck,
)
from praetor_api.spec import ArtifactType, Backend, Hardening
from praetor_api.wire import write

SEQ_PER_SECOND = 1000
"""The first number is the time since boot, so that numbers also grow over a restart of the agent."""

HEARTBEAT_RETRY_SECONDS = (1.0, 2.0, 4.0)
RETRY_JITTER = 0.25
POLL_LEEWAY = 0.2
"""Share of the interval by which the answer to a poll may be late before a report takes its place."""

WAITS = (FailureReason.WAITING, FailureReason.REFERENCE_PENDING)
"""What a version waits for that has not failed."""

Observations = Mapping[str, Observation]
"""Observations by the uid of the record that they are about."""


def observation(
    record: Record,
    seen: Observed | None,
    health: Health | None,
    artifact: ArtifactState | None,
    freeze: str | None = None,
    *,
    on_trial: bool = False,
) -> Observation:
    """Return the observation of one process; *on_trial* is whether a rollout must not rely on its version yet.

    It is about the spec that was started last. While a newer one cannot run, or was given up, the message says why;
    the hash stays the old one, so that the old process does not pass for the new.
    """
    rollback = record.rollback
    running = seen is not None and seen.running and seen.spec_hash == record.mark
    completed = record.stage is ProcessStage.COMPLETED and record.exit_code is not None
    failure = record.failure
    error = (
        failure.message
        if failure is not None
        else reboot.outcome(record)
        if record.stage is ProcessStage.COMPLETED
        else None
    )
    if failure is not None and failure.reason in WAITS:
        error = None  # to wait is no failure
    if error is None and health is not None and health.healthy is False:
        error = f"health check failed: {health.message}"
    return Observation(
        namespace=record.namespace,
        name=record.name,
        uid=record.uid if "/" not in record.uid else "",
        observed_spec_hash=record.spec_hash or "",
        process_started=running
        or record.checking
        or (completed and record.termination_reason != TerminationReason.START_ERROR),
        healthy=_healthy(record, health, running=running),
        failed_spec_hash=rollback.spec_hash if rollback else None,
        rolled_back_reason=rollback.reason if rollback else None,
        rolled_back_message=rollback.message if rollback else None,
        update_held_message=freeze,
        artifact_reason=failure.reason if failure and failure.artifact_downloaded is not None else None,
        artifact_attempts=artifact.attempts or None if artifact else None,
        pid=seen.pid if running and seen else None,
        start_time=record.start_time,
        restart_count=record.restart_count,
        exit_code=None if running else record.exit_code,
        termination_reason=record.termination_reason,
        error_message=error,
        warning_message="; ".join(_warnings(record, seen)) or None,
        artifact_downloaded=_downloaded(record, failure.artifact_downloaded if failure else None, artifact),
        artifact_verified=_verified(record, failure.artifact_verified if failure else None, artifact),
        artifact_digest=record.current.artifact_digest if record.current else None,
        drift_count=record.drift_count or None,
        output_tail=record.output_tail or None,
        on_trial=on_trial or None,
    )


def _healthy(record: Record, health: Health | None, *, running: bool) -> bool | None:
    if running and record.current is not None:
        if health is not None:
            return health.healthy
        return True if record.healthy_since is not None else None
    if record.stage is ProcessStage.COMPLETED:
        return None if record.checking else record.exit_code == 0
    return None if record.stage is ProcessStage.PENDING else False


def _warnings(record: Record, seen: Observed | None) -> Iterator[str]:
    """Yield what the spec asks for and this device cannot do."""
    if record.current is None:
        return
    execution, artifact = record.current.item.spec.execution, record.current.item.spec.artifact
    backend, hardening = execution.backend, execution.hardening
    if record.exit_code == 0 and restart.ends_by_itself(record):
        yield f"the program ended with exit code 0 after each start: {restart.BACKGROUND}"
    if record.checking:
        yield "the device rebooted, as execution.reboot says; postCheck decides whether the job succeeded"
    if seen is not None and seen.unlimited:
        names, why = ", ".join(seen.unlimited), "this device has no control group for it"
        yield f"execution.resources: {names} not limited by the backend {backend}: {why}"
    if hardening not in (None, Hardening.UNCONFINED) and backend is not Backend.SYSTEMD:
        yield f"execution.hardening: {hardening} does nothing under the backend {backend}, only under systemd"
    if artifact is not None and artifact.type is ArtifactType.OCI and artifact.checksum_sha256:
        yield "artifact.checksumSHA256: not compared: the digest in the url pins an oci artifact"


def _downloaded(record: Record, failed: bool | None, artifact: ArtifactState | None) -> bool | None:
    """Return whether the artifact was downloaded; None if there is none, or no attempt has ended."""
    if failed is not None:
        return failed
    if artifact is not None and artifact.path is not None:
        return True
    return True if record.current is not None and record.current.artifact_path is not None else None


def _verified(record: Record, failed: bool | None, artifact: ArtifactState | None) -> bool | None:
    """Return whether the artifact matches its digest; None if the spec has none, or nothing was downloaded."""
    downloaded, spec = _downloaded(record, failed, artifact), record.current and record.current.item.spec.artifact
    if not downloaded or (artifact.pinned if artifact and artifact.path else spec and pinned(spec)):
        return downloaded
    return None


def with_spec_hash(given: Observation, spec_hash: str) -> Observation:
    """Return the observation with *spec_hash*, for a process that was never started."""
    return given if given.observed_spec_hash else replace(given, observed_spec_hash=spec_hash)


def observations(
    desired: Desired | None, memory: Memory, device: ObservedDevice, health: Mapping[str, Health], now: float
) -> dict[str, Observation]:
    """Return the observations to report at *now*, in seconds since boot, by the uid of their record."""
    if desired is None:
        return {}
    items = {item.uid: item for item in desired.items}
    hashes = {item.uid: item.spec_hash for item in desired.items}
    hashes |= {bad.uid or f"{bad.namespace}/{bad.name}": bad.spec_hash for bad in desired.invalid}
    found = {}
    for uid, record in memory.items():
        if not record.name:
            continue
        wanted = hashes.get(uid, "")
        parts = device.observed.get(uid), health.get(uid), device.artifacts.get(wanted), device.freeze
        seen = observation(record, *parts, on_trial=reboot.is_on_trial(record, now, device.proving_seconds))
        if record.failure is None or record.failure.reason not in WAITS:
            seen = with_spec_hash(seen, wanted)
        if device.unseen or device.silent:
            seen = _unless_unknown(seen, record, device)
        item = items.get(uid)
        seen = _with_trouble(_with_pending(seen, record, item, device), record, item)
        if item is not None and are_outdated(record, item):
            seen = replace(seen, values_outdated=True)
        if item is not None and item.traceparent and item.spec_hash in (seen.observed_spec_hash, seen.failed_spec_hash):
            seen = replace(seen, traceparent=item.traceparent)  # what it says is about the traced version
        found[uid] = seen
    return found


def are_outdated(record: Record, item: DesiredItem) -> bool:
    """Return whether the process runs the spec of *item*, started with other values than those of *item*."""
    if item.values_hash is None or record.current is None or record.stage is not ProcessStage.RUNNING:
        return False  # no hash: a gateway of an older release, which knows no values
    if record.spec_hash != item.spec_hash or environment.lacking(item):
        return False
    started = record.current.item
    # the values decide: with a new key of the gateways the same ones have another hash
    same = started.values == item.values and files.given(started) == files.given(item)
    return started.values_hash != item.values_hash and not same


_PENDING: Mapping[str, PendingReason] = {
    FailureReason.BACKEND_UNAVAILABLE: PendingReason.BACKEND_UNAVAILABLE,
    FailureReason.INVALID_SPEC: PendingReason.INVALID_SPEC,
    FailureReason.NOT_ALLOWED: PendingReason.NOT_ALLOWED,
    FailureReason.FILES_NOT_WRITTEN: PendingReason.FILES_NOT_WRITTEN,
    FailureReason.WAITING: PendingReason.WAITING,
    FailureReason.REFERENCE_PENDING: PendingReason.REFERENCE_PENDING,
    FailureReason.MEMORY_NOT_KEPT: PendingReason.STATE_NOT_WRITABLE,
}
"""Reasons that are reported, by those that are kept in memory."""


def _with_pending(seen: Observation, record: Record, item: DesiredItem | None, device: ObservedDevice) -> Observation:
    """Return *seen* with the reason why the device acts on an older spec than that of *item*, which may be invalid."""
    failure = record.failure
    if item is not None and seen.observed_spec_hash == item.spec_hash:
        return seen
    reason = _PENDING.get(failure.reason) if failure is not None else None
    if failure is not None and reason is not None:
        return replace(seen, pending_reason=reason, pending_message=failure.message)
    if item is None or seen.failed_spec_hash == item.spec_hash or device.freeze is not None:
        return seen
    if record.stop_deadline is not None:
        return replace(seen, pending_reason=PendingReason.ENDING, pending_message="the old version is ending")
    artifact = device.artifacts.get(item.spec_hash)
    if item.spec.artifact is not None and (artifact is None or (artifact.path or artifact.failure) is None):
        return replace(seen, pending_reason=PendingReason.FETCHING, pending_message="the artifact is being fetched")
    return seen


def _with_trouble(seen: Observation, record: Record, item: DesiredItem | None) -> Observation:
    """Return *seen* with a warning of what goes wrong with a process that runs its spec: no other condition has it."""
    failure = record.failure
    current = item is not None and seen.observed_spec_hash == item.spec_hash and seen.pid is not None
    if not current or failure is None or seen.error_message != failure.message:
        return seen
    warning = "; ".join(filter(None, (seen.warning_message, failure.message)))
    return replace(seen, warning_message=warning)


def _unless_unknown(seen: Observation, record: Record, device: ObservedDevice) -> Observation:
    """Return *seen* without what is unknown while the backend is silent, with a warning instead of an error."""
    why = unknown(record, device)
    if why is None:
        return seen
    error = None if seen.error_message == why else seen.error_message
    warning = f"{seen.warning_message}; {why}" if seen.warning_message else why
    seen = replace(seen, error_message=error, warning_message=warning)
    if record.stage is not ProcessStage.RUNNING or record.boot_id != device.boot_id:
        return seen  # it was not observed running under this boot, or it ended
    # the gateway keeps a field that is left out; a new version must not inherit the health of the old one
    started = True if record.healthy_since is None else None
    return replace(seen, process_started=started, healthy=None, exit_code=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportState:
    """What was acknowledged, and when to send next. A value; each method returns the next one.

    *base* is the number of the agent's first report, times are in seconds since boot. Nothing is sent before
    *quiet_until*, and no resync is accepted before *resync_after*. *latest* are the observations with their revisions,
    of which *revision* is the newest.
    """

    base: int
    next_at: float
    interval: float = DEFAULT_HEARTBEAT_SECONDS
    sent: int = 0
    lost: int = 0
    acknowledged: Observations = field(default_factory=dict)
    facts_known: bool = False
    resync_after: float = 0.0
    quiet_until: float = 0.0
    revision: int = 0
    latest: Observations = field(default_factory=dict)

    def revised(self, current: Observations, now: float) -> ReportState:
        """Return the state with *current* as ``latest``: what changed gets a new revision, the rest keeps its own.

        Revisions begin with the time since boot, so that they grow over a restart of the agent as well, without a file.
        """
        revision = max(self.revision + 1, first_seq(now))
        latest = {
            uid: known
            if (known := self.latest.get(uid)) is not None and replace(known, revision=None) == seen
            else replace(seen, revision=revision)
            for uid, seen in current.items()
        }
        return self if latest == self.latest else replace(self, latest=latest, revision=revision)

    def reported(self, uids: Collection[str]) -> int:
        """Return the sum of the revisions that were acknowledged of *uids*: a gateway that lost one has less."""
        return sum(self.acknowledged[uid].revision or 0 for uid in uids if uid in self.acknowledged)

    @property
    def seq(self) -> int:
        """Number of the next report."""
        return self.base + self.sent

    def due(self, current: Observations) -> tuple[Observation, ...]:
        """Return the observations of the next report, as many as fit."""
        return tuple(_fitting(self._changed(current)[:MAX_OBSERVATIONS]))

    def _changed(self, current: Observations) -> list[Observation]:
        return [seen for uid, seen in sorted(current.items()) if self.acknowledged.get(uid) != seen]

    def due_at(self, current: Observations, now: float) -> float:
        """Return when to send: at once if something changed, unless the last report was lost."""
        new = not self.facts_known or bool(self._changed(current))
        changed = new and not self.lost and now >= self.quiet_until
        return min(now, self.next_at) if changed else self.next_at

    def acked(
        self, ack: ReportAck, current: Observations, reported: tuple[Observation, ...], now: float, fraction: float
    ) -> ReportState:
        """Return the state after *reported* was acknowledged; *fraction* is random in [0, 1)."""
        known = {uid: seen for uid, seen in self.acknowledged.items() if uid in current}
        known |= {uid: seen for uid, seen in current.items() if seen in reported}
        # A resync that repeats, or follows a complete report, would loop between the two programs.
        more = self.facts_known or len(known) > len(reported)
        resync = ack.resync and now >= self.resync_after and more
        return replace(
            self,
            sent=self.sent + 1,
            lost=0,
            acknowledged={} if resync else known,
            facts_known=not resync,
            resync_after=now + ack.heartbeat_interval_seconds if resync else self.resync_after,
            interval=float(ack.heartbeat_interval_seconds),
            next_at=now + heartbeat_delay(ack.heartbeat_interval_seconds, fraction),
        )

    def standing(self, uids: Collection[str], revision: int | None) -> str | None:
        """Return what was acknowledged, as a sum and the *revision* of the facts; None if there is more to report."""
        if not self.facts_known or self.lost or self._changed(self.latest):
            return None
        return f"{self.reported(uids)}" + ("" if revision is None else f".{revision}")

    def polled(self, interval: float, now: float) -> ReportState:
        """Return the state after a poll was answered that is a heartbeat; the next one is due after *interval*."""
        later = max(self.next_at, now + interval * (1.0 + POLL_LEEWAY))
        return replace(self, interval=interval, next_at=self.next_at if self.lost else later)

    def resync(self, now: float) -> ReportState:
        """Return the state with everything to report again, not sooner than an interval after the resync before."""
        if not self.facts_known and not self.acknowledged:
            return self
        at = max(now, self.resync_after)
        return replace(
            self,
            acknowledged={},
            facts_known=False,
            resync_after=at + self.interval,
            quiet_until=max(self.quiet_until, at),
            next_at=self.next_at if self.lost else min(self.next_at, at),
        )

    def failed(self, now: float, fraction: float, retry_after: float | None = None) -> ReportState:
        """Return the state after a report was lost, or refused for *retry_after* seconds."""
        lost = self.lost + 1
        pause = retry_delay(lost, self.interval, fraction)
        if retry_after is not None:
            pause = max(retry_after * (1.0 + 0.25 * fraction), pause)
        return replace(self, sent=self.sent + 1, lost=lost, next_at=now + pause)


def _fitting(changed: list[Observation]) -> Iterator[Observation]:
    """Yield the first of *changed*, and more while they fit in half a body; the facts need space, too."""
    left = MAX_BODY_BYTES // 2
    for index, seen in enumerate(changed):
        left -= len(json.dumps(write(seen)))
        if left < 0 and index:
            return
        yield seen


def first_seq(now: float) -> int:
    """Return the number of the first report of an agent that starts *now* seconds after boot."""
    return int(now * SEQ_PER_SECOND)


def asked(reporter: ReportState, at: float | None) -> ReportState:
    """Return the state with a report due *at* the latest, unless a lost report waits for its backoff."""
    if at is None or reporter.lost:
        return reporter
    return replace(reporter, next_at=min(reporter.next_at, max(at, reporter.quiet_until)))


def report(
    identity: Report,
    reporter: ReportState,
    observations: tuple[Observation, ...],
    timestamp: str,
    wanted: Collection[str] = (),
) -> Report:
    """Return the report to send. It carries the facts of *identity* until the gateway acknowledged them.

    Without observations it says which ones of the processes *wanted* were acknowledged.
    """
    return replace(
        identity,
        reported=None if observations else reporter.reported(wanted),
        timestamp=timestamp,
        seq=reporter.seq,
        facts=None if reporter.facts_known else identity.facts,
        observations=observations,
    )


def heartbeat_delay(interval: float, fraction: float) -> float:
    """Return the seconds to the next heartbeat: *interval* ± 10 %."""
    return interval * (1.0 + HEARTBEAT_JITTER * (2.0 * fraction - 1.0))


def retry_delay(lost: int, interval: float, fraction: float) -> float:
    """Return the seconds until a lost heartbeat is sent again: 1, 2, 4 ± 25 %, then the ordinary interval.

    Three lost heartbeats make a device stale, so a lossy link must not lose a whole interval with each.
    """
    if lost > len(HEARTBEAT_RETRY_SECONDS):
        return heartbeat_delay(interval, fraction)
    delay = HEARTBEAT_RETRY_SECONDS[lost - 1] * (1.0 + RETRY_JITTER * (2.0 * fraction - 1.0))
    return min(delay, heartbeat_delay(interval, fraction))
