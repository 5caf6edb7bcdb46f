"""The loop: observe, reconcile, act, probe, report; then wait for whatever comes first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from praetor_agent.backends.probes import Probes
from praetor_agent.clock import Clock, Waker, rfc3339
from praetor_agent.core import restart
from praetor_agent.core.health import Health
from praetor_agent.core.model import Memory, ObservedDevice, Record, View
from praetor_agent.core.reconcile import Action, Decision, Fetch, Remove, Repair, Start, Stop, reconcile
from praetor_agent.errors import ArtifactGone, BackendError, StartError
from praetor_agent.host import Host, artifacts_of, revisions_of
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Reporter
from praetor_agent.state import Received, State, read_freeze

log = logging.getLogger(__name__)

MOST_ROUNDS = 4
"""Rounds of observing and acting in one pass: what was just started is seen, and reported, at once."""

RETRY_SECONDS = 5.0
"""Until an action that failed is tried again, and until it is looked again whether the device is still held or full."""

_DESIRED, _MEMORY = "the desired state", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the loop works with. While the file *hold* is there, nothing is changed."""

    state: State
    inbox: Inbox
    host: Host
    probes: Probes
    reporter: Reporter
    waker: Waker
    clock: Clock
    freeze_file: Path


class Loop:
    """Keeps the device as desired. One thread; nothing in a pass waits for a process."""

    def __init__(self, device: str, dependencies: Dependencies) -> None:
        self._device = device
        self._deps = dependencies
        self._memory: dict[str, Record] = dependencies.state.load_memory()
        self._written = dict(self._memory)
        self._received: Received | None = dependencies.inbox.latest()
        self._persistence_errors: dict[str, str] = {}
        self._retry_at: float | None = None
        self._repaired: set[str] = set()
        self._shown = View()
        self._stopping = False

    def stop(self) -> None:
        """End `run` soon; the processes stay. May be called from a signal handler."""
        self._stopping = True
        self._deps.waker.wake()

    def run(self) -> None:
        """Pass after pass until stopped."""
        while not self._stopping:
            wake_at, pids = self._guarded_step()
            if not self._stopping:
                self._deps.waker.wait(wake_at - self._deps.clock.now(), pids)
        self._deps.probes.close()

    def _guarded_step(self) -> tuple[float, tuple[int, ...]]:
        try:
            return self.step()
        except Exception:  # a bug met by one process must not leave the others without care
            log.exception("pass crashed")
            return self._deps.clock.now() + RETRY_SECONDS, ()

    def step(self) -> tuple[float, tuple[int, ...]]:
        """Make one pass; return when the next is due at the latest, and the processes whose end it shall not miss."""
        self._retry_at = None
        self._repaired.clear()
        self._receive()
        if self._received is not None:  # first, for what is fetched must not take the room of what is in use
            items = (*self._received.desired.items, *(revision.item for revision in revisions_of(self._memory)))
            self._deps.host.fetcher.keep(items, artifacts_of(self._memory))
        wakes: list[float | None] = []
        device, ask_at = self._look(), None
        before = _verdicts(self._deps.probes)
        if self._received is not None:
            device, plan = self._converge(self._received, device)
            wakes.append(plan.wake_at)
            ask_at = plan.ask_at
        wakes.append(self._deps.probes.step(self._memory, device))
        desired = self._received.desired if self._received is not None else None
        wakes.append(self._deps.reporter.step(desired, self._memory, device, self._deps.probes.health, ask_at))
        self._show()
        now = self._deps.clock.now()
        heard = ask_at is not None and device.heard_at != self._deps.reporter.heard_at
        if heard or before != _verdicts(self._deps.probes):
            wakes.append(now)  # what was just learnt may change what is to be done
        if device.freeze is not None or device.persistence_error is not None:
            wakes.append(now + (0.0 if device.freeze is None and self._why_not_persisted() is None else RETRY_SECONDS))
        wakes += [self._retry_at, self._deps.host.fetcher.next_at(now)]
        pids = tuple(seen.watch for seen in device.observed.values() if seen.watch is not None)
        return min((at for at in wakes if at is not None), default=now + 60.0), (
            *pids,
            *self._deps.probes.pids(),
        )

    def _show(self) -> None:
        """Leave for `praetor-agent status` what it could not know otherwise."""
        health = {
            uid: Health(handle=one.handle, next_at=0.0, healthy=one.healthy, message=one.message)
            for uid, one in self._deps.probes.health.items()
        }
        view = View(exchange=self._deps.reporter.exchange, health=health)
        if view != self._shown:
            self._shown = view
            with suppress(OSError):
                self._deps.state.save_view(view)

    def _look(self) -> ObservedDevice:
        return replace(
            self._deps.host.look(),
            health=dict(self._deps.probes.health),
            freeze=read_freeze(self._deps.freeze_file),
            confirmed=self._deps.state.confirmed(self._memory),
            heard_at=self._deps.reporter.heard_at,
            persistence_error=self._why_not_persisted(),
        )

    def _why_not_persisted(self) -> str | None:
        return next(iter(self._persistence_errors.values()), None) or self._deps.state.full()

    def _receive(self) -> None:
        latest = self._deps.inbox.latest()
        if latest is not None and latest is not self._received:
            items = len(latest.desired.items) + len(latest.desired.invalid)
            log.info("desired state changed items=%d etag=%s", items, latest.etag)
        elif latest is None or _DESIRED not in self._persistence_errors:
            return
        self._received = latest
        self._write(_DESIRED, lambda: self._deps.state.save_desired(self._device, latest))

    def _converge(self, received: Received, device: ObservedDevice) -> tuple[ObservedDevice, Decision]:
        for _ in range(MOST_ROUNDS):
            before = self._memory
            plan = self._decide(received, device)
            if self._persistence_errors and device.persistence_error is None:
                self._memory = before  # decide again, knowing that it cannot be written down
                device = replace(device, persistence_error=self._why_not_persisted())
                plan = self._decide(received, device)
            acted = [self._act(action) for action in plan.actions]
            if not any(acted):
                break
            self._remember(self._memory)
            device = self._look()
        return device, plan

    def _decide(self, received: Received, device: ObservedDevice) -> Decision:
        plan = reconcile(received.desired, device, self._memory, self._deps.clock.now())
        self._tell_restores(plan.memory)
        self._remember(self._with_output(plan.memory))
        return plan

    def _with_output(self, memory: Memory) -> Memory:
        """Return *memory* with the output of what has ended, asked for once and before a next run writes over it."""
        return {
            uid: replace(record, output_tail=self._deps.host.tail(record)) if restart.wants_output(record) else record
            for uid, record in memory.items()
        }

    def _tell_restores(self, memory: Memory) -> None:
        for uid, record in memory.items():
            old, given_up = self._memory.get(uid), record.rollback
            if given_up is not None and (old is None or old.rollback != given_up):
                why, message = given_up.reason, given_up.message
                log.error("version given up name=%s reason=%s message=%s", record.name, why, message)

    def _act(self, action: Action) -> bool:
        """Carry out one action; tell whether the device may have changed by it."""
        try:
            match action:
                case Fetch(item=item):
                    self._deps.host.fetcher.want(item, self._deps.clock.now())
                    return False
                case Start():
                    self._start(action)
                case Stop():
                    self._deps.host.stop(action, self._memory.get(action.uid))
                case Remove():
                    self._deps.host.remove(action)
                    self._deps.host.collect(self._memory)
                case Repair():
                    return self._repair(action)
        except (BackendError, OSError) as e:
            log.warning("action failed action=%s reason=%s", type(action).__name__.lower(), e)
            self._retry_at = self._deps.clock.now() + RETRY_SECONDS
            return False
        return True

    def _repair(self, action: Repair) -> bool:
        """Repair once in a pass, however many rounds it has: somebody may be quicker to change it again."""
        uid = action.revision.item.uid
        if uid in self._repaired:
            return False
        self._repaired.add(uid)
        self._deps.host.repair(action)
        self._memory[uid] = restart.repaired(self._memory[uid])
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
            log.warning("cannot start process name=%s reason=%s", record.name, e)
            self._memory[uid] = restart.start_failed(record, str(e), self._deps.clock.now())
        else:
            self._memory[uid] = restart.started(record, rfc3339(self._deps.clock.wall()))

    def _remember(self, memory: Memory) -> None:
        """Keep *memory*, on disk too if it changed: what is about to be done is written before it is done."""
        self._memory = dict(memory)
        if _MEMORY in self._persistence_errors or self._memory != self._written:
            self._write(_MEMORY, lambda: self._deps.state.save_memory(self._memory))
            if _MEMORY not in self._persistence_errors:
                self._written = dict(self._memory)

    def _write(self, what: str, save: Callable[[], None]) -> None:
        """Save *what*; why that cannot be is kept until it can."""
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
