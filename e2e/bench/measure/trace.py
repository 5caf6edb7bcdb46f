# SPDX-License-Identifier: Apache-2.0
"""Follow control through the files of the wheels: how many files a piece of work enters, and how often."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from attrs import define, field, frozen

from e2e.bench.measure.context import ROOT

WHEELS = f"{ROOT / 'packages'}{os.sep}"
SOURCES = f"{os.sep}src{os.sep}"
SYNCS = (os.fsync, os.fdatasync)


@frozen
class Counts:
    """How many *files* were entered, in how many *moves*, and how often a file was flushed to disk."""

    files: int
    moves: int
    fsyncs: int


@define
class Trace:
    """Counts while it is *active*; a move is a call that enters another file of the wheels than the call before."""

    active: bool = False
    moves: int = 0
    fsyncs: int = 0
    files: set[str] = field(factory=set)
    calls: Counter[CodeType] = field(factory=Counter)
    _current: dict[int, str] = field(factory=dict)  # the file that each thread is in

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        return Counts(len(self.files), self.moves, self.fsyncs)

    def calls_of(self, function: Callable[..., object]) -> int:
        """Return how often *function* was called."""
        return self.calls[function.__code__]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Count in the block."""
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count one event; the interpreter calls this one."""
        if not self.active:
            return
        if event == "c_call" and argument in SYNCS:
            self.fsyncs += 1
        elif event == "call" and _is_ours(frame.f_code):
            self.calls[frame.f_code] += 1
            file, thread = frame.f_code.co_filename, threading.get_ident()
            if self._current.get(thread) != file:
                self._current[thread] = file
                self.files.add(file)
                self.moves += 1


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(WHEELS) and SOURCES in code.co_filename


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """Let *trace* follow this thread in the block, and the threads that are started in it."""
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
