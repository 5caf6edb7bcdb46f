# SPDX-License-Identifier: Apache-2.0
"""Names of devices, of the processes that a deployment makes for them, and of what the gateway keeps in the cluster."""

from __future__ import annotations

import hashlib
import re

from praetor_api.spec import NAME_PATTERN, DeviceKind

__all__ = [
    "DEVICE_BINDINGS",
    "FILE_DIGESTS",
    "GATEWAY_LEASE",
    "MAX_NAME_LENGTH",
    "device_reference",
    "hashed_process_name",
    "is_device_name",
    "process_name",
    "referenced_device",
]

GATEWAY_LEASE = "praetor-gateway-arbiter"
"""The Lease of the replica that decides which devices are connected."""
DEVICE_BINDINGS = "praetor-device-bindings"
"""The ConfigMap beside it that says to which namespace each contested device name belongs: stored data, as the Lease's
name is."""
FILE_DIGESTS = "praetor-file-digests"
"""The ConfigMap beside it with digests of the contents that files of processes may have by reference."""

MAX_NAME_LENGTH = 253
"""Longest object name (RFC 1123 subdomain), in characters."""

_NAME = re.compile(NAME_PATTERN.strip("^$"))
_HASH_LENGTH = 10


def is_device_name(name: str) -> bool:
    """Return whether *name* is an RFC 1123 subdomain of at most 253 characters."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def device_reference(kind: DeviceKind, name: str) -> str:
    """Return what names a device within its namespace: `leaf-1` a switch, `DPU/leaf-1` another kind of that name."""
    return name if kind is DeviceKind.NETWORK_SWITCH else f"{kind}/{name}"


def referenced_device(reference: str) -> tuple[DeviceKind, str]:
    """Return kind and name of the device that device_reference() made *reference* of."""
    kind, slash, name = reference.partition("/")
    return (DeviceKind(kind), name) if slash else (DeviceKind.NETWORK_SWITCH, reference)


def process_name(deployment: str, device: str) -> str:
    """Return the deterministic name of a deployment's process on a device, given by its reference.

    That is `<deployment>-<device>` on a switch and `<deployment>-dpu-<device>` on a DPU. A name that would be too long
    is cut and ends in a hash of both.
    """
    name = _joined(deployment, device)
    return name if len(name) <= MAX_NAME_LENGTH else hashed_process_name(deployment, device)


def hashed_process_name(deployment: str, device: str) -> str:
    """Return the name to use when `<deployment>-<device>` is too long or taken by another owner.

    `a-b` on `c` and `a` on `b-c` share a plain name; the hash makes the two different.
    """
    digest = hashlib.sha256(f"{deployment}/{device}".encode()).hexdigest()[:_HASH_LENGTH]
    room = MAX_NAME_LENGTH - _HASH_LENGTH - 1
    return _joined(deployment, device)[:room].rstrip("-.") + f"-{digest}"


def _joined(deployment: str, device: str) -> str:
    kind, slash, name = device.partition("/")
    return f"{deployment}-{kind.lower()}-{name}" if slash else f"{deployment}-{device}"
