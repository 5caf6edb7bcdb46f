"""A status write before it is sent: what changes, and which events tell of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.codec import encode
from praetor_api.kube.objects import DeviceProcessStatus, NetworkSwitchStatus
from praetor_api.kube.runtime.events import ObjectRef
from praetor_gateway.fleet.rows import ProcessRow, SwitchRow
from praetor_gateway.status import transitions
from praetor_gateway.status.transitions import Transition


@frozen
class Target:
    """The object whose status is to be written."""

    resource: Resource
    key: Key


@frozen(kw_only=True)
class Draft:
    """A conditional merge patch of a status, the events to record once it is written, and what they are about."""

    patch: Mapping[str, Any]
    transitions: tuple[Transition, ...]
    regarding: ObjectRef


def of_process(row: ProcessRow, status: DeviceProcessStatus, *, has_switch: bool) -> Draft | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    if status == row.status:
        return None
    happened = transitions.of_process(row.status, status, has_switch=has_switch)
    return _draft(DEVICE_PROCESSES, row, status, happened)


def of_switch(row: SwitchRow, status: NetworkSwitchStatus) -> Draft | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    if status == row.status:
        return None
    return _draft(NETWORK_SWITCHES, row, status, transitions.of_switch(row.status, status))


def regarding(resource: Resource, row: ProcessRow | SwitchRow) -> ObjectRef:
    """Return how events refer to the object of *row*."""
    return ObjectRef(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=row.key.namespace,
        name=row.key.name,
        uid=row.uid,
    )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7386) from *old* to *new*, lists whole."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := difference(before, value):
                patch[name] = inner
        elif value != before:
            patch[name] = value
    return patch


def _draft(
    resource: Resource,
    row: ProcessRow | SwitchRow,
    status: DeviceProcessStatus | NetworkSwitchStatus,
    happened: tuple[Transition, ...],
) -> Draft:
    # the condition is on the version: conditions are replaced as a whole, so another writer's must not be lost
    patch = {
        "metadata": {"resourceVersion": row.resource_version},
        "status": difference(encode(row.status), encode(status)),
    }
    return Draft(patch=patch, transitions=happened, regarding=regarding(resource, row))
