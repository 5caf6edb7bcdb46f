# SPDX-License-Identifier: Apache-2.0
"""What a device must store to have the agent: its wheel, and all that pip brings with it."""

from __future__ import annotations

from e2e.bench.measure.context import Context
from e2e.bench.measure.figures import Figure, at_most
from e2e.release.closure import PULLED, installed

WHEEL_KB = at_most(100.0)
KB = 1000.0


def measure(context: Context) -> tuple[Figure, ...]:
    """Build the wheels and install them into an empty environment."""
    with installed() as closure:
        names = ", ".join(size.name for size in closure.sizes)
        return (
            Figure(what="the agent's wheel", value=closure.wheel / KB, unit="kB", goal=WHEEL_KB),
            Figure(what="distributions in all", value=len(closure.sizes), goal=at_most(len(PULLED)), detail=names),
            Figure(what="their files", value=closure.installed / KB, unit="kB", detail="compiled files left out"),
        )
