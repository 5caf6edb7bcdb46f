# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from, and what it is made of. Values only."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from attrs import field, frozen

from praetor_api.kube.objects import Budget, Condition, LabelSelector
from praetor_controller.model.actions import Action
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Template
from praetor_controller.model.specs import Specs
from praetor_controller.model.wave_record import WaveRecord
from praetor_controller.rollout.reasons import Reason, ReasonCode


class GatewayState(StrEnum):
    """Whether a gateway judges which devices are connected; where that cannot be seen, it counts as judging.

    AWAITED: not known yet, in the first seconds. RETURNING: it judges again, and may not have noticed every silent
    device yet.
    """

    JUDGING = "Judging"
    AWAITED = "Awaited"
    GONE = "Gone"
    RETURNING = "Returning"


@frozen
class Moment:
    """Now: *wall* for people and for times that they wrote, and the time of rows, which is *ahead_s* seconds ahead.

    A controller measures what it saw by a clock that nothing sets; *ahead_s* is 0 unless its wall clock was set since.
    """

    wall: datetime
    ahead_s: float = 0.0

    @property
    def steady(self) -> float:
        """The time of rows, in seconds since the epoch."""
        return self.wall.timestamp() + self.ahead_s


@frozen(kw_only=True)
class SharedBudget:
    """A budget of another deployment, *owner*: it binds all that write to the devices that its *selector* matches.

    *sizes* are how many of these each failure domain has, by its labels such as `rack=r12`; empty for a plain number.
    """

    owner: str
    selector: LabelSelector
    budget: Budget
    sizes: Mapping[str, int] = field(factory=dict)


@frozen(kw_only=True)
class Snapshot:
    """The state of one deployment when it is planned. The flight recorder writes these fields, by these names.

    devices: those that match the selector.
    processes: those that the deployment owns.
    rollout_since: when the progress deadline began to run.
    taken_names: names of existing processes, of any owner.
    occupied: `<device>/<name>` of those of *taken_names* that run on the device already.
    leftovers: those of *taken_names* that a deleted deployment of the same name left.
    stored_as: hashes that the API is known to store for the template, when it changes what is written.
    in_flight: devices with a write of unknown outcome.
    refusals: devices and delete-refusal keys whose write the API refused, with its message.
    retry_at: when some of these are tried again, in seconds since the epoch (0: never).
    revision_since: when the revision's rollout began, if that was before *rollout_since*.
    revision_stamp: what offers of this rollout have as their stamp at least (None: as *revision_since*).
    watched_since: devices that were ready by then are shown as available (None: no others are than those that are).
    ahead_s: how many seconds the times of rows are ahead of the wall clock.
    proven: the revisions that were rolled out, and before which stamp each of these rollouts made its offers.
    current: the template of the revision that was rolled out last; None when it is unknown.
    current_stored_as: as *stored_as*, for *current*.
    variants: what the overrides of these templates make of them for the *devices*, as model.specs files it; empty
        unless the decision is recorded.
    variants_stored_as: as *stored_as*, for the *variants*, by the hash of what was written.
    down_elsewhere: devices of the namespace, matching or not, that neighbours (other deployments) have down.
    elsewhere_changes_at: when time alone may change *down_elsewhere*, in seconds since the epoch (inf: never).
    shared_budgets: budgets of neighbours that match some of the *devices*.
    gateway: whether a gateway judges the devices; none is offered anything unless one does.
    judged_since: since when one does, in seconds since the epoch, if that is later than the program's start.
    wave_record: what is remembered of the waves of this rollout.
    leaving: devices of processes that the deployment owns, which it does not match.
    unselected: those of *leaving* that only their facts unmatch, and the facts that the selector asks for, as text.
    removable: uids of processes that are unmatched for long enough to be deleted.
    removed: devices that a process was deleted from just now, because they no longer match.
    removals_change_at: when time alone may change *removable* or *removed*, in seconds since the epoch (inf: never).
    left_behind: devices with a process of another deployment that no longer matches them, and that deployment.
    """

    deployment: DeploymentRow
    devices: Sequence[DeviceRow]
    processes: Sequence[ProcessRow]
    rollout_since: datetime
    taken_names: Container[str] = frozenset()
    leftovers: Container[str] = frozenset()
    occupied: Container[str] = frozenset()
    stored_as: frozenset[str] = frozenset()
    in_flight: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(factory=dict)
    retry_at: float = 0.0
    revision_since: datetime | None = None
    revision_stamp: float | None = None
    watched_since: datetime | None = None
    ahead_s: float = 0.0
    proven: Mapping[str, float] = field(factory=dict)
    current: Template | None = None
    current_stored_as: frozenset[str] = frozenset()
    variants: Mapping[str, Template] = field(factory=dict)
    variants_stored_as: Mapping[str, frozenset[str]] = field(factory=dict)
    down_elsewhere: Sequence[DeviceRow] = ()
    elsewhere_changes_at: float = math.inf
    shared_budgets: Sequence[SharedBudget] = ()
    gateway: GatewayState = GatewayState.JUDGING
    judged_since: float = 0.0
    wave_record: WaveRecord = field(factory=WaveRecord)
    leaving: Sequence[DeviceRow] = ()
    unselected: Mapping[str, str] = field(factory=dict)
    removable: frozenset[str] = frozenset()
    removed: Sequence[DeviceRow] = ()
    removals_change_at: float = math.inf
    left_behind: Mapping[str, str] = field(factory=dict)


def specs_of(snapshot: Snapshot, template: Template, stored_as: frozenset[str]) -> Specs:
    """Return what *template*, which the API stores as *stored_as*, too, gives the devices of *snapshot*."""
    stored = {**snapshot.variants_stored_as, template.spec_hash: stored_as}
    return Specs(template, snapshot.devices, stored, snapshot.variants)


def delete_refusal_key(process: ProcessRow) -> str:
    """Return the key of `Snapshot.refusals` for a refused deletion of *process*; no device can have this name."""
    return f"{process.device}/{process.uid}"


@frozen(kw_only=True)
class Counts:
    """How many devices match, have a process, have the update revision, are ready, and are available."""

    desired: int = 0
    current: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0

    @property
    def unavailable(self) -> int:
        return self.desired - self.available


@frozen(kw_only=True)
class RolloutStatus:
    """The status that the deployment is to have."""

    observed_generation: int
    counts: Counts
    current_revision: str | None
    update_revision: str
    reasons: Mapping[ReasonCode, int]
    conditions: tuple[Condition, ...]
    wave: str | None = None
    failed_revision: str | None = None


@frozen(kw_only=True)
class WaveState:
    """How far one wave has come: of *counted* devices *available* have the revision; *needed* of them open the next.

    *passed*: they did, and it stays so.
    """

    name: str
    devices: int
    counted: int
    available: int
    needed: int
    open: bool
    passed: bool = False


@frozen(kw_only=True)
class Aggregate:
    """The sum over devices in steady state, each of which is judged by itself, and needs nothing.

    *progress_at* is the last step forward that one of them made, and *recheck_at* when time alone may change one (inf:
    never); both are in seconds since the epoch.
    """

    counts: Counts
    reasons: Mapping[ReasonCode, int]
    progress_at: float
    recheck_at: float


@frozen
class Removal:
    """A *process* whose device no longer matches, why it is not deleted now, and the *token* that approves it."""

    process: ProcessRow
    reason: Reason
    token: str


@frozen(kw_only=True)
class Plan:
    """What to write, the status to show, when to plan again, and each device's reason.

    *recheck_at* is when time alone may change the plan; None: never. *waves* is how far each wave has come, empty
    without waves and once the revision is rolled out; *waits_for* is what closes the next one. *wave_record* is to be
    stored before the actions are carried out; None: it is stored. *removals* are those that are
    not made now. *aggregate* is None unless all devices are in steady
    state.
    """

    actions: tuple[Action, ...] = ()
    status: RolloutStatus | None = None
    recheck_at: datetime | None = None
    reasons: Mapping[str, Reason] = field(factory=dict)
    waves: tuple[WaveState, ...] = ()
    waits_for: Reason | None = None
    wave_record: WaveRecord | None = None
    removals: Sequence[Removal] = ()
    aggregate: Aggregate | None = None

    @property
    def held_removals(self) -> Sequence[Removal]:
        """Those of the *removals* that wait until a user approves them."""
        return [each for each in self.removals if each.reason.code is ReasonCode.REMOVAL_HELD]
