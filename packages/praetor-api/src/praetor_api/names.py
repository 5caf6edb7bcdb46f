# SPDX-License-Identifier: Apache-2.0
"""Names of devices, of the processes that a deployment makes for them, and of what the gateway keeps in the cluster."""

from __future__ import annotations

import hashlib
import re

from praetor_api.spec import NAME_PATTERN

__all__ = [
    "DEVICE_BINDINGS",
    "GATEWAY_LEASE",
    "MAX_NAME_LENGTH",
    "hashed_process_name",
    "is_device_name",
    "process_name",
]

GATEWAY_LEASE = "praetor-gateway-arbiter"
"""The Lease of the replica that decides which devices are connected."""
DEVICE_BINDINGS = "praetor-device-bindings"
"""The ConfigMap beside it that says to which namespace each contested device name belongs: stored data, as the Lease's
name is."""

MAX_NAME_LENGTH = 253
"""Longest object name (RFC 1123 subdomain), in characters."""

_NAME = re.compile(NAME_PATTERN.strip("^$"))
_HASH_LENGTH = 10


def is_device_name(name: str) -> bool:
    """Return whether *name* is an RFC 1123 subdomain of at most 253 characters."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def process_name(deployment: str, device: str) -> str:
    """Return the deterministic name of a deployment's process on a device: `<deployment>-<device>`.

    A name that would be too long is cut and ends in a hash of both.
    """
    name = f"{deployment}-{device}"
    return name if len(name) <= MAX_NAME_LENGTH else hashed_process_name(deployment, device)


def hashed_process_name(deployment: str, device: str) -> str:
    """Return the name to use when `<deployment>-<device>` is too long or taken by another owner.

    `a-b` on `c` and `a` on `b-c` share a plain name; the hash makes the two different.
    """
    digest = hashlib.sha256(f"{deployment}/{device}".encode()).hexdigest()[:_HASH_LENGTH]
    room = MAX_NAME_LENGTH - _HASH_LENGTH - 1
    return f"{deployment}-{device}"[:room].rstrip("-.") + f"-{digest}"
