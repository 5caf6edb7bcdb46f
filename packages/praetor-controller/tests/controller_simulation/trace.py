"""Stories: the steps of a search, told again, and shortened to those that a broken promise needs.

A search draws its steps at random; Hypothesis' own way of making them fewer knows nothing of time, and may take hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Step: TypeAlias = tuple[str, dict[str, Any]]
"""The name of a rule, and what it was given."""
Story: TypeAlias = Sequence[Step]


def shortened(story: Story, fails: Callable[[Story], bool], time_is_up: Callable[[], bool]) -> Story:
    """Return the fewest steps that *fails* was seen to hold for; the first one, which makes the world, stays."""
    size = len(story) // 2
    while size > 0:
        story, cut = _cut(story, size, fails, time_is_up)
        if not cut or size > len(story) - 1:
            size //= 2
    return story


def _cut(story: Story, size: int, fails: Callable[[Story], bool], time_is_up: Callable[[], bool]) -> tuple[Story, bool]:
    """Leave out *size* neighbouring steps wherever the rest still fails; tell whether there were any."""
    at, cut = len(story), False
    while at > 1 and not time_is_up():
        begin = max(1, at - size)
        less = (*story[:begin], *story[at:])
        if fails(less):
            story, cut = less, True
        at = begin
    return story, cut


def as_text(story: Story) -> str:
    """Return *story* as lines that from_text() reads."""
    return "".join(f"{json.dumps(step)}\n" for step in story)


def from_text(text: str) -> Story:
    """Return the story of as_text(); other lines are left out, so that a whole report can be given."""
    return [(str(name), dict(given)) for name, given in map(json.loads, _steps(text))]


def _steps(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line.startswith('["')]
