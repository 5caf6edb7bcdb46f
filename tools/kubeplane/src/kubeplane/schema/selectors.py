# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: parsed once, then predicates over an object's labels or fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubeplane.errors import ApiError, bad_request

_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_COMPARE = re.compile(r"^(?P<key>[^\s!=,()<>]+)\s*(?P<op>==|=|!=|<|>)\s*(?P<value>[^\s!=,()<>]*)$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: *op* is in, notin, exists, absent, gt or lt over *values*."""

    key: str
    op: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.op:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case _:
                return _compares(self.op, value, next(iter(self.values)))


def _compares(op: str, value: str | None, bound: str) -> bool:
    if value is None or not re.fullmatch(r"-?\d+", value):
        return False
    return int(value) > int(bound) if op == "gt" else int(value) < int(bound)


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none means everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_labels(text: str) -> Selector:
    """Return the selector written as *text*; ApiError 400 when it cannot be parsed."""
    return Selector(tuple(_label_term(term, text) for term in _terms(text)))


def _terms(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    terms = [term.strip() for term in re.split(r"(?<!\\),(?![^(]*\))", text)]
    return [] if terms == [""] else terms


def _label_term(term: str, text: str) -> Requirement:
    requirement = _set_term(term) or _compare_term(term) or _existence_term(term)
    if requirement is None or not _KEY.match(requirement.key):
        raise _unparsable(text, term)
    bad = sorted(value for value in requirement.values if not _VALUE.match(value))
    if bad or (requirement.op in ("gt", "lt") and not re.fullmatch(r"-?\d+", next(iter(requirement.values)))):
        raise _unparsable(text, term)
    return requirement


def _unparsable(text: str, term: str) -> ApiError:
    return bad_request(f"unable to parse requirement: found {term!r} in the selector {text!r}")


def _set_term(term: str) -> Requirement | None:
    found = _SET.match(term)
    if not found:
        return None
    return Requirement(found["key"], found["op"], frozenset(v.strip() for v in found["values"].split(",")))


def _compare_term(term: str) -> Requirement | None:
    found = _COMPARE.match(term)
    if not found:
        return None
    op = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[found["op"]]
    return Requirement(found["key"], op, frozenset([found["value"]]))


def _existence_term(term: str) -> Requirement | None:
    if re.search(r"[\s=(),<>]", term.lstrip("!").strip()) or not term:
        return None
    return Requirement(term.lstrip("!").strip(), "absent" if term.startswith("!") else "exists")


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    negated: bool
    value: str


def parse_fields(text: str) -> tuple[FieldTerm, ...]:
    """Return the terms of a field selector: path=value, path==value or path!=value; ApiError 400 otherwise."""
    return tuple(_field_term(term, text) for term in _terms(text) if term)


def _field_term(term: str, text: str) -> FieldTerm:
    found = re.match(r"^(?P<path>[^=!]+)(?P<op>!=|==|=)(?P<value>.*)$", term)
    if not found:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
    return FieldTerm(found["path"], found["op"] == "!=", re.sub(r"\\(.)", r"\1", found["value"]))


def fields_match(terms: tuple[FieldTerm, ...], fields: Mapping[str, str]) -> bool:
    return all((fields.get(term.path, "") == term.value) != term.negated for term in terms)
