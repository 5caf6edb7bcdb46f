# SPDX-License-Identifier: Apache-2.0
"""The status of a device of any kind: what its agent says of itself, its connection, counts of its processes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from attrs import evolve, frozen

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.conditions import is_true, next_condition
from praetor_api.kube.objects import ConditionStatus, NetworkSwitchStatus, Phase, ProcessCounts, Reported
from praetor_gateway.fleet.order import following, supersedes
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch
from praetor_gateway.status.connected import Connected, set_absent, set_connected
from praetor_gateway.status.merge import REFUSED, by_type, in_order, set_standing


@frozen(kw_only=True)
class SwitchFacts:
    """What is known of a switch; None where nothing is, or where it is not ours to say.

    *duplicate* says which agents share its name; it is empty if none do.
    """

    agent_version: str | None = None
    boot_id: str | None = None
    facts: Mapping[str, str] | None = None
    processes: ProcessCounts | None = None
    connected: Connected = None
    standing: ProcessReason | None = None
    absence: ProcessReason | None = None
    reported: Reported | None = None
    duplicate: str | None = None


def counts(rows: Iterable[CachedProcess]) -> ProcessCounts:
    """Return how many of the processes there are, run, and are healthy."""
    rows = tuple(rows)
    return ProcessCounts(
        desired=len(rows),
        running=sum(row.status.phase is Phase.RUNNING for row in rows),
        healthy=sum(is_true(row.status.conditions, ConditionType.HEALTHY) for row in rows),
    )


def merge_switch(row: CachedSwitch, facts: SwitchFacts, now: datetime) -> NetworkSwitchStatus:
    """Return the status of *row* with *facts* in it. The same status when nothing changed."""
    status, conditions = row.status, by_type(row.status.conditions)
    set_standing(conditions, facts.standing, row.generation, now)
    if facts.standing in REFUSED:  # its name belongs to another: nothing that is known is about this object
        for kind in (ConditionType.AGENT_CONNECTED, ConditionType.DUPLICATE):
            conditions.pop(kind, None)
        refused = NetworkSwitchStatus(
            observed_generation=row.generation, conditions=in_order(conditions, status.conditions)
        )
        return refused if refused != evolve(status, observed_generation=row.generation) else status
    merged = evolve(status, processes=shown_counts(status.processes, facts.processes))
    if not supersedes(status.reported, facts.reported):
        merged = evolve(
            merged,
            agent_version=facts.agent_version or status.agent_version,
            boot_id=facts.boot_id or status.boot_id,
            facts=facts.facts if facts.facts is not None else status.facts,
            reported=following(status.reported, facts.reported),
        )
    if facts.connected is not None:
        set_connected(conditions, facts.connected, row.generation, now)
    elif facts.absence is not None:
        set_absent(conditions, facts.absence, row.generation, now)
    if facts.duplicate or (facts.duplicate is not None and ConditionType.DUPLICATE in conditions):
        conditions[ConditionType.DUPLICATE] = next_condition(
            conditions.get(ConditionType.DUPLICATE),
            type=ConditionType.DUPLICATE,
            status=ConditionStatus.TRUE if facts.duplicate else ConditionStatus.FALSE,
            reason=ProcessReason.SEVERAL_BOOTS if facts.duplicate else ProcessReason.ONE_BOOT,
            message=facts.duplicate,
            observed_generation=row.generation,
            now=now,
        )
    merged = evolve(merged, conditions=in_order(conditions, status.conditions))
    if merged == status:
        return status
    return evolve(merged, observed_generation=row.generation)


def shown_counts(known: ProcessCounts | None, now: ProcessCounts | None) -> ProcessCounts | None:
    """Return the counts to show: none as long as there is nothing to count."""
    if now is None or (known is None and not now.desired):
        return known
    return now
