# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.canonical import ItemVersion, canonical_json, desired_etag, etag_matches, spec_hash

ITEM: ItemVersion = ("u", "ns", "name", 1, "sha256:1")
OTHER: ItemVersion = ("v", "ns", "other", 1, "sha256:2")
ETAG = '"abc"'


def test_the_order_of_keys_does_not_change_the_hash() -> None:
    assert spec_hash({"b": 1, "a": [{"d": 1, "c": 2}]}) == spec_hash({"a": [{"c": 2, "d": 1}], "b": 1})


def test_the_hash_is_sha256_over_canonical_utf8_json() -> None:
    """Gateways of two versions must agree on it, so it is pinned; `printf '{}' | sha256sum` gives it."""
    assert canonical_json({"b": "ü", "a": [1, None]}) == '{"a":[1,null],"b":"ü"}'.encode()
    assert spec_hash({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        ({"execution": {"command": ["/x"]}}, "a385feb8214b38d2e250d9f3d9717ee7cdcba8551151734e86ae6c9dbda9b47e"),
        (
            {"execution": {"command": ["/x"], "env": []}},
            "3da221993fb10c24748f9c3476971b3a6f37aa17b29b6b2d7cbdb2201db49628",
        ),
        (
            {"execution": {"command": ["/x"], "args": [], "env": None}, "labels": {}},
            "613bd2f54ff8475492398e5466018cda6e855f9345f4a84c8a329997eaff18f7",
        ),
    ],
)
def test_the_hash_is_of_what_is_stored_empty_or_not(spec: object, digest: str) -> None:
    """Processes have been stored with them: another hash would restart each."""
    assert spec_hash(spec) == f"sha256:{digest}"


def test_numbers_that_json_cannot_represent_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_the_etag_is_quoted_and_does_not_depend_on_order() -> None:
    assert desired_etag([ITEM, OTHER]) == desired_etag([OTHER, ITEM])
    assert desired_etag([]).startswith('"')


@pytest.mark.parametrize("index", range(5), ids=["uid", "namespace", "name", "generation", "hash"])
def test_the_etag_covers_every_part_of_an_items_identity(index: int) -> None:
    changed: list[object] = list(ITEM)
    changed[index] = 2 if index == 3 else "changed"
    assert desired_etag([tuple(changed)]) != desired_etag([ITEM])  # type: ignore[list-item]  # built by index


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        pytest.param(ETAG, True, id="same"),
        pytest.param('"x", "abc"', True, id="in-a-list"),
        pytest.param('W/"abc"', True, id="weak"),
        pytest.param('W/"x",W/"abc" , "y"', True, id="weak-in-a-list"),
        pytest.param("*", True, id="any"),
        pytest.param(" * ", True, id="any-with-space"),
        pytest.param('"x"', False, id="other"),
        pytest.param("abc", False, id="unquoted"),
        pytest.param("", False, id="empty"),
        pytest.param(None, False, id="absent"),
        pytest.param('"x*"', False, id="star-inside"),
        pytest.param('"ab', False, id="cut"),
    ],
)
def test_if_none_match_is_read_as_http_says(header: str | None, *, matches: bool) -> None:
    assert etag_matches(header, ETAG) is matches


@given(st.text())
def test_no_header_raises(header: str) -> None:
    assert etag_matches(header, ETAG) in (True, False)
