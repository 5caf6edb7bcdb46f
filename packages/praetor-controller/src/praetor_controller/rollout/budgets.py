# SPDX-License-Identifier: Apache-2.0
"""Failure domains: how many devices that share a rack, a pair or a feed are down, for whatever reason. Pure.

A domain is the values of a budget's labels; the devices that lack one of them are a domain together. A percentage is
of the deployment's devices in the domain, rounded up. Several budgets hold at the same time, and each must have room.
Those of other deployments hold, too, for the devices that these deployments match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property
from operator import itemgetter
from typing import TypeAlias

from praetor_api.kube.objects import Budget
from praetor_controller.model.amounts import amount
from praetor_controller.model.rows import DeviceRow
from praetor_controller.model.selectors import compile_selector
from praetor_controller.rollout.snapshot import SharedBudget

_PATH = "spec.updateStrategy.rollingUpdate.budgets"


Domain: TypeAlias = str | tuple[str, ...]
"""The value of the label of a budget, or the values of its labels if it has several."""
_NONE: Domain = "<none>"
"""The domain of the devices that lack a label of the budget; no label has this value."""
_NO_NAMES: Set[str] = frozenset()


class Domains:
    """The failure domains of one pass.

    budgets: those of the deployment.
    devices: those that the deployment matches, and those that leave it; percentages are of these.
    down: devices that other deployments have down.
    shared: budgets of other deployments that match some of *devices*. InvalidDeployment for a bad limit.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        devices: Sequence[DeviceRow],
        down: Iterable[DeviceRow],
        shared: Iterable[SharedBudget] = (),
    ) -> None:
        own = [_Budget(index, budget, devices) for index, budget in enumerate(budgets)]
        self._budgets = [*own, *(_Shared(index, each) for index, each in enumerate(shared))]
        for device in down:
            self.take(device)

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def take(self, device: DeviceRow) -> None:
        """Count *device* as down, once."""
        for budget in self._budgets:
            budget.take(device)

    def full(self, device: DeviceRow) -> str:
        """Return the first domain that has no room for *device*, such as `rack=r12 1/1`; empty when all have.

        A device that is down already needs no room of its own, but its domain must not exceed its limit.
        """
        for budget in self._budgets:  # most devices of a rollout ask: a generator for each would be half of it
            if full := budget.full(device):
                return full
        return ""


class _Budget:
    """One budget and the devices that are down in each of its domains."""

    def __init__(self, index: int, budget: Budget, devices: Sequence[DeviceRow]) -> None:
        self._keys = budget.group_by
        self._labels: Callable[[Mapping[str, str]], Domain] = itemgetter(*budget.group_by)
        self._value = budget.max_unavailable
        self._path = f"{_PATH}[{index}].maxUnavailable"
        self._devices = devices
        self._down: dict[Domain, set[str]] = {}
        self._limits: dict[Domain, int] = {}
        self._names: dict[tuple[Domain, int], str] = {}
        amount(self._value, 0, self._path)  # refuse a bad limit even when no device needs it

    def take(self, device: DeviceRow) -> None:
        domain = self._domain(device)
        if domain != _NONE or self._owns(device):  # what others have down elsewhere is in no domain of ours
            self._down.setdefault(domain, set()).add(device.name)

    def full(self, device: DeviceRow) -> str:
        domain = self._binding(device)
        if domain is None:
            return ""
        down = self._down.get(domain, _NO_NAMES)
        with_it = len(down) + (device.name not in down)  # what is down for another deployment stays down for this one
        return self._name(domain, len(down)) if with_it > self._limit(domain) else ""

    def _binding(self, device: DeviceRow) -> Domain | None:
        """Return the domain that *device* must have room in."""
        return self._domain(device)

    def _owns(self, device: DeviceRow) -> bool:
        """Return whether the deployment of the budget matches *device*."""
        return device.name in self._members

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(each.name for each in self._devices)

    def _domain(self, device: DeviceRow) -> Domain:
        try:
            return self._labels(device.labels)
        except KeyError:
            return _NONE

    def _limit(self, domain: Domain) -> int:
        limit = self._limits.get(domain)
        if limit is None:
            limit = self._limits[domain] = amount(self._value, self._size(domain), self._path)
        return limit

    def _size(self, domain: Domain) -> int:
        if not isinstance(self._value, str):
            return 0  # a plain number needs no size
        return self._sizes[domain]

    @cached_property
    def _sizes(self) -> Counter[Domain]:
        try:  # without a call for each device
            return Counter(map(self._labels, [device.labels for device in self._devices]))
        except KeyError:
            return Counter(map(self._domain, self._devices))

    def _name(self, domain: Domain, down: int) -> str:
        """Return the text for it, which all devices of the domain share."""
        name = self._names.get((domain, down))
        if name is None:
            name = self._names[domain, down] = f"{domain_text(self._keys, domain)} {down}/{self._limit(domain)}"
        return name


class _Shared(_Budget):
    """A budget of another deployment: every device that is down counts, but only devices that it matches wait."""

    def __init__(self, index: int, shared: SharedBudget) -> None:
        super().__init__(index, shared.budget, ())
        self._matches = compile_selector(shared.selector)
        self._shared = shared

    def _binding(self, device: DeviceRow) -> Domain | None:
        return self._domain(device) if self._owns(device) else None

    def _owns(self, device: DeviceRow) -> bool:
        return self._matches(device.labels)

    def _size(self, domain: Domain) -> int:
        return self._shared.sizes.get(domain_text(self._keys, domain), 0)

    def _name(self, domain: Domain, down: int) -> str:
        return f"{super()._name(domain, down)} of {self._shared.owner}"


def domain_text(keys: Sequence[str], domain: Domain) -> str:
    """Return the labels of *domain* as text, such as `rack=r12`."""
    if domain == _NONE:
        return f"{','.join(keys)}={_NONE}"
    values = (domain,) if isinstance(domain, str) else domain
    return ",".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))


def domain_of(budget: Budget, device: DeviceRow) -> str:
    """Return the failure domain of *device* as text."""
    values = tuple(device.labels[key] for key in budget.group_by if key in device.labels)
    return domain_text(budget.group_by, values if len(values) == len(budget.group_by) else _NONE)


def matches_nothing(budget: Budget, devices: Iterable[DeviceRow]) -> bool:
    """Return whether none of *devices* has the labels of *budget*, and it does not allow that."""
    return not budget.allow_empty and not any(all(key in row.labels for key in budget.group_by) for row in devices)


def domain_sizes(budget: Budget, devices: Iterable[DeviceRow]) -> dict[str, int]:
    """Return how many of *devices* each failure domain of *budget* has."""
    return Counter(domain_of(budget, device) for device in devices)
