# SPDX-License-Identifier: Apache-2.0
"""Functions that Kubernetes adds to CEL, for celpy. Imported only when the first rule is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from celpy import celtypes

from kubeplane.schema.quantities import parse_quantity


def _is_url(text: str) -> Any:
    parts = urlsplit(str(text))
    return celtypes.BoolType(bool(parts.scheme and (parts.netloc or parts.path)))


def _is_sorted(items: Sequence[Any]) -> Any:
    return celtypes.BoolType(all(a <= b for a, b in pairwise(items)))


def _index_of(items: Any, item: Any) -> Any:
    if isinstance(items, str):
        return celtypes.IntType(items.find(item))
    return celtypes.IntType(items.index(item) if item in items else -1)


def _last_index_of(items: Any, item: Any) -> Any:
    if isinstance(items, str):
        return celtypes.IntType(items.rfind(item))
    found = [index for index, each in enumerate(items) if each == item]
    return celtypes.IntType(found[-1] if found else -1)


def _find(text: str, pattern: str) -> Any:
    found = re.search(pattern, text)
    return celtypes.StringType(found[0] if found else "")


def _find_all(text: str, pattern: str) -> Any:
    return celtypes.ListType([celtypes.StringType(found[0]) for found in re.finditer(pattern, text)])


def _split(text: str, separator: str) -> Any:
    return celtypes.ListType([celtypes.StringType(part) for part in text.split(separator)])


def _substring(text: str, start: int, end: int | None = None) -> Any:
    return celtypes.StringType(text[start:end])


def _sum(items: Sequence[Any]) -> Any:
    return sum(items[1:], start=items[0]) if items else celtypes.IntType(0)


def _is_quantity(text: str) -> Any:
    try:
        parse_quantity(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(True)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isURL": _is_url,
    "isSorted": _is_sorted,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "find": _find,
    "findAll": _find_all,
    "split": _split,
    "substring": _substring,
    "sum": _sum,
    "min": lambda *items: min(items[0] if len(items) == 1 else items),
    "max": lambda *items: max(items[0] if len(items) == 1 else items),
    "lowerAscii": lambda text: celtypes.StringType(text.lower()),
    "upperAscii": lambda text: celtypes.StringType(text.upper()),
    "trim": lambda text: celtypes.StringType(text.strip()),
    "replace": lambda text, old, new: celtypes.StringType(text.replace(old, new)),
    "join": lambda items, separator="": celtypes.StringType(str(separator).join(items)),
    "isQuantity": _is_quantity,
    "quantity": lambda text: celtypes.DoubleType(parse_quantity(str(text))),
}
