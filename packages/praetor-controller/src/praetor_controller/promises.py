"""For tests: what a rollout promises, one function each, judged by what the API stores and not by our own counters.

A promise looks at one spec write of the controller, with the facts from before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import field, frozen, mutable

from praetor_controller.rows import DeploymentRow, DeviceRow, ProcessRow


class Broken(AssertionError):
    """A promise was not kept; *promise* is its name."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


@frozen(kw_only=True)
class Write:
    """A spec write: of *old* became *new*; *old* is None for a new process.

    *takes_down*: the device was up, as far as this deployment goes; *takes_down_first*: for all the others, too.
    """

    deployment: DeploymentRow
    device: DeviceRow
    old: ProcessRow | None
    new: ProcessRow
    takes_down: bool = False
    takes_down_first: bool = False


@mutable(kw_only=True)
class Facts:
    """The world at a write. *down* are the devices that our writes took down, for each deployment.

    *calm* is how it was when everybody had last come to rest: what came since may have crossed the write.
    """

    now: float
    devices: Mapping[str, DeviceRow]
    processes: Mapping[str, tuple[ProcessRow, ...]]  # by deployment
    down: Mapping[str, frozenset[str]]
    proven: Mapping[str, frozenset[str]] = field(factory=dict)  # waves of the present rollout that have stood
    calm: Calm


@frozen(kw_only=True)
class Calm:
    """What the controller surely knew: *blind* when it was kept from seeing processes."""

    blind: bool = False
    paused: frozenset[str] = frozenset()
    stopped: frozenset[tuple[str, int]] = frozenset()  # deployments and generations that go, or must go, no further
    maintained: frozenset[str] = frozenset()
    offline: frozenset[str] = frozenset()  # they had reported before


def max_unavailable_holds(write: Write, facts: Facts) -> str:
    """Never more than maxUnavailable devices are down by our doing."""
    down, limit = facts.down[write.deployment.name], write.deployment.max_unavailable
    more = write.takes_down and isinstance(limit, int) and len(down) > limit
    return f"{sorted(down)} are down, at most {limit} may be" if more else ""


def every_budget_holds(write: Write, facts: Facts) -> str:
    """Nor more of a failure domain than any budget allows, whichever deployment took them down."""
    if not write.takes_down_first:
        return ""
    down = frozenset[str]().union(*facts.down.values())
    for budget in write.deployment.policy.update_strategy.rolling_update.budgets:
        domain = [write.device.labels.get(key) for key in budget.group_by]
        rows = (facts.devices[name] for name in down if name in facts.devices)
        there = sorted(row.name for row in rows if [row.labels.get(key) for key in budget.group_by] == domain)
        if None not in domain and isinstance(budget.max_unavailable, int) and len(there) > budget.max_unavailable:
            return f"{there} of {domain} are down, at most {budget.max_unavailable} may be"
    return ""


def one_process_for_each_device(write: Write, facts: Facts) -> str:
    """Never two processes for one deployment and device."""
    there = [row.name for row in facts.processes[write.deployment.name] if row.device == write.device.name]
    return f"{write.device.name} has {there}" if len(there) > 1 else ""


def paused_means_no_writes(write: Write, facts: Facts) -> str:
    """While a deployment is paused no spec is written."""
    paused = write.deployment.policy.paused and write.deployment.name in facts.calm.paused
    return f"{write.new.name} was written" if paused else ""


def maintenance_is_respected(write: Write, facts: Facts) -> str:
    """A device in maintenance is not touched."""
    touched = write.old is not None and write.device.in_maintenance and write.device.name in facts.calm.maintained
    return f"{write.device.name} was touched" if touched else ""


def offline_devices_are_deferred(write: Write, facts: Facts) -> str:
    """A device that is offline is offered nothing."""
    offline = write.device.connected is False and write.device.name in facts.calm.offline
    offered = offline and write.old is not None and write.old.reported
    return f"{write.device.name} was offered {write.new.revision}" if offered and not facts.calm.blind else ""


def untested_revisions_wait_for_their_wave(write: Write, facts: Facts) -> str:
    """A revision reaches a device, old or new, only when the waves before the device's own have stood."""
    row = write.deployment
    if write.new.revision != row.template.revision or row.status.current_revision == row.template.revision:
        return ""
    names = [wave.name for wave in row.policy.update_strategy.rolling_update.waves]
    before = names[: names.index(write.new.wave)] if write.new.wave in names else names
    missing = [name for name in before if name not in facts.proven.get(row.name, frozenset())]
    return f"{write.device.name} got {write.new.revision} before {missing} stood" if missing else ""


def approvals_are_asked_for(write: Write, facts: Facts) -> str:
    """A wave with manual approval begins when this revision was approved for it."""
    row, wave = write.deployment, write.new.wave
    manual = {each.name for each in row.policy.update_strategy.rolling_update.waves if each.approval == "Manual"}
    if wave not in manual or write.new.revision != row.template.revision:
        return ""
    approved = f"{row.template.revision}/{wave}" in row.approved
    return "" if approved else f"{write.device.name} got {write.new.revision} in {wave}, which nobody approved"


def a_stopped_revision_is_offered_to_nobody(write: Write, facts: Facts) -> str:
    """What the failure policy stopped reaches no further device."""
    row = write.deployment
    if (row.name, row.generation) not in facts.calm.stopped or write.new.revision == row.status.current_revision:
        return ""
    offered = write.new.revision == row.template.revision
    return f"{write.device.name} got {write.new.revision}" if offered and not facts.calm.blind else ""


PROMISES: Final[tuple[Callable[[Write, Facts], str], ...]] = (
    max_unavailable_holds,
    every_budget_holds,
    one_process_for_each_device,
    paused_means_no_writes,
    maintenance_is_respected,
    offline_devices_are_deferred,
    untested_revisions_wait_for_their_wave,
    approvals_are_asked_for,
    a_stopped_revision_is_offered_to_nobody,
)
