# SPDX-License-Identifier: Apache-2.0
"""Kubernetes quantities: 100m, 1.5Gi, 2e3."""

from __future__ import annotations

import re

_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES |= {f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")}
_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([A-Za-z]*))\Z")


def parse_quantity(text: str) -> float:
    """Return the number that *text* stands for; ValueError when it is no quantity."""
    found = _QUANTITY.match(text)
    if not found or (found[3] or "") not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1] + (found[2] or "")) * _SUFFIXES[found[3] or ""]
