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
from praetor_agent.core.model import Memory, Record, View, World
from praetor_agent.core.reconcile import Action, Fetch, Plan, Remove, Repair, Start, Stop, reconcile
from praetor_agent.errors import ArtifactGone, BackendError, StartError
from praetor_agent.host import Host, artifacts_of, revisions_of
from praetor_agent.link.poller import Inbox
from praetor_agent.link.reporter import Teller
from praetor_agent.state import Received, State, read_hold

log = logging.getLogger(__name__)

MOST_ROUNDS = 4
"""Rounds of observing and acting in one pass: what was just started is seen, and reported, at once."""

RETRY_SECONDS = 5.0
"""Until an action that failed is tried again, and until it is looked again whether the device is still held or full."""

_DESIRED, _MEMORY = "the desired state", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop works with. While the file *hold* is there, nothing is changed."""

    state: State
    inbox: Inbox
    host: Host
    probes: Probes
    teller: Teller
    waker: Waker
    clock: Clock
    hold: Path


class Loop:
    """Keeps the device as desired. One thread; nothing in a pass waits for a process."""

    def __init__(self, device: str, parts: Parts) -> None:
        self._device = device
        self._parts = parts
        self._memory: dict[str, Record] = parts.state.load_memory()
        self._written = dict(self._memory)
        self._received: Received | None = parts.inbox.latest()
        self._unwritten: dict[str, str] = {}
        self._retry_at: float | None = None
        self._repaired: set[str] = set()
        self._shown = View()
        self._stopping = False

    def stop(self) -> None:
        """End `run` soon; the processes stay. May be called from a signal handler."""
        self._stopping = True
        self._parts.waker.wake()

    def run(self) -> None:
        """Pass after pass until stopped."""
        while not self._stopping:
            wake_at, pids = self._guarded_step()
            if not self._stopping:
                self._parts.waker.wait(wake_at - self._parts.clock.now(), pids)
        self._parts.probes.close()

    def _guarded_step(self) -> tuple[float, tuple[int, ...]]:
        try:
            return self.step()
        except Exception:  # a bug met by one process must not leave the others without care
            log.exception("pass crashed")
            return self._parts.clock.now() + RETRY_SECONDS, ()

    def step(self) -> tuple[float, tuple[int, ...]]:
        """Make one pass; return when the next is due at the latest, and the processes whose end it shall not miss."""
        self._retry_at = None
        self._repaired.clear()
        self._receive()
        if self._received is not None:  # first, for what is fetched must not take the room of what is in use
            items = (*self._received.desired.items, *(revision.item for revision in revisions_of(self._memory)))
            self._parts.host.fetcher.keep(items, artifacts_of(self._memory))
        wakes: list[float | None] = []
        world, ask_at = self._look(), None
        before = _verdicts(self._parts.probes)
        if self._received is not None:
            world, plan = self._converge(self._received, world)
            wakes.append(plan.wake_at)
            ask_at = plan.ask_at
        wakes.append(self._parts.probes.step(self._memory, world))
        desired = self._received.desired if self._received is not None else None
        wakes.append(self._parts.teller.step(desired, self._memory, world, self._parts.probes.health, ask_at))
        self._show()
        now = self._parts.clock.now()
        heard = ask_at is not None and world.heard_at != self._parts.teller.heard_at
        if heard or before != _verdicts(self._parts.probes):
            wakes.append(now)  # what was just learnt may change what is to be done
        if world.hold is not None or world.unwritten is not None:
            wakes.append(now + (0.0 if world.hold is None and self._why_unwritten() is None else RETRY_SECONDS))
        wakes += [self._retry_at, self._parts.host.fetcher.next_at(now)]
        pids = tuple(seen.watch for seen in world.observed.values() if seen.watch is not None)
        return min((at for at in wakes if at is not None), default=now + 60.0), (*pids, *self._parts.probes.pids())

    def _show(self) -> None:
        """Leave for `praetor-agent status` what it could not know otherwise."""
        health = {
            uid: Health(handle=one.handle, next_at=0.0, healthy=one.healthy, message=one.message)
            for uid, one in self._parts.probes.health.items()
        }
        view = View(exchange=self._parts.teller.exchange, health=health)
        if view != self._shown:
            self._shown = view
            with suppress(OSError):
                self._parts.state.save_view(view)

    def _look(self) -> World:
        return replace(
            self._parts.host.look(),
            health=dict(self._parts.probes.health),
            hold=read_hold(self._parts.hold),
            confirmed=self._parts.state.confirmed(self._memory),
            heard_at=self._parts.teller.heard_at,
            unwritten=self._why_unwritten(),
        )

    def _why_unwritten(self) -> str | None:
        return next(iter(self._unwritten.values()), None) or self._parts.state.full()

    def _receive(self) -> None:
        latest = self._parts.inbox.latest()
        if latest is not None and latest is not self._received:
            items = len(latest.desired.items) + len(latest.desired.invalid)
            log.info("desired state changed items=%d etag=%s", items, latest.etag)
        elif latest is None or _DESIRED not in self._unwritten:
            return
        self._received = latest
        self._write(_DESIRED, lambda: self._parts.state.save_desired(self._device, latest))

    def _converge(self, received: Received, world: World) -> tuple[World, Plan]:
        for _ in range(MOST_ROUNDS):
            before = self._memory
            plan = self._decide(received, world)
            if self._unwritten and world.unwritten is None:
                self._memory = before  # decide again, knowing that it cannot be written down
                world = replace(world, unwritten=self._why_unwritten())
                plan = self._decide(received, world)
            acted = [self._act(action) for action in plan.actions]
            if not any(acted):
                break
            self._remember(self._memory)
            world = self._look()
        return world, plan

    def _decide(self, received: Received, world: World) -> Plan:
        plan = reconcile(received.desired, world, self._memory, self._parts.clock.now())
        self._tell_restores(plan.memory)
        self._remember(self._with_output(plan.memory))
        return plan

    def _with_output(self, memory: Memory) -> Memory:
        """Return *memory* with the output of what has ended, asked for once and before a next run writes over it."""
        return {
            uid: replace(record, output_tail=self._parts.host.tail(record)) if restart.wants_output(record) else record
            for uid, record in memory.items()
        }

    def _tell_restores(self, memory: Memory) -> None:
        for uid, record in memory.items():
            old, given_up = self._memory.get(uid), record.rollback
            if given_up is not None and (old is None or old.rollback != given_up):
                why, message = given_up.reason, given_up.message
                log.error("version given up name=%s reason=%s message=%s", record.name, why, message)

    def _act(self, action: Action) -> bool:
        """Carry out one action; tell whether the world may have changed by it."""
        try:
            match action:
                case Fetch(item=item):
                    self._parts.host.fetcher.want(item, self._parts.clock.now())
                    return False
                case Start():
                    self._start(action)
                case Stop():
                    self._parts.host.stop(action, self._memory.get(action.uid))
                case Remove():
                    self._parts.host.remove(action)
                    self._parts.host.collect(self._memory)
                case Repair():
                    return self._repair(action)
        except (BackendError, OSError) as e:
            log.warning("action failed action=%s reason=%s", type(action).__name__.lower(), e)
            self._retry_at = self._parts.clock.now() + RETRY_SECONDS
            return False
        return True

    def _repair(self, action: Repair) -> bool:
        """Repair once in a pass, however many rounds it has: somebody may be quicker to change it again."""
        uid = action.revision.item.uid
        if uid in self._repaired:
            return False
        self._repaired.add(uid)
        self._parts.host.repair(action)
        self._memory[uid] = restart.repaired(self._memory[uid])
        return True

    def _start(self, action: Start) -> None:
        uid = action.revision.item.uid
        record = self._memory[uid]
        try:
            self._parts.host.start(action)
        except ArtifactGone as e:
            log.warning("fetching again name=%s reason=%s", record.name, e)
            self._memory[uid] = restart.artifact_gone(record)
        except StartError as e:
            log.warning("cannot start process name=%s reason=%s", record.name, e)
            self._memory[uid] = restart.start_failed(record, str(e), self._parts.clock.now())
        else:
            self._memory[uid] = restart.started(record, rfc3339(self._parts.clock.wall()))

    def _remember(self, memory: Memory) -> None:
        """Keep *memory*, on disk too if it changed: what is about to be done is written before it is done."""
        self._memory = dict(memory)
        if _MEMORY in self._unwritten or self._memory != self._written:
            self._write(_MEMORY, lambda: self._parts.state.save_memory(self._memory))
            if _MEMORY not in self._unwritten:
                self._written = dict(self._memory)

    def _write(self, what: str, save: Callable[[], None]) -> None:
        """Save *what*; why that cannot be is kept until it can."""
        try:
            save()
        except OSError as e:
            reason = e.strerror or str(e)
            if self._unwritten.get(what) != reason:
                log.error("cannot write %s to disk reason=%s", what, e)
            self._unwritten[what] = reason
        else:
            self._unwritten.pop(what, None)


def _verdicts(probes: Probes) -> dict[str, bool | None]:
    return {uid: health.healthy for uid, health in probes.health.items()}
