# SPDX-License-Identifier: Apache-2.0
"""Records decisions in a thread of its own: the controller neither waits for it nor fails with it.

Decisions that it cannot keep up with, or cannot write, are counted and lost. What it was given must not change
afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Container, Iterator
from typing import Self, TypeAlias

import structlog
from attrs import evolve, frozen

from praetor_api.kube.runtime.clock import Clock
from praetor_controller.__about__ import __version__
from praetor_controller.journal.entry import Decision, Written, entry
from praetor_controller.journal.rotating_file import RotatingFile
from praetor_controller.metrics import Metrics
from praetor_controller.model.specs import variants
from praetor_controller.rollout.snapshot import Snapshot

MAX_QUEUED_ROWS = 2_000_000
"""The most rows that may wait: ten decisions over 100,000 devices and as many processes. The cache shares the rows."""
RETRY_S = 30.0
"""How long to wait before a file that could not be written is tried again, in seconds."""
_PAUSE_S = 0.001
_CLOSE_TIMEOUT_S = 3.0

_log = structlog.get_logger(__name__)


@frozen
class _Forget:
    uid: str


_Item: TypeAlias = Decision | _Forget


class FlightRecorder:
    """Records decisions to *file* while its context is entered."""

    def __init__(self, file: RotatingFile, metrics: Metrics, clock: Clock) -> None:
        self._file = file
        self._metrics = metrics
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._wakeup = threading.Condition()
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
        with self._wakeup:
            self._ending = True
            self._wakeup.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def record(self, decision: Decision) -> None:
        """Queue *decision*, or lose it when too much waits; return at once. Its snapshot is from tracked()."""
        snapshot = _asked(decision.snapshot)
        weight = _weight(snapshot)
        with self._wakeup:
            if self._rows and self._rows + weight > MAX_QUEUED_ROWS:
                self._lose("behind")
                return
            self._rows += weight
            self._items.append(evolve(decision, snapshot=snapshot))
            self._wakeup.notify()

    def forget(self, uid: str) -> None:
        """Free what is kept of a deployment that was deleted."""
        with self._wakeup:
            self._items.append(_Forget(uid))
            self._wakeup.notify()

    def _run(self) -> None:
        for item in self._waiting():
            try:
                self._handle(item)
            except OSError as e:
                self._fail(e)
            except Exception:  # a bug here must not end the recording of other deployments
                self._lose("crashed")
                self._written.clear()
                _log.exception("flight recorder crashed")
        self._file.close()

    def _waiting(self) -> Iterator[_Item]:
        while True:
            with self._wakeup:
                while not self._items and not self._ending:
                    self._wakeup.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._rows -= _weight(item.snapshot) if isinstance(item, Decision) else 0
            yield item

    def _handle(self, item: _Item) -> None:
        if isinstance(item, _Forget):
            self._written.pop(item.uid, None)
        elif self._opened():
            self._write(item)
        else:
            self._lose("unwritable")

    def _opened(self) -> bool:
        if self._file.is_open:
            return True
        if self._failing and self._clock.monotonic() < self._retry_at:
            return False
        self._written.clear()
        self._file.open()
        return True

    def _write(self, made: Decision) -> None:
        uid = made.snapshot.deployment.uid
        lost = self._lost
        line, written = entry(self._written.get(uid), made, __version__, lost, self._pause)
        if not self._file.fits(line):
            self._written.clear()
            self._file.rotate()
            line, written = entry(None, made, __version__, lost, self._pause)
            if not self._file.fits(line):
                self._lose("too_large")
                return
        self._file.write(line)
        self._written[uid] = written
        with self._wakeup:
            self._lost -= lost
        self._metrics.recorded.labels("written").inc()
        self._metrics.recorded_bytes.inc(len(line))
        if self._failing:
            self._failing = False
            _log.info("flight recorder writes again")

    def _fail(self, error: OSError) -> None:
        self._file.close()
        self._retry_at = self._clock.monotonic() + RETRY_S
        self._lose("unwritable")
        if not self._failing:
            self._failing = True
            _log.warning("cannot record decisions, will try again", error=str(error))

    def _lose(self, why: str) -> None:
        with self._wakeup:
            self._lost += 1
        self._metrics.recorded.labels(why).inc()

    def _pause(self) -> None:
        """Let other threads run, the event loop above all."""
        if not self._ending:
            time.sleep(_PAUSE_S)


def _weight(snapshot: Snapshot) -> int:
    return 1 + len(snapshot.devices) + len(snapshot.processes)


class TrackedNames:
    """A container of names that records which of its names it was asked for."""

    def __init__(self, names: object) -> None:
        self._names = names
        self.found: set[str] = set()

    def __contains__(self, name: object) -> bool:
        found = name in self._names  # type: ignore[operator]
        if found:
            self.found.add(str(name))
        return found


def tracked(snapshot: Snapshot) -> Snapshot:
    """Return *snapshot* with containers of names that record what the planner asks them: all it learns of them.

    It has what the overrides make of its templates, too, which cannot be made again from what is recorded of them.
    """
    return evolve(
        snapshot,
        variants=variants((snapshot.deployment.template, snapshot.current), snapshot.devices),
        taken_names=TrackedNames(snapshot.taken_names),
        leftovers=TrackedNames(snapshot.leftovers),
        occupied=TrackedNames(snapshot.occupied),
    )


def _asked(snapshot: Snapshot) -> Snapshot:
    def asked(names: Container[str]) -> Container[str]:
        return frozenset(names.found) if isinstance(names, TrackedNames) else names

    return evolve(
        snapshot,
        taken_names=asked(snapshot.taken_names),
        leftovers=asked(snapshot.leftovers),
        occupied=asked(snapshot.occupied),
    )
