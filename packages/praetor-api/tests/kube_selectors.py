"""Label and field selectors in their string form, judged on raw objects. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Predicate = Callable[[Mapping[str, Any]], bool]

_TERM = re.compile(r"\s*(?:[^,(]|\([^)]*\))+")
_SET = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^\s=!]+)\s*(?P<op>==|=|!=)\s*(?P<value>\S*)$")


def matches(
    obj: Mapping[str, Any], namespace: str | None, label_selector: str | None, field_selector: str | None
) -> bool:
    """Tell whether a list or watch with these parameters shows *obj*."""
    metadata = obj["metadata"]
    return (
        (namespace is None or metadata.get("namespace") == namespace)
        and labels_match(metadata.get("labels") or {}, label_selector or "")
        and _fields_match(obj, field_selector or "")
    )


def labels_match(labels: Mapping[str, str], selector: str) -> bool:
    """Tell whether *labels* satisfy each term of *selector*: ``a=b``, ``a!=b``, ``a in (b,c)``, ``a``, ``!a``."""
    return all(_label_matches(labels, term.strip()) for term in _TERM.findall(selector))


def _label_matches(labels: Mapping[str, str], term: str) -> bool:
    if found := _SET.match(term):
        values = {value.strip() for value in found["values"].split(",")}
        return (labels.get(found["key"]) in values) == (found["op"] == "in")
    if found := _EQUALITY.match(term):
        return (labels.get(found["key"]) == found["value"]) == (found["op"] != "!=")
    return term[1:].strip() not in labels if term.startswith("!") else term in labels


def _fields_match(obj: Mapping[str, Any], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, unequal, value = term.partition("!=")
        if not unequal:
            path, _, value = term.replace("==", "=").partition("=")
        if (_field(obj, path.strip()) == value.strip()) == bool(unequal):
            return False
    return True


def _field(obj: Mapping[str, Any], path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return str(value)
