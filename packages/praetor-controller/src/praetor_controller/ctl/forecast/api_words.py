# SPDX-License-Identifier: Apache-2.0
"""What the API says of a manifest, in words that say what to write instead. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS
from praetor_api.kube.crds import CUSTOM_RESOURCES, crd

_STRICT = "strict decoding error: "
_NAMED = re.compile(r'unknown field "([^"]+)"')
_HEAD = ("apiVersion", "kind", "metadata", "status")
"""What an API fills in, or takes from no manifest."""
_ALIKE = 0.7
"""How much of a name must be as in another one, of 1."""
_SHOWN = 8
_MATCHES = "self.matches("


def refused_fields(message: str) -> tuple[str, ...]:
    """Return the paths of the fields that *message*, of an API that was asked to be strict, calls unknown."""
    _, said, fields = message.rpartition(_STRICT)
    return tuple(_NAMED.findall(fields)) if said else ()


def dropped_fields(manifest: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of what stands in *manifest* and not in what an API that knows no strictness made of it.

    A field that is null is as good as absent.
    """
    return tuple(_dropped({name: value for name, value in manifest.items() if name not in _HEAD}, stored, ""))


def _dropped(sent: object, stored: object, at: str) -> Iterator[str]:
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        for name, value in sent.items():
            path = f"{at}.{name}".lstrip(".")
            if name in stored:
                yield from _dropped(value, stored[name], path)
            elif isinstance(name, str) and value is not None:  # JSON has no other names, and writes them as text
                yield path
    elif isinstance(sent, list) and isinstance(stored, list):
        for index, (one, other) in enumerate(zip(sent, stored, strict=False)):
            yield from _dropped(one, other, f"{at}[{index}]")


def unknown_fields(paths: Iterable[str]) -> str:
    """Return a sentence for each of the fields at *paths* of a deployment, with what to write instead."""
    return "; ".join(f"{path}: {_remedy(path)}" for path in paths)


def _remedy(path: str) -> str:
    part, names = _schema(), re.sub(r"\[\d+\]", "", path).split(".")
    while names:
        known: Mapping[str, Any] = part.get("items", part).get("properties") or {}
        if names[0] not in known:
            return _instead(".".join(names), known)
        part = known[names.pop(0)]
    return "this cluster's API does not know it yet; apply the CRDs of this release first: kubectl apply -f crds/"


def _instead(wanted: str, known: Mapping[str, Any]) -> str:
    """Return what to write for the field *wanted* beside those *known*."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wanted.lower(), lower, 1, _ALIKE)
    if near:
        return f"is no field of the API; write {lower[near[0]]}"
    names = [*sorted(known)[:_SHOWN], *(["…"] if len(known) > _SHOWN else [])]
    return f"is no field of the API; {'fields there are ' + ', '.join(names) if names else 'leave it out'}"


def remedies(message: str) -> tuple[str, ...]:
    """Return what to write for each pattern that a value does not match by *message*, if that does not say so itself.

    An API before Kubernetes 1.25 knows patterns alone, and so does every one of the fields of overrides.
    """
    found = {words: None for pattern, words in _patterns() if f"should match '{pattern}'" in message}
    return tuple(words for words in found if words not in message)


@cache
def _patterns() -> tuple[tuple[str, str], ...]:
    """Return the patterns of the schema that have a rule beside them, and what that says."""
    return tuple(dict.fromkeys(_patterns_of(_schema())))


def _patterns_of(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for each in part.get("x-kubernetes-validations") or ():
        if each["rule"].startswith(_MATCHES):
            yield json.loads(each["rule"].removeprefix(_MATCHES).removesuffix(")")), each["message"]
    for below in (*(part.get("properties") or {}).values(), part.get("items"), part.get("additionalProperties")):
        if isinstance(below, Mapping):
            yield from _patterns_of(below)


@cache
def _schema() -> Mapping[str, Any]:
    (resource,) = (each for each in CUSTOM_RESOURCES if each.kind == DEVICE_PROCESS_DEPLOYMENTS.kind)
    (version,) = crd(resource)["spec"]["versions"]
    found: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
    return found
