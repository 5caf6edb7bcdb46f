"""Failure domains: how many devices that share a rack, a pair or a feed are down, whoever took them down. Pure.

A domain is the values of a budget's labels; a device that lacks one of them is in none. A percentage is of the
deployment's devices in the domain, rounded up. Several budgets hold at a time, and each must have room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TypeAlias

from praetor_api.kube.objects import Budget
from praetor_controller.amounts import amount
from praetor_controller.rows import DeviceRow

_PATH = "spec.updateStrategy.rollingUpdate.budgets"


Domain: TypeAlias = str | tuple[str, ...]
"""The value of a budget's only label, or the values of its several."""


class Domains:
    """The failure domains of one pass. *down_elsewhere* are the devices that other deployments have down."""

    def __init__(
        self, budgets: Sequence[Budget], devices: Sequence[DeviceRow], down_elsewhere: Iterable[DeviceRow]
    ) -> None:
        self._budgets = [_Budget(index, budget, devices) for index, budget in enumerate(budgets)]
        for device in down_elsewhere:
            self.take(device)

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def take(self, device: DeviceRow) -> None:
        """Count *device* as down, once."""
        for budget in self._budgets:
            budget.take(device)

    def full(self, device: DeviceRow) -> str:
        """Return the first domain that has no room for *device*, such as `rack=r12 1/1`; empty when all have."""
        return next((full for budget in self._budgets if (full := budget.full(device))), "")

    def crowded(self, device: DeviceRow) -> str:
        """Return the first domain of *device*, which is down already, that has more down than it may; empty if none."""
        return next((full for budget in self._budgets if (full := budget.crowded(device))), "")


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
        self._sizes: Counter[Domain | None] | None = None  # until somebody asks
        self._names: dict[tuple[Domain, int], str] = {}
        amount(self._value, 0, self._path)  # refuse nonsense whether or not it is ever asked for

    def take(self, device: DeviceRow) -> None:
        domain = self._domain(device)
        if domain is not None:
            self._down.setdefault(domain, set()).add(device.name)

    def full(self, device: DeviceRow) -> str:
        domain = self._domain(device)
        if domain is None:
            return ""
        down = self._down.get(domain, ())
        with_it = len(down) + (device.name not in down)  # what is down for another deployment stays down for this one
        return self._name(domain, len(down)) if with_it > self._limit(domain) else ""

    def crowded(self, device: DeviceRow) -> str:
        domain = self._domain(device)
        if domain is None:
            return ""
        down = len(self._down.get(domain, ()))
        return self._name(domain, down) if down > self._limit(domain) else ""

    def _domain(self, device: DeviceRow) -> Domain | None:
        try:
            return self._labels(device.labels)
        except KeyError:
            return None

    def _limit(self, domain: Domain) -> int:
        limit = self._limits.get(domain)
        if limit is None:
            limit = self._limits[domain] = amount(self._value, self._size(domain), self._path)
        return limit

    def _size(self, domain: Domain) -> int:
        if not isinstance(self._value, str):
            return 0  # nobody counts for a plain number
        if self._sizes is None:
            self._sizes = Counter(map(self._domain, self._devices))
        return self._sizes[domain]

    def _name(self, domain: Domain, down: int) -> str:
        """Return the words for it, which all devices of the domain share."""
        name = self._names.get((domain, down))
        if name is None:
            values = (domain,) if isinstance(domain, str) else domain
            labels = ",".join(f"{key}={value}" for key, value in zip(self._keys, values, strict=True))
            name = self._names[domain, down] = f"{labels} {down}/{self._limit(domain)}"
        return name
