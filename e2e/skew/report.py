# SPDX-License-Identifier: Apache-2.0
"""The matrix of what was tried: a row for each change of one program, with what ran beside it and what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from e2e.skew.parts import Part
from e2e.skew.stored import Findings

HEADINGS = "                  CRDs controller gateway agents  restarts writes lost  seen"


@frozen(kw_only=True)
class Row:
    """One state: which version each part has, what was found since the state before, and what else was checked.

    *checked* is right as *expected*, for instance "1 of 6" devices that a bad version may reach.
    """

    rehearsal: str
    running: Mapping[Part, str]
    findings: Findings
    checked: str
    expected: str

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.findings.sentences and self.checked == self.expected


def lines(row: Row) -> list[str]:
    """Return *row* as a line, and below it why it did not pass."""
    crds, controller, gateway, agents = (row.running[part] for part in Part)
    found = row.findings
    counts = f"{len(found.restarts):>8} {len(found.writes):>6} {len(found.disconnections):>4}"
    versions = f"{crds:<4} {controller:<10} {gateway:<7} {agents:<7}"
    wrong = [] if row.checked == row.expected else [f"{row.checked}, not {row.expected}"]
    return [
        f"{row.rehearsal:<17.17} {versions} {counts}  {row.checked}",
        *(f"    FAILED: {sentence}" for sentence in (*wrong, *found.sentences)),
    ]


def table(rows: Sequence[Row]) -> str:
    """Return all *rows*, below headings, and how many of them passed."""
    body = [line for row in rows for line in lines(row)]
    return "\n".join([HEADINGS, *body, f"{sum(row.passed for row in rows)} of {len(rows)} states passed"])
