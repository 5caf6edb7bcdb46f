# SPDX-License-Identifier: Apache-2.0
"""Builds the snapshot that the planner reads, for the controller and for praetorctl. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from attrs import evolve, frozen

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import Key
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import ConditionStatus, FactRequirement, StrategyType
from praetor_api.names import referenced_device
from praetor_api.values import DeviceFields, Reference, missing_references, references_of, resolve
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.requirements import NO_FACTS, shown_fact, unmet
from praetor_controller.model.revisions import RevisionRow, find_revision, proven_stamps
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Template
from praetor_controller.model.selectors import asked_facts
from praetor_controller.model.wave_record import WaveRecord
from praetor_controller.reconcile.state import SETTLE_S, ReconcilerState
from praetor_controller.rollout.neighbours import (
    Neighbour,
    NeighboursDown,
    has_budgets,
    neighbours_down,
    shared_budgets,
)
from praetor_controller.rollout.snapshot import GatewayState, Moment, Snapshot
from praetor_controller.rollout.status import rollout_start

FindProcess: TypeAlias = Callable[[Key], ProcessRow | None]


@frozen(kw_only=True)
class Sources:
    """Where the rows of a deployment's namespace come from; more than its own may be among them.

    *find* returns the process of a key, whichever deployment it belongs to.
    """

    devices: Iterable[DeviceRow]
    processes: Iterable[ProcessRow]
    revisions: Sequence[RevisionRow]
    find: FindProcess
    neighbours: Iterable[Neighbour] = ()
    gateway: GatewayState = GatewayState.JUDGING
    judged_since: float = 0.0


def build_snapshot(
    deployment: DeploymentRow,
    sources: Sources,
    state: ReconcilerState,
    *,
    now: Moment,
    monotonic: float = 0.0,
    watching: bool = True,
) -> Snapshot:
    """Return the snapshot that plan() reads at *now*; *monotonic* is the clock of the times in *state*, in seconds.

    Not *watching*: the caller reads the objects once, and has only the times that stand there.
    """
    rolled_out = find_revision(sources.revisions, deployment.status.current_revision)
    current = rolled_out.template if rolled_out else None
    devices = list(sources.devices)
    uid, wanted = deployment.uid, deployment.template.spec_hash
    newest = find_revision(sources.revisions, deployment.template.revision)
    matching = _judged([device for device in devices if deployment.selects(device)], deployment.policy.requirements)
    matching = _resolved(matching, deployment.template)
    processes = [row for row in sources.processes if row.owner == uid and row.namespace == deployment.namespace]
    membership = _Membership(matching, processes, state, now.steady, SETTLE_S if watching else 0.0)
    neighbours = tuple(sources.neighbours)
    if membership.missing:  # then their processes are read twice
        neighbours = tuple(evolve(each, processes=tuple(each.processes)) for each in neighbours)
    rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
    shared = shared_budgets(neighbours, matching, devices) if rolling else ()
    down = NeighboursDown()
    if shared or has_budgets(deployment):  # else no budget counts them, and it reads every process of the namespace
        down = neighbours_down(
            neighbours, {device.name: device for device in devices}, now.steady, now.wall.timestamp()
        )
    fields = membership.fields(devices)
    state.started_at = newest.started_at if newest else 0.0
    state.offers_from = max(state.started_at, (newest and newest.rolled_out_before) or 0.0)
    revision_since, rollout_since = _began(deployment, newest, state, now, watching=watching)
    revisions = {each.revision for each in (deployment.template, current) if each}
    refusals = state.refusals.current(revisions, deployment.retry, monotonic)
    return Snapshot(
        deployment=deployment,
        devices=matching,
        processes=processes,
        rollout_since=rollout_since,
        taken_names=NameConflicts(sources.find, deployment),
        leftovers=Leftovers(sources.find, deployment),
        occupied=Occupied(sources.find, deployment),
        stored_as=frozenset(state.stored_as.get(wanted, ())),
        in_flight=frozenset(state.unknown),
        revision_since=revision_since,
        revision_stamp=newest.started_at if newest else None,
        watched_since=_time(state.since("watched", None, now.steady)) if watching else None,
        ahead_s=now.ahead_s,
        refusals=refusals,
        retry_at=state.refusals.retry_time(now.wall.timestamp(), monotonic),
        proven=proven_stamps(sources.revisions, deployment.status.current_revision),
        current=current,
        current_stored_as=frozenset(state.stored_as.get(current.spec_hash, ()) if current else ()),
        variants_stored_as={each: frozenset(found) for each, found in state.stored_as.items() if found}
        if deployment.template.overrides or (current and current.overrides)
        else {},
        down_elsewhere=down.devices,
        elsewhere_changes_at=down.changes_at,
        shared_budgets=shared,
        gateway=sources.gateway,
        judged_since=sources.judged_since,
        wave_record=newest.waves if newest else WaveRecord(),
        unselected=_unselected(deployment, fields["leaving"]),
        left_behind=_left_behind(membership.missing, neighbours) if membership.missing else {},
        **fields,
    )


def _judged(devices: list[DeviceRow], requirements: Sequence[FactRequirement]) -> list[DeviceRow]:
    """Return *devices* with why they do not meet *requirements*, where they do not."""
    if not requirements:
        return devices
    names = tuple({each.fact for each in requirements})
    known: dict[tuple[str | None, ...] | None, str] = {}  # a fleet has few different values
    found = []
    for device in devices:
        facts = device.facts
        key = None if facts is None else tuple(facts.get(name) for name in names)
        if key not in known:
            known[key] = unmet(requirements, facts)
        found.append(evolve(device, unmet=known[key]) if known[key] else device)
    return found


def _resolved(devices: list[DeviceRow], template: Template) -> list[DeviceRow]:
    """Return *devices* with what they lack of what *template* gives them refers to, as the gateway will find it, too.

    What is in ConfigMaps it alone may read: it says so on the first processes that get the template.
    """
    if not template.refers:
        return devices
    known: dict[str, list[Reference]] = {}  # by the hash of a spec
    found = []
    for device in devices:
        own = template.resolved(device.labels)
        if own.spec_hash not in known:
            references = references_of(own.spec)
            known[own.spec_hash] = [each for each in references if not each.optional and each.source is None]
        needed = known[own.spec_hash]
        if not needed:
            found.append(device)
            continue
        fields = DeviceFields(
            name=referenced_device(device.name)[1],
            namespace=device.namespace,
            labels=device.labels,
            address=device.address,
            facts=device.facts or {},
        )
        lacks = resolve(needed, fields).missing
        found.append(evolve(device, missing=missing_references(lacks)) if lacks else device)
    return found


def _began(
    deployment: DeploymentRow, newest: RevisionRow | None, state: ReconcilerState, now: Moment, *, watching: bool
) -> tuple[datetime | None, datetime]:
    """Return when the rollout of *newest* began (None when it did not), and since when its progress deadline runs."""
    if newest is None:
        return None, _time(now.steady)
    if not watching:
        return _time(newest.started_at), rollout_start(deployment, newest.started_at, now.wall)
    began = state.since("revision", (newest.number, newest.started_at), now.steady)
    progressing = get_condition(deployment.status.conditions, ConditionType.PROGRESSING)
    status = progressing.status if progressing is not None else ConditionStatus.FALSE
    if progressing is not None and status is ConditionStatus.TRUE:  # perhaps since a pause ended
        resumed = state.since("resumed", progressing.last_transition_time, now.steady)
        return _time(began), _time(max(began, resumed))
    return _time(began), _time(now.steady if status is ConditionStatus.UNKNOWN else began)


def _time(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


class _Membership:
    """Which devices come and go: most passes see none, and pay for no look-up by name."""

    def __init__(
        self,
        matching: Sequence[DeviceRow],
        processes: Sequence[ProcessRow],
        state: ReconcilerState,
        now: float,
        settle_s: float,
    ) -> None:
        names, with_process = [device.name for device in matching], [process.device for process in processes]
        self.missing: Mapping[str, DeviceRow] = {}
        self._leaving: frozenset[str] = frozenset()
        if names == with_process and not state.has_unmatched:
            self._removals = state.unmatched((), (), now, settle_s)
            return
        members, served = frozenset(names), frozenset(with_process)
        self._removals = state.unmatched(processes, members, now, settle_s)
        self.missing = {device.name: device for device in matching if device.name not in served}
        self._leaving = served - members

    def fields(self, devices: Sequence[DeviceRow]) -> dict[str, Any]:
        """Return the fields of the snapshot; *devices* are all of the namespace."""
        removed = self._removals.removed
        wanted = self._leaving | removed
        rows = {device.name: device for device in devices if device.name in wanted} if wanted else {}
        return {
            "leaving": [row for name, row in rows.items() if name in self._leaving],
            "removable": self._removals.removable,
            "removed": [rows.get(name) or DeviceRow(name=name, namespace="", labels={}) for name in sorted(removed)],
            "removals_change_at": self._removals.changes_at,
        }


def _unselected(deployment: DeploymentRow, leaving: Iterable[DeviceRow]) -> Mapping[str, str]:
    """Return which of the devices *leaving* only their facts unmatch, and those of the facts that are asked for."""
    selector = deployment.policy.fact_selector
    if selector is None:
        return {}
    names = sorted(asked_facts(selector))
    return {
        row.name: NO_FACTS
        if row.facts is None
        else ", ".join(f"{name}={shown_fact(row.facts.get(name, ''))}" for name in names)
        for row in leaving
        if deployment.covers(row)
    }


def _left_behind(missing: Mapping[str, DeviceRow], neighbours: Iterable[Neighbour]) -> Mapping[str, str]:
    """Return which devices without a process have one of a deployment that no longer matches them, and is to go."""
    return {
        row.device: neighbour.deployment.name
        for neighbour in neighbours
        if not neighbour.deployment.terminating
        for row in neighbour.processes
        if row.device in missing and not row.terminating and not neighbour.deployment.selects(missing[row.device])
    }


class NameConflicts:
    """Names of existing processes in the deployment's namespace, of all owners.

    They are looked up one by one: copying them all would cost more than the plan.
    """

    def __init__(self, find: FindProcess, deployment: DeploymentRow) -> None:
        self._find = find
        self._namespace = deployment.namespace

    def __contains__(self, name: object) -> bool:
        return self._find(Key(self._namespace, str(name))) is not None


class Occupied:
    """`<device>/<name>` of processes that the device runs already, of any owner or of none."""

    def __init__(self, find: FindProcess, deployment: DeploymentRow) -> None:
        self._find = find
        self._namespace = deployment.namespace

    def __contains__(self, pair: object) -> bool:
        device, _, name = str(pair).rpartition("/")
        row = self._find(Key(self._namespace, name))
        return row is not None and row.device == device


class Leftovers:
    """Names of processes of a deleted deployment that had this one's name, and that are not collected yet."""

    def __init__(self, find: FindProcess, deployment: DeploymentRow) -> None:
        self._find = find
        self._namespace = deployment.namespace
        self._uid = deployment.uid
        self._label = (DEPLOYMENT_LABEL, deployment_label(deployment.name))

    def __contains__(self, name: object) -> bool:
        row = self._find(Key(self._namespace, str(name)))
        return row is not None and row.owner not in (None, self._uid) and self._label in row.labels
