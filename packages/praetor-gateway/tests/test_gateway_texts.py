# SPDX-License-Identifier: Apache-2.0
"""What devices and users write is never interned, for Python 3.12.0 to 3.12.6 never frees it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway_testing import GatewayLab, one_device
from kube_testing import body_of, copied
from praetor_api.kube import texts
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.rows import CachedProcess, Projection

lab = pytest.fixture(one_device)


def fresh(text: str) -> str:
    """Return an equal text that is an object of its own."""
    return text.encode().decode()


def is_interned(text: str) -> bool:
    """Return whether *text*, which is long enough to be no constant, is in Python's own table."""
    return sys.intern(fresh(text)) is text


def texts_of(value: object) -> Iterator[str]:
    """Yield all texts in *value*: mappings, tuples, and attributes of objects."""
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from (*texts_of(name), *texts_of(each))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from texts_of(each)
    elif hasattr(value, "__attrs_attrs__"):
        for attribute in value.__attrs_attrs__:
            yield from texts_of(getattr(value, attribute.name))


async def test_nothing_that_a_device_says_is_interned(lab: GatewayLab) -> None:
    said = {name: f"{name} that a device says at 12:00:00" for name in ("version", "boot", "fact", "value", "message")}
    seen = {**await lab.running("leaf-1"), "updateHeldMessage": said["message"]}
    report = {"agentVersion": said["version"], "bootID": said["boot"], "revision": 1, "seq": 1}
    await lab.report("leaf-1", seen, facts={said["fact"]: said["value"]}, then_s=10, **report)
    device = lab.gateway._fleet.device("leaf-1")
    assert device is not None
    kept = [*texts_of(device.session), *texts_of(device.switch), *texts_of(device.processes)]
    for text in said.values():
        found = [each for each in kept if each == text]
        assert found, text
        assert not any(map(is_interned, found)), text


def test_nothing_that_users_write_is_interned() -> None:
    labels = {"site": "site that a user writes", "label that a user writes": "value that a user writes"}
    metadata: dict[str, Any] = {
        "labels": labels,
        "uid": "u",
        "resourceVersion": "1",
        "namespace": "namespace that a user makes",
    }
    manager = f"a/b/{'0' * 32}1"
    metadata["managedFields"] = [{"manager": manager, "time": "2026-01-01T00:00:00Z"}]
    spec = {"deviceRef": {"name": "leaf-1", "namespace": "namespace that a user names"}}
    projection = Projection("site")
    switch = projection.switch(copied(body_of(NETWORK_SWITCHES, "leaf-1", metadata)))
    process = projection.process(copied(body_of(DEVICE_PROCESSES, "a", metadata, spec=spec)))
    kept = [*texts_of(switch), *texts_of(process)]
    assert manager in kept
    for text in kept:
        if "that a user" in text or text == manager:
            assert not is_interned(text), text


def test_a_process_keeps_the_text_of_its_boot_from_version_to_version() -> None:
    fleet = DeviceIndex(lambda _: None)
    projection = Projection("site", known=fleet.row)

    def read(boot: str) -> str:
        metadata = {"name": "p", "namespace": "lab", "uid": "u", "resourceVersion": "5"}
        status: dict[str, Any] = {"reported": {"bootID": fresh(boot)}}
        row = projection.process({"metadata": metadata, "spec": {"deviceRef": {"name": "leaf-1"}}, "status": status})
        fleet.on_change(row.key, fleet.process(row.key), row)
        found = fleet.process(Key("lab", "p"))
        assert isinstance(found, CachedProcess)
        assert found.status.reported is not None
        return found.status.reported.boot_id

    first = read("boot 1")
    texts._last.cache_clear()
    assert read("boot 1") is first
    assert read("boot 2") == "boot 2"


async def test_a_session_shares_the_text_of_its_boot_with_what_is_on_record(lab: GatewayLab) -> None:
    seen = {**await lab.running("leaf-1"), "revision": 1}
    await lab.report("leaf-1", seen, bootID="boot of leaf-1", revision=1, then_s=10)
    device = lab.gateway._fleet.device("leaf-1")
    assert device is not None
    session, [row] = device.session, device.served
    assert row.status.reported is not None
    assert session.boot_id is row.status.reported.boot_id
    session.boot_id = None
    texts._last.cache_clear()
    await lab.report("leaf-1", bootID=fresh("boot of leaf-1"), seq=1, revision=1)
    assert session.boot_id is session._counted_boot is row.status.reported.boot_id
