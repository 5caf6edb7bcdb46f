# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors."""

from __future__ import annotations

import pytest

from kubeplane.errors import ApiError
from kubeplane.schema.selectors import fields_match, parse_fields, parse_labels


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
