"""Takes decisions down in a thread of its own: the controller neither waits for it nor fails with it.

What it cannot keep up with, or cannot write, is counted and lost. What it was given must not change afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self, TypeAlias

import structlog
from attrs import evolve, frozen

from praetor_api.kube.runtime.clock import Clock
from praetor_controller.__about__ import __version__
from praetor_controller.journal.entry import Decision, Written, entry
from praetor_controller.journal.tape import Tape
from praetor_controller.metrics import Metrics
from praetor_controller.rollout.snapshot import Snapshot

MOST_ROWS = 2_000_000
"""So many rows may wait. They are the cache's own, so this bounds how old what they keep alive can be."""
RETRY_S = 30.0
_BREATH_S = 0.001
_LAST_WORDS_S = 3.0

_log = structlog.get_logger(__name__)


@frozen
class _Forget:
    uid: str


_Item: TypeAlias = Decision | _Forget


class FlightRecorder:
    """Records decisions while its context is entered."""

    def __init__(self, tape: Tape, metrics: Metrics, clock: Clock) -> None:
        self._tape = tape
        self._metrics = metrics
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._news = threading.Condition()
        self._rows = 0
        self._lost = 0
        self._ending = False
        self._failing = False
        self._retry_at = 0.0
        self._written: dict[str, Written] = {}
        self._thread = threading.Thread(target=self._run, name="flight recorder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join(_LAST_WORDS_S)

    def record(self, decision: Decision) -> None:
        """Have *decision* taken down, or lose it; returns at once. Its names must be listening ones."""
        snapshot = _heard(decision.snapshot)
        weight = _weight(snapshot)
        with self._news:
            if self._rows and self._rows + weight > MOST_ROWS:
                self._lose("behind")
                return
            self._rows += weight
            self._items.append(evolve(decision, snapshot=snapshot))
            self._news.notify()

    def forget(self, uid: str) -> None:
        """Keep nothing of a deployment that is gone."""
        with self._news:
            self._items.append(_Forget(uid))
            self._news.notify()

    def _run(self) -> None:
        for item in self._waiting():
            try:
                self._take(item)
            except OSError as e:
                self._fail(e)
            except Exception:  # a bug here must not end the recording of other deployments
                self._lose("crashed")
                self._written.clear()
                _log.exception("flight recorder crashed")
        self._tape.close()

    def _waiting(self) -> Iterator[_Item]:
        while True:
            with self._news:
                while not self._items and not self._ending:
                    self._news.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._rows -= _weight(item.snapshot) if isinstance(item, Decision) else 0
            yield item

    def _take(self, item: _Item) -> None:
        if isinstance(item, _Forget):
            self._written.pop(item.uid, None)
        elif self._opened():
            self._write(item)
        else:
            self._lose("unwritable")

    def _opened(self) -> bool:
        if self._tape.is_open:
            return True
        if self._failing and self._clock.monotonic() < self._retry_at:
            return False
        self._written.clear()
        self._tape.open()
        return True

    def _write(self, made: Decision) -> None:
        uid = made.snapshot.deployment.uid
        lost = self._lost
        line, written = entry(self._written.get(uid), made, __version__, lost, self._breathe)
        if not self._tape.fits(line):
            self._written.clear()
            self._tape.turn()
            line, written = entry(None, made, __version__, lost, self._breathe)
            if not self._tape.fits(line):
                self._lose("too_large")
                return
        self._tape.write(line)
        self._written[uid] = written
        with self._news:
            self._lost -= lost
        self._metrics.recorded.labels("written").inc()
        self._metrics.recorded_bytes.inc(len(line))
        if self._failing:
            self._failing = False
            _log.info("flight recorder writes again")

    def _fail(self, error: OSError) -> None:
        self._tape.close()
        self._retry_at = self._clock.monotonic() + RETRY_S
        self._lose("unwritable")
        if not self._failing:
            self._failing = True
            _log.warning("cannot record decisions, will try again", error=str(error))

    def _lose(self, why: str) -> None:
        with self._news:
            self._lost += 1
        self._metrics.recorded.labels(why).inc()

    def _breathe(self) -> None:
        """Let the event loop have the interpreter."""
        if not self._ending:
            time.sleep(_BREATH_S)


def _weight(snapshot: Snapshot) -> int:
    return 1 + len(snapshot.devices) + len(snapshot.processes)


class Listening:
    """A container of names that remembers which of those it was asked for it has."""

    def __init__(self, names: object) -> None:
        self._names = names
        self.heard: set[str] = set()

    def __contains__(self, name: object) -> bool:
        found = name in self._names  # type: ignore[operator]
        if found:
            self.heard.add(str(name))
        return found


def listening(snapshot: Snapshot) -> Snapshot:
    """Return *snapshot* with names that remember what the planner asked them: all that it knows of them."""
    return evolve(snapshot, taken_names=Listening(snapshot.taken_names), leftovers=Listening(snapshot.leftovers))


def _heard(snapshot: Snapshot) -> Snapshot:
    taken, leftovers = snapshot.taken_names, snapshot.leftovers
    return evolve(
        snapshot,
        taken_names=frozenset(taken.heard) if isinstance(taken, Listening) else taken,
        leftovers=frozenset(leftovers.heard) if isinstance(leftovers, Listening) else leftovers,
    )
