# SPDX-License-Identifier: Apache-2.0
"""Devices of all kinds for the commands: lists, and the one that a user names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from praetor_api.kube.client.errors import Forbidden, NotFound
from praetor_api.kube.client.resource import DEVICES, Key
from praetor_api.names import device_reference
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.cluster import Cluster, list_all
from praetor_controller.ctl.errors import CommandFailed


@frozen
class Listed:
    """The devices of a namespace as raw objects with their kind, and the kinds that the cluster does not have."""

    objects: list[dict[str, Any]] = field(factory=list)
    missing: tuple[DeviceKind, ...] = ()


async def list_devices(cluster: Cluster, selector: str | None = None, *, everywhere: bool = False) -> Listed:
    """Return the devices of all kinds. Those of a kind that the user may not read, except of switches, are left out."""
    objects, missing = [], []
    for kind, resource in DEVICES.items():
        try:
            found = await list_all(cluster, resource, selector, everywhere=everywhere)
        except (NotFound, Forbidden) as e:
            if kind is DeviceKind.NETWORK_SWITCH:
                raise
            missing += [kind] if isinstance(e, NotFound) else []
        else:
            objects += [{**each, "kind": kind.value} for each in found]
    return Listed(objects, tuple(missing))


async def get_device(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the device *name*, which may be KIND/NAME, with its kind; CommandFailed when there is none."""
    kind, bare = split_name(name)
    for each in DEVICES if kind is None else (kind,):
        try:
            found = await cluster.api.get(DEVICES[each], Key(cluster.namespace, bare))
        except (NotFound, Forbidden) as e:
            if isinstance(e, Forbidden) and each in (kind, DeviceKind.NETWORK_SWITCH):
                raise
            continue
        return {**found, "kind": each.value}
    raise CommandFailed(f"not found: {cluster.namespace} has no device {name}; check the name and --namespace")


def kind_of(device: Mapping[str, Any]) -> DeviceKind:
    """Return the kind of a device as list_devices() returns it."""
    return DeviceKind(device.get("kind") or DeviceKind.NETWORK_SWITCH)


def reference_of(device: Mapping[str, Any]) -> str:
    """Return the reference of a device as list_devices() returns it."""
    return device_reference(kind_of(device), device["metadata"]["name"])


def split_name(name: str) -> tuple[DeviceKind | None, str]:
    """Return the kind and the name that a user wrote as KIND/NAME, as kubectl prints them; None without a kind."""
    word, slash, rest = name.partition("/")
    found = next((kind for kind in DEVICES if slash and word.lower().partition(".")[0] in _words(kind)), None)
    return (None, name) if found is None else (found, rest)


def found_reference(name: str, known: Iterable[str]) -> str:
    """Return the one of the references *known* that *name* means: itself, or the only one of that name."""
    kind, bare = split_name(name)
    if kind is not None:
        return device_reference(kind, bare)
    others = [each for each in known if each.rpartition("/")[2] == name]
    return others[0] if name not in others and len(others) == 1 else name


def _words(kind: DeviceKind) -> tuple[str, ...]:
    short = {DeviceKind.NETWORK_SWITCH: ("nsw",), DeviceKind.SERVER: ("srv",)}.get(kind, ())
    return (kind.lower(), DEVICES[kind].plural, *short)
