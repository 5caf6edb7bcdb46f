# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/rollouts.md from the table that the planner decides by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from praetor_controller.rollout.verdicts import TABLE, Health, Rule, Runs

PAGE = Path(__file__).parents[3] / "docs" / "rollouts.md"
BEGIN = "<!-- begin of the table that `hatch run rollout-table` writes -->"
END = "<!-- end of the table -->"
_HEAD = ("Runs", "What keeps it from being written to", "How it fares", "Reason", "Counts as unavailable", "Step")


def table() -> str:
    """Return the table in Markdown, one line a rule."""
    lines = [_HEAD, ("--",) * len(_HEAD), *map(_row, TABLE)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(rule: Rule) -> tuple[str, ...]:
    healths = [each for each in rule.healths if each is not None]
    return (
        "anything" if set(rule.runs) == set(Runs) else _listed(rule.runs),
        _listed(rule.gates),
        _fares(healths),
        "the wave's" if rule.reason is None else f"`{rule.reason}`",
        rule.cost.value,
        rule.step.value,
    )


def _fares(healths: list[Health]) -> str:
    if not healths:
        return "-"
    return "any" if set(healths) == set(Health) else _listed(healths)


def _listed(words: Iterable[str]) -> str:
    return "; ".join(str(word) for word in words)


def replaced(page: str) -> str:
    """Return *page* with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
