"""The status of a NetworkSwitch: what its agent says of itself, its connection, counts of its processes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from attrs import evolve

from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import NetworkSwitchStatus, Phase, ProcessCounts
from praetor_gateway.fleet.rows import ProcessRow, SwitchRow
from praetor_gateway.status.merge import set_connected
from praetor_gateway.status.reasons import ConditionType


def counts(rows: Iterable[ProcessRow]) -> ProcessCounts:
    """Return how many of the processes there are, run, and are healthy."""
    rows = tuple(rows)
    return ProcessCounts(
        desired=len(rows),
        running=sum(row.status.phase is Phase.RUNNING for row in rows),
        healthy=sum(is_true(row.status.conditions, ConditionType.HEALTHY) for row in rows),
    )


def merge_switch(
    row: SwitchRow,
    *,
    agent_version: str | None,
    boot_id: str | None,
    facts: Mapping[str, str] | None,
    processes: ProcessCounts | None,
    connected: bool | None,
    now: datetime,
) -> NetworkSwitchStatus:
    """Return the status of *row*; None stands for no news. The same status when nothing changed."""
    status = row.status
    merged = evolve(
        status,
        agent_version=agent_version or status.agent_version,
        boot_id=boot_id or status.boot_id,
        facts=facts if facts is not None else status.facts,
        processes=shown_counts(status.processes, processes),
    )
    if connected is not None:
        merged = evolve(merged, conditions=set_connected(status.conditions, connected, row.generation, now))
    if merged == status:
        return status
    return evolve(merged, observed_generation=row.generation)


def shown_counts(known: ProcessCounts | None, now: ProcessCounts | None) -> ProcessCounts | None:
    """Return the counts to show: none as long as there is nothing to count."""
    if now is None or (known is None and not now.desired):
        return known
    return now
