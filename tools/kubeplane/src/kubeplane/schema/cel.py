# SPDX-License-Identifier: Apache-2.0
"""Validation rules in CEL (x-kubernetes-validations), compiled when they are first needed.

celpy takes a third of a second to import, so nothing here imports it before the first rule runs.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

from kubeplane.errors import Cause, Obj
from kubeplane.schema.structural import join
from kubeplane.schema.validation import list_identity

Program = Callable[[Any, Any], Any]

_MISSING = object()


def _below(schema: Obj) -> Iterator[Obj]:
    yield from (schema.get("properties") or {}).values()
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield schema[key]


def expressions(schema: Obj) -> Iterator[str]:
    """Yield every expression in the schema."""
    for rule in schema.get("x-kubernetes-validations") or ():
        yield from (rule[key] for key in ("rule", "messageExpression") if key in rule)
    for below in _below(schema):
        yield from expressions(below)


class Rules:
    """The rules of one schema; subtrees without rules are skipped."""

    def __init__(self, schema: Obj) -> None:
        self._schema = schema
        self._ruled: set[int] = set()  # subtrees with any rule
        self._transitions: set[int] = set()  # subtrees with a rule that compares with the old value
        self._note(schema)

    def _note(self, schema: Obj) -> tuple[bool, bool]:
        """Record whether the schema or anything below it has a rule, and whether one of them is a transition rule."""
        rules = schema.get("x-kubernetes-validations") or ()
        ruled, transition = bool(rules), any("oldSelf" in rule["rule"] for rule in rules)
        for below in _below(schema):
            found = self._note(below)
            ruled, transition = ruled or found[0], transition or found[1]
        if ruled:
            self._ruled.add(id(schema))
        if transition:
            self._transitions.add(id(schema))
        return ruled, transition

    @property
    def any(self) -> bool:
        return bool(self._ruled)

    def check(self, value: Obj, old: Obj | None) -> Iterator[Cause]:
        """Yield the rules that *value* breaks, given the *old* value of an update."""
        if id(self._schema) in self._ruled:
            yield from self._check(value, _MISSING if old is None else old, self._schema, "")

    def _check(self, value: Any, old: Any, schema: Obj, path: str) -> Iterator[Cause]:
        if id(schema) not in self._ruled or value is None:
            return
        unchanged = value == old
        if unchanged and id(schema) not in self._transitions:
            return  # what did not change is not judged again: an older schema may have allowed it
        for rule in schema.get("x-kubernetes-validations") or ():
            if not unchanged or "oldSelf" in rule["rule"]:
                yield from _broken(rule, value, old, schema, path)
        if isinstance(value, dict):
            known, extra = schema.get("properties") or {}, schema.get("additionalProperties")
            for key, item in value.items():
                below = known.get(key, extra)
                if isinstance(below, dict):
                    before = old.get(key, _MISSING) if isinstance(old, dict) else _MISSING
                    yield from self._check(item, before, below, join(path, key))
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            before_by_key = _by_identity(old, schema)
            for index, item in enumerate(value):
                before = before_by_key.get(_mark(item, schema), _MISSING) if before_by_key else _MISSING
                yield from self._check(item, before, schema["items"], join(path, index))


def _mark(item: Any, schema: Obj) -> str:
    return json.dumps(list_identity(item, schema), sort_keys=True)


def _by_identity(old: Any, schema: Obj) -> dict[str, Any]:
    """Return the old items of a map-like list; elsewhere items have no identity, and transition rules do not run."""
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map":
        return {}
    return {_mark(item, schema): item for item in old}


def _broken(rule: Obj, value: Any, old: Any, schema: Obj, path: str) -> Iterator[Cause]:
    transition = "oldSelf" in rule["rule"]
    if transition and old is _MISSING and not rule.get("optionalOldSelf"):
        return
    where = path + rule.get("fieldPath", "") if path else rule.get("fieldPath", "").lstrip(".")
    kind = schema.get("type", "object")
    try:
        if program(rule["rule"])(value, None if old is _MISSING else old):
            return
        message = _message(rule, value, old)
    except Exception as error:  # whatever a rule's evaluation raises is the object's fault, as in kube-apiserver
        message = f"rule evaluation error: {error}: {rule['rule']}"
    yield Cause(rule.get("reason", "FieldValueInvalid"), _worded(rule.get("reason"), kind, message), where or "<nil>")


def _worded(reason: str | None, kind: str, message: str) -> str:
    match reason:
        case "FieldValueForbidden":
            return f"Forbidden: {message}"
        case "FieldValueRequired":
            return f"Required value: {message}"
        case "FieldValueDuplicate":
            return f'Duplicate value: "{kind}"'
        case _:
            return f'Invalid value: "{kind}": {message}'


def _message(rule: Obj, value: Any, old: Any) -> str:
    if "messageExpression" in rule:
        message = program(rule["messageExpression"])(value, None if old is _MISSING else old)
        if isinstance(message, str) and message.strip() and "\n" not in message:
            return str(message)
    return str(rule.get("message") or f"failed rule: {rule['rule'].strip()}")


def syntax_error(expression: str) -> str:
    """Return why the expression cannot be compiled; empty when it can."""
    from celpy.celparser import CELParseError

    try:
        program(expression)
    except CELParseError as error:
        return str(error).partition("\n")[0] or "syntax error"
    return ""


_USES = re.compile(r"\b(self|oldSelf)\b(?:\s*\.\s*(\w+))?")
_REMEMBERED = 10_000


@lru_cache(maxsize=4096)
def program(expression: str) -> Program:
    """Return the expression as a function of self and oldSelf; raises celpy's error when it cannot be parsed.

    Of objects only the fields that the expression names are looked at, and answers are remembered by them: the
    objects of one deployment differ in what its rules do not speak of, and celpy takes half a millisecond a rule.
    """
    if expression.split() == ["self", "==", "oldSelf"]:  # the rule of what is immutable, asked with every write
        return operator.eq

    from celpy.adapter import json_to_cel

    environment = _environment()
    compiled = environment.program(environment.compile(expression), functions=_functions())
    named = {name: _fields_named(expression, name) for name in ("self", "oldSelf")}
    remembered: dict[str, Any] = {}

    def run(value: Any, old: Any) -> Any:
        values = {"self": _projected(value, named["self"])}
        if old is not None:
            values["oldSelf"] = _projected(old, named["oldSelf"])
        key = json.dumps(values, sort_keys=True)
        if key not in remembered:
            if len(remembered) > _REMEMBERED:
                remembered.clear()
            remembered[key] = compiled.evaluate({name: json_to_cel(each) for name, each in values.items()})
        return remembered[key]

    return run


def _fields_named(expression: str, name: str) -> frozenset[str] | None:
    """Return the fields of *name* that the expression uses, or None when it uses it as a whole."""
    fields = [found[2] for found in _USES.finditer(expression) if found[1] == name]
    return None if None in fields else frozenset(fields)


def _projected(value: Any, fields: frozenset[str] | None) -> Any:
    if fields is None or not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if key in fields}


@cache
def _environment() -> Any:
    import celpy

    return celpy.Environment(runner_class=celpy.InterpretedRunner)


@cache
def _functions() -> dict[str, Any]:
    """Return the extensions of Kubernetes that celpy lacks: strings, lists and URLs."""
    from kubeplane.schema import cel_functions

    return cel_functions.FUNCTIONS
