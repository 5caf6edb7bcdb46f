# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.names import (
    MAX_NAME_LENGTH,
    device_reference,
    hashed_process_name,
    is_device_name,
    process_name,
    referenced_device,
)
from praetor_api.spec import DeviceKind

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


def test_a_reference_names_the_kind_unless_it_is_a_switch() -> None:
    for kind in DeviceKind:
        assert referenced_device(device_reference(kind, "leaf-1")) == (kind, "leaf-1")
    assert device_reference(DeviceKind.NETWORK_SWITCH, "leaf-1") == "leaf-1"
    assert device_reference(DeviceKind.DPU, "leaf-1") == "DPU/leaf-1"


def test_processes_on_devices_of_two_kinds_with_one_name_have_different_names() -> None:
    assert process_name("web", "leaf-1") == "web-leaf-1"
    assert process_name("web", "DPU/leaf-1") == "web-dpu-leaf-1"
    assert hashed_process_name("web", "DPU/leaf-1") != hashed_process_name("web", "dpu-leaf-1")
    long = process_name("web", f"DPU/{'a' * 253}")
    assert is_device_name(long)
    assert long.startswith("web-dpu-a")
