# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors."""

from __future__ import annotations

import pytest

from kubeplane.errors import ApiError
from kubeplane.schema.selectors import fields_match, parse_fields, parse_labels

LABELS = {"app": "router", "tier": "edge", "rack": "12"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("app=router", True),
        ("app==router,tier=edge", True),
        ("app=switch", False),
        ("app!=switch", True),
        ("absent!=x", True),
        ("app in (router, switch)", True),
        ("app in (switch),tier=edge", False),
        ("app notin (switch)", True),
        ("app notin (switch,hub),rack", True),
        ("absent notin (x)", True),
        ("app", True),
        ("absent", False),
        ("!absent", True),
        ("!app", False),
        ("rack>11", True),
        ("rack<12", False),
        ("app>1", False),
        ("app=", False),
    ],
)
def test_labels_are_selected(text: str, holds: bool) -> None:
    assert parse_labels(text).matches(LABELS) is holds


@pytest.mark.parametrize("text", ["a b c", "a in b", "a=b=c", "=b", "a in (b", "a>x", "a=b!", ",", "-a"])
def test_a_selector_that_cannot_be_read_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_labels(text)
    assert (refused.value.code, refused.value.reason) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("metadata.name=a", True),
        ("metadata.name==a,spec.x!=2", True),
        ("metadata.name!=a", False),
        ("spec.y=", True),
        (r"spec.z=a\,b", False),
    ],
)
def test_fields_are_selected(text: str, holds: bool) -> None:
    assert fields_match(parse_fields(text), {"metadata.name": "a", "spec.x": "1"}) is holds


def test_a_field_selector_needs_an_operator() -> None:
    with pytest.raises(ApiError, match="can't understand"):
        parse_fields("metadata.name")
