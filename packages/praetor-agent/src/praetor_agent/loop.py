# SPDX-License-Identifier: Apache-2.0
"""The loop: observe, reconcile, act, probe, offer a report; then wait for the next event, never for the network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path

from praetor_agent.backends.probes import Probes
from praetor_agent.clock import PROGRESS, Clock, Waker, rfc3339
from praetor_agent.core import restart
from praetor_agent.core.faults import known_faults
from praetor_agent.core.health import Health
from praetor_agent.core.masking import Masking
from praetor_agent.core.model import Failure, FailureReason, Memory, ObservedDevice, Record, View
from praetor_agent.core.reconcile import Action, Decision, Fetch, Refresh, Remove, Repair, Start, Stop, reconcile
from praetor_agent.core.refresh import refreshed
from praetor_agent.errors import ArtifactGone, BackendError, FileError, StartError, unforeseen
from praetor_agent.host import Host, artifacts_of, revisions_of
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.state import Received, State, read_freeze
from praetor_api.backports import dataclass
from praetor_api.conditions import PROVING_SECONDS
from praetor_api.protocol import DesiredItem

log = logging.getLogger(__name__)

MAX_ROUNDS = 4
"""Rounds of observing and acting in one pass, so that a process is seen, and reported, in the pass that started it."""

RETRY_SECONDS = 5.0
"""Until a failed action is retried, and until the freeze file and a full disk are checked again."""

IDLE_SECONDS = 20.0
"""Between two passes at most, though nothing happens."""

_DESIRED, _MEMORY = "the desired state", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the loop works with. Nothing is changed while *freeze_file* exists, and a version proves itself by running
    for *proving_seconds*. *beat* is called when the loop makes progress, and *masking* is told which Secrets there are.
    """

    state: State
    inbox: Inbox
    host: Host
    probes: Probes
    reporter: Reporter
    waker: Waker
    clock: Clock
    freeze_file: Path
    proving_seconds: float = PROVING_SECONDS
    beat: Callable[[], None] = lambda: None
    masking: Masking = field(default_factory=Masking)


class Loop:
    """Brings *device* to its desired state. One thread; no pass waits for a process or for the network."""

    def __init__(self, device: str, dependencies: Dependencies) -> None:
        self._device = device
        self._deps = dependencies
        self._memory: dict[str, Record] = dependencies.state.load_memory()
        self._received: Received | None = dependencies.inbox.latest()
        self._persistence_errors: dict[str, str] = {}
        self._retry_at: float | None = None
        self._repaired: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._faults = known_faults(self._desired_items())
        self._shown = View()
        self._crashed = False
        self._stopping = False

    def stop(self) -> None:
        """End `run` soon; the processes keep running. Safe in a signal handler."""
        self._stopping = True
        self._deps.waker.wake()

    def run(self) -> None:
        """Make passes until stopped."""
        PROGRESS.set(self._progress)
        while not self._stopping:
            wake_at, pids = self._guarded_step()
            while not self._waited(wake_at, pids):
                self._save_view()
        self._deps.probes.close()

    def _waited(self, wake_at: float, pids: tuple[int, ...]) -> bool:
        """Wait until then; return False if all that is new is to be shown."""
        self._progress()
        return self._stopping or self._deps.waker.wait(wake_at - self._deps.clock.now(), pids)

    def _guarded_step(self) -> tuple[float, tuple[int, ...]]:
        try:
            wakes = self.step()
            self._crashed = False
            return wakes
        except Exception:  # what one process meets is met where it is; this is what is common to all
            log.exception("pass crashed")
            self._crashed = True
            return self._deps.clock.now() + RETRY_SECONDS, ()

    def _progress(self) -> None:
        """Record progress, however long the pass takes; there is none while passes crash before their report."""
        if not self._crashed:
            self._deps.beat()

    def step(self) -> tuple[float, tuple[int, ...]]:
        """Make one pass; return the latest time of the next pass, and the pids whose end must cause one earlier."""
        self._retry_at = None
        self._repaired.clear()
        self._failures.clear()
        self._receive()
        items = (*self._desired_items(), *(revision.item for revision in revisions_of(self._memory)))
        self._learn_secrets(items)
        if self._received is not None:  # first, so that a download makes no room at the cost of what is in use
            self._deps.host.keep_artifacts(items, self._memory)
        wakes: list[float | None] = []
        (device, now), ask_at = self._observe(), None
        before = _verdicts(self._deps.probes)
        if self._received is not None:
            device, now, decision = self._converge(self._received, device, now)
            wakes.append(decision.wake_at)
            ask_at = decision.ask_at
            self._collect_files(self._received, device)
        probes = self._deps.probes
        wakes.append(probes.step(self._memory, device))
        desired = self._received.desired if self._received is not None else None
        self._deps.reporter.offer(desired, self._memory, device, probes.health, now, ask_at)
        self._save_view()
        learned = before != _verdicts(probes)
        retry_at = self._deps.host.fetcher.next_at(now) if self._deps.host.has_artifacts else None
        if learned:
            wakes.append(now)  # what this pass learned may change the decision
        if device.freeze is not None or device.persistence_error is not None:
            solved = device.freeze is None and self._persistence_error() is None
            wakes.append(now if solved else now + RETRY_SECONDS)
        wakes += [self._retry_at, retry_at, now + IDLE_SECONDS]
        pids = tuple(seen.watch for seen in device.observed.values() if seen.watch is not None)
        return min(at for at in wakes if at is not None), (*pids, *(probes.pids() if probes.health else ()))

    def _desired_items(self) -> tuple[DesiredItem, ...]:
        return self._received.desired.items if self._received is not None else ()

    def _learn_secrets(self, items: tuple[DesiredItem, ...]) -> None:
        """Know what must not be said of *items*, the versions that are to run, run, or may run again."""
        if self._deps.masking.texts or any(item.values or item.file_values for item in items):
            self._deps.masking.learn(items)

    def _save_view(self) -> None:
        """Store for `praetor-agent status` what only this agent knows."""
        health = {
            uid: Health(handle=one.handle, next_at=0.0, healthy=one.healthy, message=one.message)
            for uid, one in self._deps.probes.health.items()
        }
        view = View(exchange=self._deps.reporter.exchange, health=health)
        if view != self._shown:
            self._shown = view
            with suppress(OSError):
                self._deps.state.save_view(view)

    def _observe(self) -> tuple[ObservedDevice, float]:
        """Return the device as it is, and when that was, in seconds since boot."""
        seen = self._deps.host.observe()
        edited_files = self._deps.host.edited_files(seen.observed)
        file_problems = self._file_problems()
        persistence_error = self._persistence_error()
        device = replace(
            seen,
            health=dict(self._deps.probes.health),
            freeze=read_freeze(self._deps.freeze_file),
            confirmed=self._deps.state.confirmed(self._memory),
            heard_at=self._deps.reporter.heard_at,
            persistence_error=persistence_error,
            proving_seconds=self._deps.proving_seconds,
            file_problems=file_problems,
            edited_files=edited_files,
        )
        self._progress()
        return device, self._deps.clock.now()

    def _file_problems(self) -> dict[str, Failure]:
        """Return by uid why the files of a version that does not run yet cannot be written."""
        items = [item for item in self._desired_items() if item.spec.execution.files]
        known = {item.uid: self._memory[item.uid].spec_hash for item in items if item.uid in self._memory}
        found = {
            item.uid: self._deps.host.file_problem(item) for item in items if known.get(item.uid) != item.spec_hash
        }
        return {uid: problem for uid, problem in found.items() if problem is not None}

    def _collect_files(self, received: Received, device: ObservedDevice) -> None:
        """Remove the files of processes that are gone, unless some are unknown."""
        if self._deps.state.newer is None and device.freeze is None:
            wanted = {item.uid for item in received.desired.items} | {bad.uid for bad in received.desired.invalid}
            self._deps.host.collect_files({*wanted, *self._memory, *device.observed, *device.unseen})

    def _persistence_error(self) -> str | None:
        return next(iter(self._persistence_errors.values()), None) or self._deps.state.newer or self._deps.state.full()

    def _receive(self) -> None:
        latest = self._deps.inbox.latest()
        if latest is not None and latest is not self._received:
            items = len(latest.desired.items) + len(latest.desired.invalid)
            log.info("desired state changed items=%d etag=%s", items, latest.etag)
        elif latest is None or _DESIRED not in self._persistence_errors:
            return
        self._received, self._faults = latest, known_faults(latest.desired.items)
        self._persist(_DESIRED, lambda: self._deps.state.save_desired(self._device, latest))

    def _converge(
        self, received: Received, device: ObservedDevice, now: float
    ) -> tuple[ObservedDevice, float, Decision]:
        """Decide and act until nothing is left to do; return the device, when it was so, and the last decision."""
        for _ in range(MAX_ROUNDS):
            before = self._memory
            decision = self._decide(received, device, now)
            if self._persistence_errors and device.persistence_error is None:
                self._memory = before  # decide again, knowing that the decision cannot be stored
                device = replace(device, persistence_error=self._persistence_error())
                decision = self._decide(received, device, now)
            acted = False
            for action in decision.actions:
                acted |= self._act(action)
                self._progress()
            if not acted:
                break
            self._remember(self._memory)
            device, now = self._observe()
        for uid, failure in self._failures.items():  # a later round of this pass did not try again
            if uid in self._memory and self._memory[uid].failure is None:
                self._memory[uid] = replace(self._memory[uid], failure=failure)
        return device, now, decision

    def _decide(self, received: Received, device: ObservedDevice, now: float) -> Decision:
        decision = reconcile(received.desired, device, self._memory, now, self._faults)
        self._log_rollbacks(decision.memory)
        self._remember(self._with_output(decision.memory))
        return decision

    def _with_output(self, memory: Memory) -> Memory:
        """Return *memory* with the output of each run that ended, which the next run would overwrite."""
        return {
            uid: replace(record, output_tail=self._deps.host.tail(record))
            if record.termination_reason is not None and restart.wants_output(record)
            else record
            for uid, record in memory.items()
        }

    def _log_rollbacks(self, memory: Memory) -> None:
        for uid, record in memory.items():
            old, rollback = self._memory.get(uid), record.rollback
            if rollback is not None and (old is None or old.rollback != rollback):
                reason, message = rollback.reason, rollback.message
                log.error("version rolled back name=%s reason=%s message=%s", record.name, reason, message)

    def _act(self, action: Action) -> bool:
        """Carry out one action; return whether the device may have changed by it."""
        try:
            if isinstance(action, Fetch):
                self._deps.host.fetcher.want(action.item, self._deps.clock.now())
                return False
            if isinstance(action, Repair):
                return self._repair(action)
            if isinstance(action, Refresh):
                return self._refresh(action)
            if isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Stop):
                self._deps.host.stop(action, self._memory.get(action.uid))
            else:
                self._deps.host.remove(action)
                if self._deps.state.newer is None:  # else some in use are unknown
                    self._deps.host.fetcher.collect(artifacts_of(self._memory))
        except (BackendError, OSError) as e:
            log.warning("action failed action=%s reason=%s", type(action).__name__.lower(), e)
            self._retry_at = self._deps.clock.now() + RETRY_SECONDS
            return False
        except Exception as e:  # what one process meets must not stop the supervision of the others
            log.exception("action crashed action=%s", type(action).__name__.lower())
            self._blame(action, unforeseen(e))
            self._retry_at = self._deps.clock.now() + RETRY_SECONDS
            return False
        return True

    def _blame(self, action: Action, why: str) -> None:
        """Say in the status of the process of *action* why it cannot be carried out."""
        if isinstance(action, (Stop, Remove)):
            uid = action.uid
        else:
            uid = action.item.uid if isinstance(action, Fetch) else action.revision.item.uid
        files = isinstance(action, Refresh)
        reason = FailureReason.FILES_NOT_WRITTEN if files else FailureReason.BACKEND_UNAVAILABLE
        self._failures[uid] = Failure(reason=reason, message=why)

    def _repair(self, action: Repair) -> bool:
        """Repair at most once in a pass: what changed the definition may change it again before the next round."""
        uid = action.revision.item.uid
        if uid in self._repaired:
            return False
        self._repaired.add(uid)
        self._deps.host.repair(action)
        if action.edited:
            self._memory[uid] = restart.repaired(self._memory[uid])
        return True

    def _refresh(self, action: Refresh) -> bool:
        """Give a process its files, at most once in a pass."""
        uid = action.revision.item.uid
        if f"files/{uid}" in self._repaired:
            return False
        self._repaired.add(f"files/{uid}")
        record = self._memory[uid]
        try:
            written = self._deps.host.refresh(action)
        except FileError as e:
            self._blame(action, str(e))
            raise
        if record.spec_hash == action.revision.spec_hash:
            if record.current != action.revision:
                log.info("files have new contents name=%s paths=%s", record.name, ",".join(written))
                self._memory[uid] = replace(record, current=action.revision)
            elif written:
                log.warning("files were changed, written again name=%s paths=%s", record.name, ",".join(written))
                self._memory[uid] = restart.repaired(record)
        else:
            boot_id, now = self._deps.host.boot_id, self._deps.clock.now()
            self._memory[uid] = refreshed(self._memory, action.revision, boot_id, now)
        return True

    def _start(self, action: Start) -> None:
        uid = action.revision.item.uid
        record = self._memory[uid]
        try:
            self._deps.host.start(action)
        except ArtifactGone as e:
            log.warning("fetching again name=%s reason=%s", record.name, e)
            self._memory[uid] = restart.artifact_gone(record)
        except StartError as e:
            self._not_started(record, str(e))
        except BackendError:
            raise
        except Exception as e:  # what one process meets must not stop the supervision of the others
            self._not_started(record, unforeseen(e), crashed=True)
        else:
            self._failures.pop(uid, None)
            self._memory[uid] = restart.started(record, rfc3339(self._deps.clock.wall()))

    def _not_started(self, record: Record, why: str, *, crashed: bool = False) -> None:
        log.warning("cannot start process name=%s reason=%s", record.name, why, exc_info=crashed)
        self._memory[record.uid] = restart.start_failed(record, why, self._deps.clock.now())

    def _remember(self, memory: Memory) -> None:
        """Keep *memory*, and store it before the actions that follow from it."""
        self._memory = dict(memory)
        self._persist(_MEMORY, lambda: self._deps.state.save_memory(self._memory))

    def _persist(self, what: str, save: Callable[[], None]) -> None:
        """Call *save*; while that fails, keep the reason."""
        try:
            save()
        except OSError as e:
            reason = e.strerror or str(e)
            if self._persistence_errors.get(what) != reason:
                log.error("cannot write %s to disk reason=%s", what, e)
            self._persistence_errors[what] = reason
        else:
            self._persistence_errors.pop(what, None)


def _verdicts(probes: Probes) -> dict[str, bool | None]:
    return {uid: health.healthy for uid, health in probes.health.items()}
