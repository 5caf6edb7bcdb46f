# SPDX-License-Identifier: Apache-2.0
"""Processor time of `praetorctl --help` and of a completion by the shell, against an interpreter that imports click."""

from __future__ import annotations

import compileall
from collections.abc import Mapping, Sequence

import praetor_api
import praetor_controller
from e2e.bench.measure.context import Context
from e2e.bench.measure.figures import Figure, at_most, median_figure, ratio_figure
from e2e.bench.measure.interpreter import processor_ms
from e2e.stack.stack import script

WITHIN_S = at_most(0.15)
CLICK = ("-c", "import click")
COMPLETION = {"_PRAETORCTL_COMPLETE": "bash_complete", "COMP_WORDS": "praetorctl rollout st", "COMP_CWORD": "2"}
NONE: Mapping[str, str] = {}


def measure(context: Context) -> tuple[Figure, ...]:
    """Run the commands and the interpreter in turns."""
    for package in (praetor_controller, praetor_api):  # as an installer leaves them
        compileall.compile_dir(package.__path__[0], quiet=2)
    praetorctl = script("praetorctl")
    ways: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "praetorctl --help": ((praetorctl, "--help"), NONE),
        "completion of `praetorctl rollout st`": ((praetorctl,), COMPLETION),
    }
    ours: dict[str, list[float]] = {way: [] for way in ways}
    theirs: list[float] = []
    for _ in range(context.size(21, 3)):
        for way, (arguments, variables) in ways.items():
            ours[way].append(processor_ms(arguments, variables) / 1000)
        theirs.append(processor_ms(CLICK) / 1000)
    return (
        *(median_figure(f"{way}: processor time", taken, unit="s", goal=WITHIN_S) for way, taken in ours.items()),
        *(ratio_figure(f"{way}: against `import click`", taken, theirs) for way, taken in ours.items()),
    )
