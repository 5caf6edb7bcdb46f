# SPDX-License-Identifier: Apache-2.0
"""Merge patches (RFC 7386) and JSON patches (RFC 6902) of plain objects. Pure: nothing that is passed in is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["apply_json_patch", "apply_merge_patch", "diff_merge_patch", "json_pointer"]


def diff_merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that turns *old* into *new*; lists are replaced whole, and an equal pair gives `{}`."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if before == value:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = diff_merge_patch(before, value)
        patch[name] = value
    return patch


def apply_merge_patch(obj: Any, patch: Any) -> Any:
    """Return *obj* after the merge patch: None removes a member, an object is merged, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    new = dict(obj) if isinstance(obj, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = apply_merge_patch(new.get(name), value)
    return new


def apply_json_patch(obj: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return *obj* after `add`, `replace` and `remove` *operations* on members of objects, the ones we write.

    A parent that is missing is created and the removal of a missing member is ignored: whether the apiserver would
    refuse them is not decided here.
    """
    new: dict[str, Any] = copy.deepcopy(dict(obj))
    for operation in operations:
        *parents, last = (_unescaped(token) for token in operation["path"].split("/")[1:])
        target = new
        for parent in parents:
            target = target.setdefault(parent, {})
        if operation["op"] == "remove":
            target.pop(last, None)
        else:
            target[last] = operation["value"]
    return new


def json_pointer(*names: str) -> str:
    """Return the JSON pointer (RFC 6901) of a member: `("metadata", "labels", "a/b")` gives `/metadata/labels/a~1b`."""
    return "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in names)


def _unescaped(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")
