# SPDX-License-Identifier: Apache-2.0
"""The invariants of a rollout: each is a function of one spec write of the controller and the facts at that moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Final

from attrs import frozen

from praetor_api.kube.objects import StrategyType, Wave
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.model.wave_record import WaveRecord


class InvariantViolation(AssertionError):
    """An invariant does not hold; *invariant* is its name, and *names* has those of others that fail with it, too."""

    def __init__(self, invariant: str, what: str) -> None:
        if invariant not in NAMES:
            raise ValueError(f"no invariant has the name {invariant}; add it to NAMES")
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.names: Collection[str] = (invariant,)


@frozen(kw_only=True)
class Write:
    """A spec write from *old* to *new*; *old* is None for a new process.

    *takes_down*: the device was up, as far as this deployment goes; *takes_down_first*: for all the others, too.
    *command* is what the device is to run, and *given* what the revision gives it by its labels; empty: it is not kept.
    *approved* are the digests of the contents of its files, None where a file has none.
    """

    deployment: DeploymentRow
    device: DeviceRow
    old: ProcessRow | None
    new: ProcessRow
    takes_down: bool = False
    takes_down_first: bool = False
    command: str = ""
    given: Collection[str] = ()
    approved: Collection[str | None] = ()


@frozen(kw_only=True)
class Facts:
    """The fleet at a write, the new process in it. *down* are the devices that our writes took down.

    *began* is when the present rollout did, *stood* which of its waves have stood, and since when, and *failed* those
    that have not, and that saw a failure. All of these are by deployment; *deployments* are all of them, and *firsts*
    those that roll their first revision out. *steady* is the last settled state: what came
    since may cross the write. *judged*: a gateway judges the devices.
    """

    now: float
    devices: Mapping[str, DeviceRow]
    processes: Mapping[str, tuple[ProcessRow, ...]]
    down: Mapping[str, frozenset[str]]
    began: Mapping[str, float]
    stood: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, Collection[str]]
    firsts: Collection[str] = ()
    deployments: Collection[DeploymentRow]
    steady: SteadyState
    judged: bool = True


@frozen(kw_only=True)
class SteadyState:
    """What the controller knew when all had settled; *blind*: changes of processes were held back from it."""

    blind: bool = False
    down: frozenset[str] = frozenset()  # by the controller's writes
    paused: frozenset[str] = frozenset()
    on_delete: frozenset[str] = frozenset()
    stopped: frozenset[tuple[str, int]] = frozenset()  # deployments and generations that go, or must go, no further
    maintained: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()  # names of processes
    left_out: frozenset[tuple[str, str]] = frozenset()  # deployments and devices that do not meet their requirements
    offline: frozenset[str] = frozenset()  # they had reported before
    unjudged: bool = False
    labels: Mapping[str, Mapping[str, str]] = {}  # of the devices
    stormy: frozenset[tuple[str, str]] = frozenset()  # deployments and revisions that fell silent with many devices


def share(value: int | str, devices: int) -> int:
    """Return how many of *devices* a number or a percentage stands for."""
    return math.ceil(devices * int(value.removesuffix("%")) / 100) if isinstance(value, str) else value


def wave_of(row: DeploymentRow, process: ProcessRow, began: float) -> str:
    """Return the wave that *process* was given the update revision in, since the rollout *began*; empty if none."""
    recent = process.offered_at is not None and process.offered_at >= math.floor(began)
    return process.wave if recent and process.revision == row.template.revision else ""


def selects(wave: Wave, device: DeviceRow) -> bool:
    wanted = wave.selector.match_labels if wave.selector is not None else {}
    return all(device.labels.get(key) == value for key, value in wanted.items())


def left_out(row: DeploymentRow, device: DeviceRow) -> bool:
    """Return whether *device* does not meet the requirements, which ask for whole numbers at least."""
    facts = device.facts or {}
    return any(int(facts.get(each.fact, 0)) < int(each.values[0]) for each in row.policy.requirements)


def max_unavailable_holds(write: Write, facts: Facts) -> str:
    """Never more than maxUnavailable devices are down by the controller's writes."""
    row, down = write.deployment, facts.down[write.deployment.name]
    limit = share(row.max_unavailable, sum(row.matches(each.labels) for each in facts.devices.values()))
    more = write.takes_down and _rolling(row) and len(down) > limit
    return f"{sorted(down)} are down, at most {limit} may be" if more else ""


def every_budget_holds(write: Write, facts: Facts) -> str:
    """Nor more of a failure domain than any budget of any deployment allows, whichever took them down."""
    if not write.takes_down_first or not _rolling(write.deployment):
        return ""
    down = frozenset[str]().union(*facts.down.values())
    others = (each for each in facts.deployments if _rolling(each) and each.matches(write.device.labels))
    budgets = [(row, each) for row in others for each in row.policy.update_strategy.rolling_update.budgets]
    for deployment, budget in budgets:
        domain = [write.device.labels.get(key) for key in budget.group_by]
        there = [row for row in facts.devices.values() if [row.labels.get(key) for key in budget.group_by] == domain]
        served = {each.device for each in facts.processes[deployment.name]}  # also those that are to leave
        ours = sum(deployment.matches(row.labels) or row.name in served for row in there)
        limit = share(budget.max_unavailable, ours)
        # others' writes to a device that it does not match do not wait for this budget: such a write may cross this one
        bound = {row.name for row in there if deployment.matches(row.labels)} | facts.down[deployment.name]
        gone = sorted(down & {row.name for row in there} & (bound | facts.steady.down))
        if None not in domain and len(gone) > limit:
            return f"{gone} of {domain} are down, at most {limit} may be by {deployment.name}"
    return ""


def one_process_for_each_device(write: Write, facts: Facts) -> str:
    """Never two processes for one deployment and device."""
    there = [row.name for row in facts.processes[write.deployment.name] if row.device == write.device.name]
    return f"{write.device.name} has {there}" if len(there) > 1 else ""


def paused_means_no_writes(write: Write, facts: Facts) -> str:
    """While a deployment is paused no spec is written."""
    paused = write.deployment.policy.paused and write.deployment.name in facts.steady.paused
    return f"{write.new.name} was written" if paused else ""


def on_delete_waits_for_the_deletion(write: Write, facts: Facts) -> str:
    """With OnDelete a process stays as it is until a user deletes it."""
    spared = write.deployment.strategy is StrategyType.ON_DELETE and write.deployment.name in facts.steady.on_delete
    return f"{write.new.name} was written" if spared and write.old is not None else ""


def maintenance_is_respected(write: Write, facts: Facts) -> str:
    """A device in maintenance is not touched."""
    touched = write.old is not None and write.device.in_maintenance and write.device.name in facts.steady.maintained
    return f"{write.device.name} was touched" if touched else ""


def held_devices_are_deferred(write: Write, facts: Facts) -> str:
    """A device that holds updates is offered nothing."""
    held = write.old is not None and bool(write.old.held) and write.new.name in facts.steady.held
    return f"{write.device.name} was offered {write.new.revision}" if held and not facts.steady.blind else ""


def requirements_are_respected(write: Write, facts: Facts) -> str:
    """A device that does not meet the requirements gets no process, and no other revision."""
    row, device = write.deployment, write.device
    out = left_out(row, device) and (row.name, device.name) in facts.steady.left_out
    return f"{device.name} was offered {write.new.revision}" if out else ""


def a_device_is_given_what_its_labels_ask_for(write: Write, facts: Facts) -> str:
    """A device gets the template of a revision with the overrides that match it, and no others."""
    wrong = write.given and write.command not in write.given
    return f"{write.device.name} got {write.command}, not {sorted(write.given)}" if wrong else ""


def contents_are_approved(write: Write, facts: Facts) -> str:
    """A process whose file restarts it says which content the file is to have."""
    return "any content" if None in write.approved else ""


def offline_devices_are_deferred(write: Write, facts: Facts) -> str:
    """A device that is offline is offered nothing."""
    offline = write.device.connected is False and write.device.name in facts.steady.offline
    offered = offline and write.old is not None and write.old.reported
    return f"{write.device.name} was offered {write.new.revision}" if offered and not facts.steady.blind else ""


def untested_revisions_wait_for_their_wave(write: Write, facts: Facts) -> str:
    """A revision reaches a device, old or new, only when the waves before the device's own have stood."""
    stood = facts.stood[write.deployment.name]
    missing = [wave.name for wave in _waves_before(write) if wave.name not in stood]
    return f"{write.device.name} got {write.new.revision} before {missing} stood" if missing else ""


def waves_soak(write: Write, facts: Facts) -> str:
    """A wave begins only when each one before it has stood for its soak time."""
    stood, now = facts.stood[write.deployment.name], facts.now
    early = [each.name for each in _waves_before(write) if now < stood.get(each.name, -math.inf) + each.soak_seconds]
    return f"{write.device.name} got {write.new.revision} before {early} had soaked" if early else ""


def waves_keep_their_limit(write: Write, facts: Facts) -> str:
    """A wave takes no more devices than its limit."""
    row, name = write.deployment, write.new.wave
    wave = next((each for each in row.policy.update_strategy.rolling_update.waves if each.name == name), None)
    if wave is None or wave.limit is None or not _is_untested(write):
        return ""
    matching = {each.name: each for each in facts.devices.values() if row.matches(each.labels)}
    rows = [each for each in facts.processes[row.name] if each.device in matching]
    there = sorted(each.device for each in rows if wave_of(row, each, facts.began[row.name]) == name)
    limit = share(wave.limit, sum(selects(wave, device) for device in matching.values()))
    return f"{there} are in {name}, at most {limit} may be" if len(there) > limit else ""


def approvals_are_asked_for(write: Write, facts: Facts) -> str:
    """A wave with manual approval begins when this revision was approved for it."""
    row, wave = write.deployment, write.new.wave
    manual = {each.name for each in row.policy.update_strategy.rolling_update.waves if each.approval == "Manual"}
    if wave not in manual or write.new.revision != row.template.revision or not _rolling(row):
        return ""
    approved = f"{row.template.revision}/{wave}" in row.approved
    return "" if approved else f"{write.device.name} got {write.new.revision} in {wave}, which is not approved"


def what_matches_nothing_holds(write: Write, facts: Facts) -> str:
    """No device is moved from another revision while a wave before its own, or any budget, matches no device."""
    row = write.deployment
    moved = write.old is not None and write.old.revision != write.new.revision and _is_untested(write)
    if not moved or row.name in facts.firsts:
        return ""
    matching = [each for each in facts.devices.values() if row.matches(each.labels)]
    rolling, stood = row.policy.update_strategy.rolling_update, facts.stood[row.name]
    for budget in rolling.budgets:
        if not budget.allow_empty and not any(budget.group_by[0] in each.labels for each in matching):
            return f"{write.device.name} got {write.new.revision}, and {budget.group_by} matches nothing"
    for wave in _waves_before(write):
        if not (wave.allow_empty or wave.name in stood or any(selects(wave, each) for each in matching)):
            return f"{write.device.name} got {write.new.revision}, and {wave.name} matches nothing"
    return ""


def a_gate_that_saw_a_failure_stays_closed(write: Write, facts: Facts) -> str:
    """A wave that saw a process fail lets none after it begin, also when the device is gone."""
    before = {wave.name for wave in _waves_before(write) if wave.success_threshold == 100}
    closed = sorted(before & set(facts.failed[write.deployment.name]))
    return f"{write.device.name} got {write.new.revision} after {closed} had failed" if closed else ""


def a_stopped_revision_is_offered_to_no_device(write: Write, facts: Facts) -> str:
    """What the failure policy stopped reaches no further device."""
    row = write.deployment
    if (row.name, row.generation) not in facts.steady.stopped or write.new.revision == row.status.current_revision:
        return ""
    offered = write.new.revision == row.template.revision
    return f"{write.device.name} got {write.new.revision}" if offered and not facts.steady.blind else ""


def nothing_is_offered_while_no_gateway_judges(write: Write, facts: Facts) -> str:
    """While no gateway judges the devices, whose silence would not be noticed, none is offered anything."""
    return f"{write.device.name} was offered {write.new.revision}" if facts.steady.unjudged and not facts.judged else ""


def a_storm_holds_its_revision(write: Write, facts: Facts) -> str:
    """A revision that is not settled on devices that fell silent with many others is offered to no other device."""
    row, revision = write.deployment, write.new.revision
    untested = revision == row.template.revision != row.status.current_revision
    stormy = (row.name, revision) in facts.steady.stormy and any(
        in_storm(each, revision) for each in facts.processes[row.name] if each.device in facts.devices
    )
    return f"{write.device.name} was offered {revision}" if untested and stormy and not facts.steady.blind else ""


def in_storm(process: ProcessRow, revision: str) -> bool:
    """Return whether *process* fell silent with many others before the *revision* that it may have settled."""
    unsettled = process.settled_since is None and process.fetched is not False
    return process.in_storm and unsettled and process.revision == revision


INVARIANTS: Final[tuple[Callable[[Write, Facts], str], ...]] = (
    max_unavailable_holds,
    every_budget_holds,
    one_process_for_each_device,
    paused_means_no_writes,
    on_delete_waits_for_the_deletion,
    maintenance_is_respected,
    held_devices_are_deferred,
    requirements_are_respected,
    a_device_is_given_what_its_labels_ask_for,
    contents_are_approved,
    offline_devices_are_deferred,
    untested_revisions_wait_for_their_wave,
    waves_soak,
    waves_keep_their_limit,
    approvals_are_asked_for,
    what_matches_nothing_holds,
    a_gate_that_saw_a_failure_stays_closed,
    a_stopped_revision_is_offered_to_no_device,
    nothing_is_offered_while_no_gateway_judges,
    a_storm_holds_its_revision,
)


@frozen(kw_only=True)
class Removal:
    """The deletion of *process*, because *deployment* no longer matches *device* (None: it is not declared).

    *unmatched* are all such processes that no user approved, *approved* the others, and *kept* how many have a device
    that matches. *down* are devices that are down by the deployment's writes, and *left* those that were removed just
    now, without this.
    """

    deployment: DeploymentRow
    process: ProcessRow
    device: DeviceRow | None
    unmatched: Collection[str]
    approved: Collection[str]
    kept: int
    matching: Collection[DeviceRow]
    down: Collection[str]
    left: Collection[str]

    @property
    def limit(self) -> int:
        devices = len(self.matching) + len(self.unmatched) + len(self.approved) + len(self.left)
        return max(1, share(self.deployment.max_unavailable, devices))


def bulk_removals_are_held(removal: Removal) -> str:
    """What unmatches more devices than may be unavailable, or all, removes nothing until a user approves it."""
    bulk = len(removal.unmatched) > removal.limit or not removal.kept
    held = bulk and removal.process.uid in removal.unmatched
    return f"{removal.process.name} was deleted with {len(removal.unmatched)} unmatched" if held else ""


def removals_keep_the_budget(removal: Removal) -> str:
    """Never more devices than maxUnavailable, and one, are down by removals and updates, unless by Recreate."""
    gone = {*removal.left, *removal.down, removal.process.device}
    more = _rolling(removal.deployment) and removal.process.ready_since is not None and len(gone) > removal.limit
    return f"{sorted(gone)} are down or left, at most {removal.limit} may" if more else ""


REMOVAL_INVARIANTS: Final[tuple[Callable[[Removal], str], ...]] = (bulk_removals_are_held, removals_keep_the_budget)


def a_passed_gate_stays_passed(old: WaveRecord, new: WaveRecord) -> str:
    """What is remembered of the waves of one rollout is never less than it was."""
    lost = old.passed - new.passed if old.number == new.number else frozenset[str]()
    return f"{sorted(lost)} had passed" if lost else ""


NAMES: Final = frozenset(each.__name__ for each in (*INVARIANTS, *REMOVAL_INVARIANTS, a_passed_gate_stays_passed)) | {
    "status_is_written_once_a_second",
    "every_device_has_one_reason",
    "no_reconcile_crashes",
    "nothing_is_written_while_nothing_changes",
    "every_fair_run_converges",
    "a_converged_fleet_is_left_alone",
}
"""All invariants that a search checks."""


def _rolling(row: DeploymentRow) -> bool:
    return row.strategy is StrategyType.ROLLING_UPDATE


def _is_untested(write: Write) -> bool:
    row = write.deployment
    is_new = write.new.revision == row.template.revision != row.status.current_revision
    return is_new and _rolling(row)


def _waves_before(write: Write) -> tuple[Wave, ...]:
    """Return the waves that have to stand before the write, which gave a device a revision that is not proven."""
    waves = write.deployment.policy.update_strategy.rolling_update.waves if _is_untested(write) else ()
    names = [wave.name for wave in waves]
    return waves[: names.index(write.new.wave)] if write.new.wave in names else waves
