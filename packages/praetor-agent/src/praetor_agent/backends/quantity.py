"""Quantities of the spec in the units that limits are written in. Pure; the spec's patterns hold already."""

from __future__ import annotations

import re

_SUFFIXES = {
    "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+)([A-Za-z]*)")


def bytes_of(quantity: int | str) -> int:
    """Return the bytes of a memory quantity, such as `64Mi`."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no quantity")
    return int(match[1]) * _SUFFIXES[match[2]]


def cpu_percent(quantity: int | str) -> str:
    """Return a CPU quantity, such as `500m`, `0.5` or `2`, in percent of one core."""
    whole, _, fraction = str(quantity).partition(".")
    thousandths = int(whole[:-1]) if whole.endswith("m") else int(whole) * 1000 + int(fraction.ljust(3, "0"))
    percent, tenths = divmod(thousandths, 10)
    return f"{percent}.{tenths}" if tenths else str(percent)
