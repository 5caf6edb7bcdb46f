# SPDX-License-Identifier: Apache-2.0
"""Search for a trace that violates an invariant, and print the shortest one found.

python -m controller_simulation.search --steps 100000
python -m controller_simulation.search --replay FILE
python -m controller_simulation.search --mutants
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Collection
from typing import TextIO

import click
import structlog
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from controller_simulation.invariants import InvariantViolation
from controller_simulation.machine import RolloutMachine, replay
from controller_simulation.mutants import MUTANTS, Mutant
from controller_simulation.trace import Trace, as_text, from_text, shortened

_EXAMPLES = 10
_STEPS = 100  # of an example; to begin one, and to let it converge, costs as much as forty steps
_MUTANT_STEPS = 20_000  # of each: what takes longer is hardly searched for
_SETTINGS = settings(
    max_examples=_EXAMPLES,
    stateful_step_count=_STEPS,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # traces are shortened here, not by Hypothesis
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@click.command()
@click.option("--steps", default=100_000, show_default=True, help="Number of steps to search.")
@click.option("--seconds", default=3000.0, show_default=True, help="Maximum seconds of the search.")
@click.option("--shorten-seconds", default=120.0, show_default=True, help="Maximum seconds of shortening a trace.")
@click.option("--seed", "first", default=0, show_default=True, help="Seed of the first batch.")
@click.option("--replay", type=click.File(), help="Replay the trace of this file (or -), and shorten it if it fails.")
@click.option("--mutants", is_flag=True, help="Search with each mutant, until its invariant is violated, or not.")
def main(steps: int, seconds: float, shorten_seconds: float, first: int, replay: TextIO | None, mutants: bool) -> None:
    """Search for a trace that violates an invariant of a rollout: exit 0 if there was none, 1 if there was.

    With --mutants exit 0 if every mutant was found.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)  # delays and crashes are injected here
    gc.freeze()  # schemas and compiled rules stay
    gc.set_threshold(50_000)  # a step makes ten thousand objects, and few cycles
    if replay is not None:
        sys.exit(_report(from_text(replay.read()), shorten_seconds))
    if mutants:
        found = [_found(mutant, min(steps, _MUTANT_STEPS), first) for mutant in MUTANTS]
        click.echo(f"{sum(found)} of {len(found)} mutants were found")
        sys.exit(not all(found))
    began, number = time.monotonic(), first
    while RolloutMachine.steps < steps and time.monotonic() < began + seconds:
        trace, _ = _batch(number)
        took, worked = time.monotonic() - began, time.process_time()
        made = f"{RolloutMachine.steps:,} of {steps:,} steps"
        click.echo(f"seed {number}: {made} in {took:.0f} s, {worked:.0f} s of the processor")
        if trace:
            sys.exit(_report(trace, shorten_seconds))
        number += 1
    short = "" if RolloutMachine.steps >= steps else "; the time limit came first"
    click.echo(f"{RolloutMachine.steps:,} steps, no invariant violated{short}")


def _batch(number: int) -> tuple[Trace, Collection[str]]:
    """Return the trace that one batch of examples failed with, and what it violated; nothing when all held."""
    try:
        run_state_machine_as_test(seed(number)(RolloutMachine), settings=_SETTINGS)
    except Exception as e:
        violated = e.names if isinstance(e, InvariantViolation) else (type(e).__name__,)
        click.echo(f"{type(e).__name__}: {e}", err=True)
        return tuple(RolloutMachine.trace), violated
    return (), ()


def _found(mutant: Mutant, steps: int, number: int) -> bool:
    """Search with *mutant* until its invariant is violated, or *steps* were made, and print which it was."""
    RolloutMachine.steps, began, others = 0, time.monotonic(), set[str]()
    with mutant.applied():
        while RolloutMachine.steps < steps:
            _, violated = _batch(number)
            if mutant.invariant in violated:
                break
            others.update(violated)
            number += 1
    found = mutant.invariant in violated
    took = f"{RolloutMachine.steps:,} steps, {time.monotonic() - began:.0f} s"
    beside = f", after {', '.join(sorted(others))}" if others else ""
    click.echo(f"{'found' if found else 'NOT FOUND'} after {took}: {mutant.invariant}: {mutant.fault}{beside}")
    return found


def _report(trace: Trace, shorten_s: float) -> int:
    violated = replay(trace)
    if not violated:
        click.echo(f"replayed, the {len(trace)} steps violate no invariant:\n{as_text(trace)}", nl=False)
        return 0
    until = time.monotonic() + shorten_s
    trace = shortened(trace, lambda less: replay(less)[:1] == violated[:1], lambda: time.monotonic() > until)
    names = " and ".join(violated)
    click.echo(f"{len(trace)} steps violate {names}; --replay FILE replays them:\n{as_text(trace)}", nl=False)
    return 1


if __name__ == "__main__":
    main()
