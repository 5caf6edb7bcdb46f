# SPDX-License-Identifier: Apache-2.0
"""When each generation of each object was seen first, read from the lines that a process wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

FirstSeen = Mapping[tuple[str, int], float | None]


def first_seen(lines: Iterable[str]) -> FirstSeen:
    """Return the first moment for each name and generation; other lines are skipped."""
    seen: dict[tuple[str, int], float | None] = {}
    for line in lines:
        entry = json.loads(line)
        if entry.get("generation"):  # bookmarks have none
            seen.setdefault((entry["name"], entry["generation"]), entry["at"])
    return seen


def delays(source: FirstSeen, sink: FirstSeen) -> list[float]:
    """Return how much later than *source* the *sink* saw what both saw at a known moment; never less than 0."""
    pairs = ((source.get(key), at) for key, at in sink.items())
    return [max(0.0, late - early) for early, late in pairs if early is not None and late is not None]


def whole_lines(file: Path) -> list[str]:
    """Return the lines of a file that another process may still be writing."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
