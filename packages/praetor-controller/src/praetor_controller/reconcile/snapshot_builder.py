"""Gathers the snapshot of one deployment from rows, for the controller and for who asks what it thinks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from attrs import frozen

from praetor_api.kube.objects import StrategyType
from praetor_controller.model.revisions import RevisionRow, find_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.name_conflicts import Find, Leftovers, TakenNames
from praetor_controller.reconcile.state import Memory
from praetor_controller.rollout.neighbours import Elsewhere, Neighbour, down_elsewhere, has_budgets, shared_budgets
from praetor_controller.rollout.snapshot import Snapshot
from praetor_controller.rollout.status import rollout_start


@frozen(kw_only=True)
class Sources:
    """Where the rows of a deployment's namespace come from; more than its own may be among them."""

    devices: Iterable[DeviceRow]
    processes: Iterable[ProcessRow]
    revisions: Sequence[RevisionRow]
    find: Find
    neighbours: Iterable[Neighbour] = ()


def gather(
    deployment: DeploymentRow, sources: Sources, memory: Memory, *, now: datetime, monotonic: float = 0.0
) -> Snapshot:
    """Return the snapshot that plan() takes; *monotonic* is the clock that *memory* was kept by."""
    rolled_out = find_revision(sources.revisions, deployment.status.current_revision)
    current = rolled_out.template if rolled_out else None
    devices = list(sources.devices)
    matches, uid, wanted = deployment.matches, deployment.uid, deployment.template.spec_hash
    newest = find_revision(sources.revisions, deployment.template.revision)
    matching = [device for device in devices if matches(device.labels)]
    neighbours = tuple(sources.neighbours)
    rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
    shared = shared_budgets(neighbours, matching, devices) if rolling else ()
    elsewhere = Elsewhere()
    if shared or has_budgets(deployment):  # else nobody asks, and it takes a look at every process of the namespace
        elsewhere = down_elsewhere(neighbours, {device.name: device for device in devices}, now.timestamp())
    return Snapshot(
        deployment=deployment,
        devices=matching,
        processes=[row for row in sources.processes if row.owner == uid and row.namespace == deployment.namespace],
        rollout_since=rollout_start(deployment, newest.started_at, now) if newest else now,
        taken_names=TakenNames(sources.find, deployment),
        leftovers=Leftovers(sources.find, deployment),
        stored_as=frozenset(memory.stored_as.get(wanted, ())),
        in_flight=frozenset(memory.unknown),
        refusals=memory.refused({each.revision for each in (deployment.template, current) if each}, monotonic),
        revision_since=datetime.fromtimestamp(newest.started_at, now.tzinfo) if newest else None,
        current=current,
        current_stored_as=frozenset(memory.stored_as.get(current.spec_hash, ()) if current else ()),
        down_elsewhere=elsewhere.down,
        elsewhere_changes_at=elsewhere.changes_at,
        shared_budgets=shared,
    )
