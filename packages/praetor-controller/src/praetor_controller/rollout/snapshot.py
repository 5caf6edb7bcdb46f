"""What a plan is made from, and what it is made of. Values only."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from datetime import datetime

from attrs import field, frozen

from praetor_api.kube.objects import Budget, Condition, LabelSelector
from praetor_controller.model.actions import Action
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Template
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.waves import WaveState


@frozen(kw_only=True)
class SharedBudget:
    """A budget of another deployment, *owner*: it binds the devices that its *selector* matches, whoever writes there.

    *sizes* are how many of these each failure domain has, by its labels such as `rack=r12`; empty for a plain number.
    """

    owner: str
    selector: LabelSelector
    budget: Budget
    sizes: Mapping[str, int] = field(factory=dict)


@frozen(kw_only=True)
class Snapshot:
    """The world as one pass sees it: *devices* match the selector, *processes* belong to the deployment.

    *taken_names* are names of existing processes, *leftovers* those of them that a deleted deployment of the name left.
    *stored_as* are hashes that the API is known to store for this template, when it changes what we write.
    *rollout_since* is when the deadline began to run, *revision_since* when the revision did, if that was earlier.
    *current* is the template of the revision that was rolled out last, None when nobody knows it, and
    *current_stored_as* what *stored_as* is for it. *down_elsewhere* are devices of the namespace, whether they match or
    not, that other deployments have down, and *elsewhere_changes_at* is when time alone may change that.
    *shared_budgets* are those of the other deployments that match some of the *devices*, too.
    *in_flight* are devices with a write whose outcome nobody knows yet; *refusals* are those whose write was refused,
    and what must be kept(), with why.
    """

    deployment: DeploymentRow
    devices: Sequence[DeviceRow]
    processes: Sequence[ProcessRow]
    rollout_since: datetime
    taken_names: Container[str] = frozenset()
    leftovers: Container[str] = frozenset()
    stored_as: frozenset[str] = frozenset()
    in_flight: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(factory=dict)
    revision_since: datetime | None = None
    current: Template | None = None
    current_stored_as: frozenset[str] = frozenset()
    down_elsewhere: Sequence[DeviceRow] = ()
    elsewhere_changes_at: float = math.inf
    shared_budgets: Sequence[SharedBudget] = ()


def kept(process: ProcessRow) -> str:
    """Return by what `Snapshot.refusals` tells that *process* cannot be deleted; no device can be called so."""
    return f"{process.device}/{process.uid}"


@frozen(kw_only=True)
class Counts:
    """How many devices, by how they are."""

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
    """What the deployment's status shall say."""

    observed_generation: int
    counts: Counts
    current_revision: str | None
    update_revision: str
    reasons: Mapping[ReasonCode, int]
    conditions: tuple[Condition, ...]
    wave: str | None = None
    failed_revision: str | None = None


@frozen(kw_only=True)
class Tally:
    """What devices at rest amount to: those that nothing is to be done about, each judged by itself.

    *progress_at* is the last step forward that one of them made, and *next_look* when time alone may change one (inf:
    never); both are seconds since the epoch.
    """

    counts: Counts
    reasons: Mapping[ReasonCode, int]
    progress_at: float
    next_look: float


@frozen(kw_only=True)
class Plan:
    """What to do now, what to tell, when to look again, and why each device is where it is.

    *waves* is how far each wave has come, empty without waves and once everything was rolled out. *tally* is there when
    all devices are at rest.
    """

    actions: tuple[Action, ...] = ()
    status: RolloutStatus | None = None
    next_look: datetime | None = None
    reasons: Mapping[str, Reason] = field(factory=dict)
    waves: tuple[WaveState, ...] = ()
    tally: Tally | None = None
