"""Searches for a story in which a promise is broken, for so many steps or so long, and tells the shortest it can make.

python -m controller_simulation.search --steps 100000
python -m controller_simulation.search --replay FILE
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import click
import structlog
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from controller_simulation.machine import Fleet, tell
from controller_simulation.trace import Story, as_text, from_text, shortened

_EXAMPLES = 25
_STEPS = 40
_SETTINGS = settings(
    max_examples=_EXAMPLES,
    stateful_step_count=_STEPS,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # we shorten stories by ourselves
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@click.command()
@click.option("--steps", default=100_000, show_default=True, help="Search for so many steps.")
@click.option("--seconds", default=3000.0, show_default=True, help="End after so long, however far it came.")
@click.option("--shorten-seconds", default=120.0, show_default=True, help="Time for making a story short.")
@click.option("--seed", "first", default=0, show_default=True, help="Where to begin; others search other steps.")
@click.option("--replay", type=click.File(), help="Tell the story of this file (or -) instead, shortened if it breaks.")
def main(steps: int, seconds: float, shorten_seconds: float, first: int, replay: TextIO | None) -> None:
    """Search for a story in which the controller breaks a promise: exit 0 if there was none, 1 if there was."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)  # what is late or dead here is so on purpose
    if replay is not None:
        sys.exit(_report(from_text(replay.read()), shorten_seconds))
    began, number = time.monotonic(), first
    while Fleet.steps < steps and time.monotonic() < began + seconds:
        story = _batch(number)
        took = time.monotonic() - began
        click.echo(f"seed {number}: {Fleet.steps:,} of {steps:,} steps in {took:.0f} s")
        if story:
            sys.exit(_report(story, shorten_seconds))
        number += 1
    short = "" if Fleet.steps >= steps else "; the time was up before that many were made"
    click.echo(f"{Fleet.steps:,} steps, no promise broken{short}")


def _batch(number: int) -> Story:
    """Return the story that one batch of examples failed with; an empty one when all held."""
    try:
        run_state_machine_as_test(seed(number)(Fleet), settings=_SETTINGS)
    except Exception as e:
        click.echo(f"{type(e).__name__}: {e}")
        return tuple(Fleet.story)
    return ()


def _report(story: Story, shorten_s: float) -> int:
    broken = tell(story)
    if not broken:
        click.echo(f"told again, the {len(story)} steps break no promise:\n{as_text(story)}", nl=False)
        return 0
    until = time.monotonic() + shorten_s
    story = shortened(story, lambda less: tell(less) == broken, lambda: time.monotonic() > until)
    click.echo(
        f"{broken} is broken by these {len(story)} steps; --replay FILE tells them again:\n{as_text(story)}", nl=False
    )
    return 1


if __name__ == "__main__":
    main()
