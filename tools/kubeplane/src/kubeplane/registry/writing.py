# SPDX-License-Identifier: Apache-2.0
"""What comes in becomes what is stored: decoding, pruning, defaulting, preparation and validation of one object."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kubeplane.errors import ApiError, Cause, Obj, bad_request, invalid
from kubeplane.kinds import builtin_rules, definitions
from kubeplane.kinds.resources import Resource
from kubeplane.registry import metadata
from kubeplane.schema.structural import default, prune
from kubeplane.schema.validation import duplicates, invalid_value, validate

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_ATTEMPTS = 8
_BLOCKING = ("Required value", "must be of type", "should have at most", "should be at most")
_UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


@dataclass(slots=True)
class Options:
    """How a write was asked for; *warnings* collects what the answer will warn of."""

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"  # of unknown fields: Strict, Warn or Ignore
    force: bool = False
    patched: bool = False  # the object was made by a patch, so that its faults are faults of the patch
    trusted: bool = False  # rules of definitions are compiled later, beside the serving
    warnings: list[str] = field(default_factory=list)


def decode(resource: Resource, namespace: str, name: str, body: Any) -> Obj:
    """Return the object of a request's body, checked against the request's path; ApiError 400 or 422."""
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    _check_kind(resource, body)
    given = body.get("metadata")
    if given is None:
        given = {}
    wrong = metadata.mistyped(given) if isinstance(given, dict) else "metadata: expects object"
    if wrong:
        raise _unhandled(resource, wrong)
    cleaned = metadata.cleaned(given)
    _check_place(resource, namespace, name, cleaned)
    head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": cleaned}
    return {**head, **{key: value for key, value in body.items() if key not in head}}


def _unhandled(resource: Resource, why: str) -> ApiError:
    kind, version = resource.kind, resource.version
    return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')


def _check_kind(resource: Resource, body: Obj) -> None:
    version, kind = body.get("apiVersion"), body.get("kind")
    if not resource.custom:
        version, kind = version or resource.api_version, kind or resource.kind
    if not kind or not version:
        missing = "apiVersion" if kind else "Kind"
        raise _unhandled(resource, f"unmarshalerDecoder: Object '{missing}' is missing in '{json.dumps(body)}'")
    if version != resource.api_version:
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({resource.api_version})"
        )
    if kind != resource.kind:
        if not resource.custom:
            raise bad_request(f"{kind} in version {resource.version!r} cannot be handled as a {resource.kind}")
        name = str((body.get("metadata") or {}).get("name") or "")
        raise invalid(resource.group, str(kind), name, [invalid_value("kind", kind, f"must be {resource.kind}")])


def _check_place(resource: Resource, namespace: str, name: str, given: Obj) -> None:
    """Fill in the path's namespace; what the object itself says must not contradict the path."""
    if resource.namespaced:
        if given.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    elif given.pop("namespace", None):
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if name and not given.get("name"):
        raise bad_request(f"the name of the object ({name} based on URL) was undeterminable: name must be provided")
    if name and given["name"] != name:
        raise bad_request(f"the name of the object ({given['name']}) does not match the name on the URL ({name})")


def shape(resource: Resource, obj: Obj, options: Options, *, defaults: bool = True) -> Obj:
    """Prune and default *obj* in place and return it; ApiError 400 as strictness and types demand."""
    given = json.dumps(obj) if options.patched and options.validation == "Strict" else ""
    unknown = prune(obj, resource.schema, root=True)
    if unknown and options.validation != "Ignore":
        words = [f'unknown field "{path}"' for path in unknown]
        if options.validation == "Strict":
            raise _strict(resource, f"strict decoding error: {', '.join(words)}", given)
        options.warnings += words
    if defaults:
        default(obj, resource.schema)
    if not resource.custom:
        _check_types(resource, obj)
        for key in [key for key, value in obj.items() if value is None]:
            del obj[key]
    return obj


def _strict(resource: Resource, why: str, patched: str) -> ApiError:
    """Return the refusal of unknown fields; of *patched*, the object that a patch made, it is another one."""
    if not patched:
        return _unhandled(resource, why)
    return invalid("", "", "", [Cause("FieldValueInvalid", f"Invalid value: {json.dumps(patched)}: {why}", "patch")])


def _check_types(resource: Resource, obj: Obj) -> None:
    """Refuse wrong types as a built-in kind's typed decoder does; custom resources get them from validation."""
    for cause in validate(obj, resource.schema):
        if "must be of type" in cause.message:
            raise _unhandled(resource, f"json: cannot unmarshal: {cause.message}")


def check(resource: Resource, new: Obj, old: Obj | None, *, trusted: bool = False) -> None:
    """Raise ApiError 422 with every fault of *new*, which is about to be stored in place of *old*."""
    causes = list(metadata.faults(new["metadata"], resource.kind))
    if old:
        causes += metadata.change_faults(new["metadata"], old["metadata"])
    if resource.custom:
        causes += _custom_faults(resource, new, old)
    else:
        causes += builtin_rules.faults(resource, new, old)
    if resource.table == definitions.TABLE and not trusted:
        causes += definitions.rule_faults(new)
    if causes:
        raise invalid(resource.group, resource.kind, new["metadata"].get("name", ""), causes)


def _custom_faults(resource: Resource, new: Obj, old: Obj | None) -> Iterator[Cause]:
    # what did not change is not judged again: an older schema may have allowed it
    known = {key for key in new if old and key in old and new[key] == old[key]}
    content = {key: value for key, value in new.items() if key not in known and key != "metadata"}
    known_fields = frozenset(known | {"metadata"})
    found = [*validate(new, resource.schema, known=known_fields), *duplicates(content, resource.schema)]
    yield from found
    if any(word in cause.message for cause in found for word in _BLOCKING):
        if resource.rules.any:
            yield Cause("FieldValueInvalid", _UNCHECKED, "<nil>")
        return
    yield from resource.rules.check(new, old)


def generated_name(prefix: str, taken: Callable[[str], bool]) -> str:
    """Return the prefix, shortened if need be, and five random letters; a *taken* name after eight attempts.

    Kubernetes makes as many attempts since 1.32. The letters do not come from `random`: a test in the same process may
    have seeded it, and get the same names again.
    """
    name = ""
    for _ in range(_ATTEMPTS):
        name = prefix[:58] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
        if not taken(name):
            break
    return name
