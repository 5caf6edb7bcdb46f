# SPDX-License-Identifier: Apache-2.0
"""Traces: the steps of a search, to be replayed, and shortened to those that a violation needs.

A search draws its steps at random; Hypothesis' own shrinking knows no time limit, and may take hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Step: TypeAlias = tuple[str, dict[str, Any]]
"""The name of a rule, and what it was given."""
Trace: TypeAlias = Sequence[Step]


def shortened(trace: Trace, fails: Callable[[Trace], bool], time_is_up: Callable[[], bool]) -> Trace:
    """Return the fewest steps that *fails* was seen to hold for; the first one, which makes the simulation, stays."""
    size = len(trace) // 2
    while size > 0:
        trace, cut = _cut(trace, size, fails, time_is_up)
        if not cut or size > len(trace) - 1:
            size //= 2
    return trace


def _cut(trace: Trace, size: int, fails: Callable[[Trace], bool], time_is_up: Callable[[], bool]) -> tuple[Trace, bool]:
    """Leave out *size* neighbouring steps wherever the rest still fails; the second result says whether any were."""
    at, cut = len(trace), False
    while at > 1 and not time_is_up():
        begin = max(1, at - size)
        less = (*trace[:begin], *trace[at:])
        if fails(less):
            trace, cut = less, True
        at = begin
    return trace, cut


def as_text(trace: Trace) -> str:
    """Return *trace* as lines that from_text() reads."""
    return "".join(f"{json.dumps(step)}\n" for step in trace)


def from_text(text: str) -> Trace:
    """Return the trace of as_text(); other lines are skipped, so that a whole report can be given."""
    return [(str(name), dict(given)) for name, given in map(json.loads, _steps(text))]


def _steps(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line.startswith('["')]
