# SPDX-License-Identifier: Apache-2.0
"""Constraints of fields, declared once for the wire reader and the CRD generator."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from praetor_api.backports import dataclass

__all__ = ["CelRule", "Constraint", "camel", "matching"]

_WORD = re.compile(r"_([a-z0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class CelRule:
    """A CEL rule of a schema: *expression* must hold, or the write fails with *message*."""

    expression: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # hashed by identity: `Annotated` hashes what it holds
class Constraint:
    """Bounds and description of one field, put beside its type with `Annotated`.

    Lengths count characters, `minimum` and `maximum` are inclusive. `wire` is
    the name in JSON where camelCase of the attribute's name is not it.
    `truncate` cuts text that a device may send freely, instead of refusing it. A field of a desired item that agents
    of the first version do not know says what they may do with it: `feature` names what an agent must know to get
    the item, unless the field has the value `as_before`; `ignorable` fields they may ignore. `part_of` is the class of
    which the field holds any of the fields, as a mapping: none of them is required, and none has its default.
    """

    doc: str = ""
    wire: str = ""
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    truncate: bool = False
    feature: str = ""
    as_before: str | bool | None = None
    ignorable: bool = False
    part_of: type | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[CelRule, ...] = ()


def matching(pattern: str, message: str) -> CelRule:
    """Return the rule that a text matches *pattern*, and what to write where it does not.

    A Constraint has the pattern beside it, for API servers that know no rules: they show that alone.
    """
    return CelRule(expression=f"self.matches({json.dumps(pattern)})", message=message)


def camel(name: str) -> str:
    """Return *name* in camelCase: `restart_policy` becomes `restartPolicy`."""
    return _WORD.sub(lambda match: match.group(1).upper(), name)
