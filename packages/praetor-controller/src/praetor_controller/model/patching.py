"""What the API makes of the writes that a plan asks for: patches applied to plain objects. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any


def json_patched(obj: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return *obj* after *operations*, which add, replace or remove members of objects."""
    new: dict[str, Any] = copy.deepcopy(dict(obj))
    for operation in operations:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        target = new
        for part in parents:
            target = target.setdefault(part, {})
        if operation["op"] == "remove":
            target.pop(last, None)
        else:
            target[last] = operation["value"]
    return new


def merge_patched(obj: Any, patch: Any) -> Any:
    """Return *obj* after a merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    new = dict(obj) if isinstance(obj, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merge_patched(new.get(name), value)
    return new
