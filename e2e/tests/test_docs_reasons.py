# SPDX-License-Identifier: Apache-2.0
"""The page of reasons lists every reason that the programs write, and no other."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from praetor_agent.core.model import TerminationReason
from praetor_api.conditions import ConditionType, DeploymentReason, ProcessReason
from praetor_api.protocol import ArtifactReason, PendingReason, RollbackReason
from praetor_controller.ctl.explain import MEANINGS
from praetor_controller.reconcile.events import EventReason as DeploymentEventReason
from praetor_controller.rollout.reasons import ReasonCode
from praetor_gateway.status.events import EventReason as StatusEventReason

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reasons.md"
COUNTED, ENDED, EVENT = "`status.reasons`", "`status.lastTerminationReason`", "event"

WRITTEN: tuple[tuple[type[StrEnum], str, str], ...] = (
    (ProcessReason, "condition", "gateway"),
    (ArtifactReason, "condition", "device"),
    (PendingReason, "condition", "device"),
    (RollbackReason, "condition", "device"),
    (TerminationReason, ENDED, "device"),
    (DeploymentReason, "condition", "controller"),
    (ReasonCode, COUNTED, "controller"),
    (StatusEventReason, EVENT, "gateway"),
    (DeploymentEventReason, EVENT, "controller"),
)
"""Each set of reasons, where it is shown, and the program that finds it."""


def rows() -> list[list[str]]:
    lines = PAGE.read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]


def kind(shown: str) -> str:
    if shown in (COUNTED, ENDED, EVENT):
        return shown
    assert set(re.findall(r"`(\w+)`", shown)) <= set(ConditionType), shown
    return "condition"


def test_the_page_lists_each_reason_of_the_programs_and_no_other() -> None:
    listed = [(row[0].strip("`"), kind(row[1]), row[2]) for row in rows()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(each.value, shown, source) for words, shown, source in WRITTEN for each in words}


def test_the_page_is_sorted_and_says_of_each_reason_what_it_means_and_what_to_do() -> None:
    assert [row[:2] for row in rows()] == sorted(row[:2] for row in rows())
    assert all(len(row) == 5 and all(row) for row in rows())


def test_the_page_and_praetorctl_explain_say_the_same() -> None:
    assert {row[0].strip("`"): row[3] for row in rows() if row[1] == COUNTED} == dict(MEANINGS)
