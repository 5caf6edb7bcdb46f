# SPDX-License-Identifier: Apache-2.0
"""Figures of benchmarks: what was measured, against what, and whether it reaches its goal. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

MANY = 8


@frozen
class Goal:
    """A limit that a figure shall keep."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Return whether *value* keeps the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}"


@frozen(kw_only=True)
class Figure:
    """One measured value; *spread* is how far it differed between rounds, *detail* what it was made from."""

    what: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing without a goal."""
        if self.goal is None:
            return ""
        return "met" if self.goal.met(self.value) else "missed"


def at_least(limit: float) -> Goal:
    """Return a goal to reach."""
    return Goal(limit, True)


def at_most(limit: float) -> Goal:
    """Return a goal not to exceed."""
    return Goal(limit)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the least value that at least *share* of the values do not exceed; ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values have no percentile")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median_figure(what: str, values: Sequence[float], **fields: Any) -> Figure:
    """Return the median of the rounds' *values*, with their spread when there were several."""
    return Figure(what=what, value=statistics.median(values), spread=spread_of(values), **fields)


def spread_of(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the least and the greatest of few values, the quartiles of many, and None for one."""
    if len(values) < 2:
        return None
    if len(values) < MANY:
        return (min(values), max(values))
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (lower, upper)


def ratio_figure(what: str, ours: Sequence[float], theirs: Sequence[float], *, goal: Goal | None = None) -> Figure:
    """Return the median ratio of rounds that were run side by side; the detail holds both medians."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    detail = f"{number(statistics.median(ours))} against {number(statistics.median(theirs))}"
    return median_figure(what, ratios, unit="x", goal=goal, detail=detail)


def number(value: float) -> str:
    """Return *value* with three significant digits, a count with all of them, thousands in groups."""
    if isinstance(value, int) or value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned columns, without the columns that stay empty."""
    head = ("measured", "value", "spread", "goal", "", "made from")
    cells = list(map(_row, figures))
    used = [column for column in range(len(head)) if any(row[column] for row in cells)]
    rows = [[row[column] for column in used] for row in (head, *cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(used))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| measured | value | spread | goal | | made from |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(_row(figure))} |" for figure in figures)])


def as_json(figure: Figure) -> Mapping[str, Any]:
    """Return the figure as plain data."""
    data: dict[str, Any] = {"what": figure.what, "value": figure.value, "unit": figure.unit, "detail": figure.detail}
    if figure.spread is not None:
        data["spread"] = list(figure.spread)
    if figure.goal is not None:
        data |= {"goal": str(figure.goal), "verdict": figure.verdict}
    return data


def _row(figure: Figure) -> tuple[str, ...]:
    unit = f" {figure.unit}" if figure.unit else ""
    spread = "" if figure.spread is None else " to ".join(map(number, figure.spread))
    goal = "" if figure.goal is None else str(figure.goal)
    return (figure.what, f"{number(figure.value)}{unit}", spread, goal, figure.verdict, figure.detail)
