# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.names import MAX_NAME_LENGTH, hashed_process_name, is_device_name, process_name

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,250}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("leaf-1", True),
        ("leaf-1.rack-2", True),
        ("a" * 253, True),
        ("a" * 254, False),
        ("", False),
        ("Leaf", False),
        ("leaf_1", False),
        ("-leaf", False),
        ("leaf.", False),
        ("..", False),
        ("a/b", False),
        ("leaf\n", False),
        ("a%2fb", False),
    ],
)
def test_a_device_is_named_as_kubernetes_names_things(name: str, *, good: bool) -> None:
    assert is_device_name(name) is good


def test_a_process_is_named_after_deployment_and_device() -> None:
    assert process_name("fw", "leaf-1") == "fw-leaf-1"


@given(names, names)
def test_every_process_name_is_a_valid_name(deployment: str, device: str) -> None:
    for name in (process_name(deployment, device), hashed_process_name(deployment, device)):
        assert is_device_name(name)
        assert len(name) <= MAX_NAME_LENGTH


def test_pairs_that_share_a_plain_name_get_different_hashed_names() -> None:
    assert process_name("a-b", "c") == process_name("a", "b-c")
    assert hashed_process_name("a-b", "c") != hashed_process_name("a", "b-c")
