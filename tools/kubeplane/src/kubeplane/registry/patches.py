# SPDX-License-Identifier: Apache-2.0
"""Patches: JSON patch, merge patch, and strategic merge patch for the built-in kinds."""

from __future__ import annotations

from typing import Any

from kubeplane.errors import ApiError, Obj, bad_request

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

# keys by which strategic merge identifies list items, by the list's field name; lists elsewhere are replaced
_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "topologySpreadConstraints": ("topologyKey",),
}
_MERGED_SETS = frozenset({"finalizers"})


def json_patch(obj: Obj, patch: Any) -> Obj:
    """Return *obj* after the operations; ApiError 400 for what is no patch, 422 for one that does not fit."""
    import jsonpatch

    if not isinstance(patch, list):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    try:
        return dict(jsonpatch.apply_patch(obj, patch))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, ValueError) as error:
        message = "the server rejected our request due to an error in our request"
        raise ApiError(422, "Invalid", message, {}) from error


def merge_patch(obj: Any, patch: Any) -> Any:
    """Return *obj* after a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(obj: Any, patch: Any) -> Any:
    """Return *obj* after a strategic merge patch: lists with keys are merged, and kubectl's directives are known."""
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if key == "$retainKeys":
            merged = {kept: merged[kept] for kept in merged if kept in value}
        elif key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            merged[field] = [item for item in merged.get(field) or () if item not in value]
        elif not key.startswith("$"):
            _merge_field(merged, key, value, patch)
    return merged


def _merge_field(merged: Obj, key: str, value: Any, patch: Obj) -> None:
    if value is None:
        merged.pop(key, None)
    elif isinstance(value, list):
        merged[key] = _merged_list(key, merged.get(key) or [], value)
    else:
        merged[key] = strategic_merge(merged.get(key), value)


def _merged_list(field: str, items: list[Any], patch: list[Any]) -> list[Any]:
    if field in _MERGED_SETS:
        return list(dict.fromkeys([*patch, *items]))
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    key = next((k for k in _MERGE_KEYS.get(field, ()) if all(isinstance(i, dict) and k in i for i in patch)), None)
    if key is None:
        return patch
    return _merged_items(key, items, patch)


def _merged_items(key: str, items: list[Obj], patch: list[Obj]) -> list[Obj]:
    result = {item.get(key): item for item in items}
    for change in patch:
        if change.get("$patch") == "delete":
            result.pop(change[key], None)
        else:
            result[change[key]] = strategic_merge(result.get(change[key]), change)
    return list(result.values())
