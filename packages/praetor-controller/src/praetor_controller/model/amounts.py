# SPDX-License-Identifier: Apache-2.0
"""Numbers of devices that may be given as a percentage. Pure."""

from __future__ import annotations

import math

from praetor_controller.errors import InvalidDeployment


def amount(value: int | str, devices: int, path: str) -> int:
    """Return how many of *devices* a number, or a percentage rounded up, is; *path* names the field in the error."""
    if isinstance(value, int):
        return max(0, value)
    percent = value.removesuffix("%")
    if percent == value or not percent.isdecimal():
        raise InvalidDeployment(f"{path}: {value!r} is neither a number nor a percentage")
    return math.ceil(devices * int(percent) / 100)


def is_amount(value: int | str) -> bool:
    """Return whether *value* is a number or a percentage."""
    try:
        amount(value, 0, "")
    except InvalidDeployment:
        return False
    return True


def max_unavailable(value: int | str, devices: int) -> int:
    """Return how many of *devices* the `maxUnavailable` of a rolling update is."""
    return amount(value, devices, "spec.updateStrategy.rollingUpdate.maxUnavailable")
