# SPDX-License-Identifier: Apache-2.0
"""Rows: what the planner needs of objects, with slots, made once per change of an object.

Times are in seconds since the epoch. What an object alone decides is computed here, not in each pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from attrs import evolve, field, frozen

from praetor_api.canonical import spec_hash
from praetor_api.kube.objects import (
    Condition,
    FactRequirement,
    FactSelector,
    FailurePolicy,
    LabelSelector,
    StrategyType,
    UpdateStrategy,
)
from praetor_api.spec import DeviceKind
from praetor_api.values import references_of
from praetor_controller.model.overrides import OverrideChoice, merged_spec, override_fault
from praetor_controller.model.selectors import Matches

LabelItems = frozenset[tuple[str, str]]


@frozen(kw_only=True)
class DeviceRow:
    """A device that deployments can select. *name* is its reference: with its *kind* unless that is NetworkSwitch."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    connected: bool | None = None  # None: the gateway has not said
    connected_since: float | None = None
    in_maintenance: bool = False
    maintenance_until: float | None = None
    features: frozenset[str] = frozenset()  # what its agent knows beyond the first version
    facts: Mapping[str, str] | None = None  # what its agent reported; None: nothing yet
    unmet: str = ""  # why it does not meet the requirements of the deployment, while a pass looks at it
    address: str = ""  # where it is managed
    missing: str = ""  # what the template refers to and it lacks, as a reason, while a pass looks at it
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH
    withheld: str = ""  # why the gateway would not send it the template, as a reason, while a pass looks at it

    def maintained(self, now: float) -> bool:
        """Return whether it is in maintenance at *now*."""
        return self.in_maintenance and (self.maintenance_until is None or now < self.maintenance_until)


class Stamps(NamedTuple):
    """What the times of a process stand for: each changes with what it is about, and None is never reached.

    They are named as the times of ProcessRow.
    """

    offered_at: int | None
    ready_since: int | None
    settled_since: int | None
    silent_since: int | None
    run_since: int | None
    crashed_at: int | None
    terminating_since: int | None = None


@frozen(kw_only=True)
class ProcessRow:
    """A DeviceProcess. *device* is the reference of its device, empty when that is in another namespace.

    *revision*, *managed*, *wave*, *min_ready* and *offer_stamp* are annotations of the controller's last write of
    its spec. Offers of a rollout have a stamp that is not before its start, whichever clocks the controllers had that
    made them.

    Times are those of the object, for praetorctl to show; model.first_seen makes them the controller's own. Only
    *connected_since*, which is shown, stays the gateway's.
    """

    name: str
    namespace: str
    uid: str
    resource_version: str
    device: str
    owner: str | None  # uid of the controlling owner
    spec_hash: str  # of the spec without deviceRef
    labels: LabelItems = frozenset()
    annotations: LabelItems = frozenset()
    annotated: bool = False  # it has annotations, of any kind
    revision: str = ""
    managed: str = ""
    wave: str = ""
    min_ready: str = ""
    offered_at: float | None = None
    offer_stamp: float | None = None  # None: as offered_at
    created_at: float = 0.0
    terminating: bool = False
    terminating_since: float | None = None
    grace_s: float = 0.0  # between asking it to end and ending it by force
    finalizers: tuple[str, ...] = ()
    connected: bool | None = None
    connected_since: float | None = None
    fetched: bool | None = None  # a disconnected device had fetched the current spec; None when it is not known
    in_storm: bool = False  # its device fell silent with many others, which is no fault of it
    reported: bool = False  # the device reported it at least once
    observed: bool = False  # its status is about its current spec
    ready_since: float | None = None
    on_trial: bool = False  # its device does not vouch for the version yet: it is not available, however long ready
    settled_since: float | None = None  # as ready_since, but still known after the device went silent
    silent_since: float | None = None  # None for a silent one, too, if it was so when it was seen first
    run_since: float | None = None  # the run that it is in, or that ended last
    crashed_at: float | None = None  # when that ended, if the process ended too often
    stamps: Stamps | None = None
    failure: str = ""  # why it fails; empty when it does not
    removal: str = ""  # what a user approved its removal for
    held: str = ""  # why its connected device takes no change; empty when it takes changes

    @property
    def kept_at(self) -> float:
        """When a process that is being deleted, and shows itself ready all the same, is not down by our doing."""
        if not self.terminating or self.ready_since is None or self.terminating_since is None:
            return math.inf
        return self.terminating_since + self.grace_s

    def available_at(self, min_ready_s: float) -> float:
        """Return when it is, or was first, available, as far as time alone decides (inf: never)."""
        return math.inf if self.ready_since is None or self.on_trial else self.ready_since + min_ready_s


@frozen(kw_only=True)
class RolloutPolicy:
    """The part of a deployment's spec that says how to roll out, as the codec decodes it."""

    device_kinds: tuple[DeviceKind, ...] = (DeviceKind.NETWORK_SWITCH,)
    selector: LabelSelector
    fact_selector: FactSelector | None = None
    requirements: tuple[FactRequirement, ...] = ()
    update_strategy: UpdateStrategy = field(factory=UpdateStrategy)
    min_ready_seconds: int = 0
    progress_deadline_seconds: int = 600
    revision_history_limit: int = 10
    paused: bool = False
    failure_policy: FailurePolicy | None = None


@frozen(kw_only=True)
class Template:
    """What every process is to be. *spec* is as stored, so that fields of a newer API survive; *raw* is all of it.

    *overrides* are what some devices get instead, as stored. A template that is resolved for a device has none:
    *applied* are the indices of those that are in its spec, and *fault* is why that spec cannot be given to a device.
    """

    spec: Mapping[str, Any]
    spec_hash: str
    labels: LabelItems = frozenset()
    annotations: LabelItems = frozenset()
    revision: str = ""
    managed: str = ""
    raw: Mapping[str, Any] = {}
    overrides: Sequence[Mapping[str, Any]] = ()
    applied: Sequence[int] = ()
    fault: str = ""

    @cached_property
    def _choice(self) -> OverrideChoice:
        return OverrideChoice(self.overrides)

    @cached_property
    def _resolved(self) -> dict[tuple[int, ...], Template]:
        return {}

    @cached_property
    def refers(self) -> bool:
        """Whether it, or an override of it, refers to values outside of it."""
        return any(references_of(each) for each in (self.spec, *self.overrides))

    def applying(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """Return the indices of the overrides that a device with *labels* gets."""
        return self._choice.matching(labels) if self.overrides else ()

    def applied_to(self, labels: Sequence[Mapping[str, str]]) -> list[tuple[int, ...]]:
        """Return applying() for each of *labels*."""
        return self._choice.matching_each(labels)

    def resolved(self, labels: Mapping[str, str]) -> Template:
        """Return what a device with *labels* gets: one object for all devices with the same overrides."""
        return self.with_overrides(self.applying(labels))

    def with_overrides(self, applied: tuple[int, ...]) -> Template:
        """Return what a device gets that these overrides match, by their indices."""
        if not applied:
            return self
        found = self._resolved.get(applied)
        if found is None:
            spec = merged_spec(self.spec, [self.overrides[index] for index in applied])
            found = self._resolved[applied] = evolve(
                self,
                spec=spec,
                spec_hash=spec_hash(spec),
                overrides=(),
                applied=applied,
                fault=override_fault(spec, self.overrides, applied),
            )
        return found


@frozen(kw_only=True)
class StoredStatus:
    """The deployment's status when it was read, and its raw form to compare with."""

    current_revision: str | None = None
    update_revision: str | None = None
    failed_revision: str | None = None
    conditions: tuple[Condition, ...] = ()
    raw: Mapping[str, Any] = {}


@frozen(kw_only=True)
class DeploymentRow:
    """A deployment; *fault* says why it cannot be acted on, and is empty when it can.

    *approved* are the approved waves, as `<revision>/<wave>`. *change_cause* is why its template was changed last, in
    the words of the user who changed it. A change of *retry* asks for another attempt at refused
    writes.
    """

    name: str
    namespace: str
    uid: str
    resource_version: str = ""
    generation: int = 0
    terminating: bool = False
    template: Template
    policy: RolloutPolicy
    matches: Matches = field(eq=False)  # follows from policy.selector
    fact_matches: Callable[[Mapping[str, str] | None], bool] | None = field(default=None, eq=False)  # None: all do
    approved: frozenset[str] = frozenset()
    change_cause: str = ""
    retry: str = ""
    status: StoredStatus = StoredStatus()
    fault: str = ""

    def selects(self, device: DeviceRow) -> bool:
        """Return whether *device* has the kind, the labels and the facts that the deployment asks for."""
        return (  # once for each device and pass: covers() would be a call more
            device.kind in self.policy.device_kinds
            and self.matches(device.labels)
            and (self.fact_matches is None or self.fact_matches(device.facts))
        )

    def covers(self, device: DeviceRow) -> bool:
        """Return whether *device* has the kind and the labels that the deployment asks for."""
        return device.kind in self.policy.device_kinds and self.matches(device.labels)

    @property
    def reads_facts(self) -> bool:
        """Whether what devices report of themselves decides anything."""
        return self.fact_matches is not None or bool(self.policy.requirements)

    @property
    def strategy(self) -> StrategyType:
        return self.policy.update_strategy.type

    @property
    def max_unavailable(self) -> int | str:
        return self.policy.update_strategy.rolling_update.max_unavailable
