# SPDX-License-Identifier: Apache-2.0
"""The fleet in memory: sessions, rows and the index of devices."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from gateway_testing import process_row, switch_row
from praetor_api.annotations import MIN_READY_ANNOTATION
from praetor_api.canonical import canonical_json, spec_hash
from praetor_api.kube.client.resource import Key
from praetor_api.kube.objects import DeviceProcessStatus, NetworkSwitchStatus
from praetor_gateway.fleet.devices import EMPTY_ETAG, DeviceIndex
from praetor_gateway.fleet.rows import POOL_SIZE, CachedProcess, Projection
from praetor_gateway.fleet.session import FACTS, REPLAY_WINDOW_S, DeviceSession
from praetor_gateway.status.composer import patch_of_process


def test_a_report_with_a_lower_number_is_a_replay_for_a_while() -> None:
    session = DeviceSession()
    assert not session.is_replay("b", 5, 10.0)
    assert session.is_replay("b", 4, 11.0)
    assert not session.is_replay("b", 5, 11.0)
    assert not session.is_replay("b", None, 11.0)
    assert not session.is_replay("", 1, 11.0)
    assert not session.is_replay("c", 1, 12.0)
    assert not session.is_replay("c", 0, 12.0 + REPLAY_WINDOW_S)


def test_a_session_requests_the_processes_that_were_not_reported() -> None:
    session = DeviceSession()
    session.expect(("a", "b"))
    session.took("a")
    session.took("a")
    session.took("other")
    assert list(session.unreported) == ["b"]
    session.expect(("a", "c"))
    assert list(session.unreported) == ["c"]
    session.expect(("b",))
    session.expect(("a", "b"))
    assert list(session.unreported) == ["a", "b"]


def test_a_session_requests_a_resync_of_a_process_once() -> None:
    session = DeviceSession()
    session.expect(("a", "b"))
    session.request_resync("a")
    assert list(session.unreported) == ["a", "b"]
    session.took("a")
    session.took("b")
    session.request_resync("a")
    session.request_resync("a")
    session.request_resync("other")
    assert list(session.unreported) == ["a"]
    session.expect(("a", "b", "c"))
    assert list(session.unreported) == ["a", "c"]


def known(session: DeviceSession) -> tuple[object, ...]:
    return (session.agent_version, session.boot_id, session.facts)


def test_a_session_drops_what_another_replica_replaced_and_requests_facts() -> None:
    session = DeviceSession()
    session.agent_version, session.boot_id, session.facts = "1", "b", {"os": "x"}
    was = NetworkSwitchStatus(agent_version="1", boot_id="b", facts={"os": "x"})
    session.superseded(was, evolve(was, observed_generation=2))
    assert known(session) == ("1", "b", {"os": "x"})
    session.superseded(was, NetworkSwitchStatus(agent_version="2", boot_id="c", facts={"os": "y"}))
    assert known(session) == (None, None, None)
    assert list(session.unreported) == [FACTS]
    session.expect(("a",))
    assert list(session.unreported) == ["a", FACTS]
    session.took(FACTS)
    session.expect(("a",))
    assert list(session.unreported) == ["a"]


def test_a_session_keeps_what_it_heard_until_it_is_written() -> None:
    session = DeviceSession()
    session.agent_version, session.boot_id, session.facts = "3", "d", {"os": "z"}
    was = NetworkSwitchStatus(agent_version="1", boot_id="b", facts={"os": "x"})
    session.superseded(was, NetworkSwitchStatus(agent_version="2", boot_id="c", facts={"os": "y"}))
    assert known(session) == ("3", "d", {"os": "z"})
    assert not session.unreported


def test_a_replay_is_recognized_after_its_boot_was_superseded() -> None:
    session = DeviceSession()
    assert not session.is_replay("b", 5, 10.0)
    session.boot_id = "b"
    session.superseded(NetworkSwitchStatus(boot_id="b"), NetworkSwitchStatus(boot_id="c"))
    assert session.is_replay("b", 4, 11.0)


def stored(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": "lab", "uid": "u", "resourceVersion": "5", "generation": 1}
    return {"metadata": metadata, "spec": {"deviceRef": {"name": "leaf-1"}}, **changes}


@pytest.mark.parametrize(
    "status", [{"phase": "Dancing"}, {"conditions": ["x"]}, {"conditions": 3}, {"conditions": [{"type": "Healthy"}]}]
)
def test_a_status_that_breaks_its_schema_reads_as_empty(status: dict[str, Any]) -> None:
    assert Projection("site").process(stored(status=status)).status == DeviceProcessStatus()


def test_the_hash_is_that_of_the_stored_spec() -> None:
    spec = {"deviceRef": {"name": "leaf-1"}, "b": 1, "a": ["\u00e9"]}
    assert Projection("site").process(stored(spec=spec)).spec_hash == spec_hash(spec)


@pytest.mark.timeout(600)  # one condition more than the pool holds
def test_equal_conditions_are_pooled_and_the_pool_is_bounded() -> None:
    projection = Projection("site")
    condition = {"type": "Healthy", "status": "True", "reason": "Healthy"}
    status = {"conditions": [condition]}
    first, second = projection.process(stored(status=status)), projection.process(stored(status=status))
    assert first.status.conditions[0] is second.status.conditions[0]
    many = [{**condition, "message": str(number)} for number in range(POOL_SIZE + 1)]
    assert len(projection.process(stored(status={"conditions": many})).status.conditions) == POOL_SIZE + 1
    assert projection.pooled <= POOL_SIZE


def test_the_parts_that_specs_share_are_pooled() -> None:
    projection = Projection("site")
    spec = {"artifact": {"type": "file", "url": "file:///a"}, "execution": {"command": ["/bin/a"]}}
    rows = [projection.process(stored(spec={"deviceRef": {"name": name}, **spec})) for name in ("leaf-1", "leaf-2")]
    assert [row.spec for row in rows] == [
        canonical_json({"deviceRef": {"name": name}, **spec}) for name in ("leaf-1", "leaf-2")
    ]
    assert rows[0].parts is rows[1].parts


def test_what_processes_have_in_common_is_one_object_unless_their_deployments_differ() -> None:
    projection = Projection("site")
    here, annotations = (
        {"name": "p", "namespace": "lab", "uid": "u", "resourceVersion": "5"},
        {MIN_READY_ANNOTATION: "9"},
    )
    others = [here, {**here, "namespace": "other"}, {**here, "annotations": annotations}]
    first, again, elsewhere, later = (projection.process(stored(metadata=each)) for each in (here, *others))
    assert again.shared is first.shared
    assert elsewhere.device_namespace == "other"
    assert (first.min_ready_seconds, later.min_ready_seconds) == (0, 9)


def test_the_next_version_of_an_object_keeps_its_identity_unless_it_was_created_again() -> None:
    fleet = DeviceIndex(lambda _: None)
    projection = Projection("site", known=fleet.row)

    def read(uid: str, device: str) -> CachedProcess:
        texts = [bytes(text, "ascii").decode() for text in ("p", uid, device)]  # each read has objects of its own
        metadata = {"name": texts[0], "namespace": "lab", "uid": texts[1], "resourceVersion": "5"}
        row = projection.process({"metadata": metadata, "spec": {"deviceRef": {"name": texts[2]}}})
        fleet.on_change(row.key, fleet.process(row.key), row)
        return row

    first, second, third = read("uid-1", "leaf-1"), read("uid-1", "leaf-1"), read("uid-2", "leaf-2")
    assert all(old is new for old, new in ((first.key, second.key), (first.uid, second.uid)))
    assert first.device is second.device
    assert (third.key, third.uid, third.device) == (first.key, "uid-2", "leaf-2")


@pytest.mark.parametrize(
    ("version", "kept"),
    [("7", 7), ("07", "07"), ("", ""), ("v1", "v1"), ("9" * 5000, "9" * 5000), ("\u0663", "\u0663")],
)
def test_a_version_is_kept_as_a_number_where_it_is_written_as_one(version: str, kept: int | str) -> None:
    row = process_row(resource_version=version)
    assert row.resource_version == kept
    written = patch_of_process(row, DeviceProcessStatus(pid=1), None, has_switch=True)
    assert written is not None
    assert written.body["metadata"] == {"resourceVersion": version}


@pytest.mark.parametrize(
    "more",
    [
        {"a": {"name": "leaf-1"}},
        {"a": '"deviceRef":{"name":"leaf-1"}'},
        {"deviceRef": {"kind": "NetworkSwitch", "name": "leaf-1", "namespace": "lab"}},
        {"deviceRef": {"a": {"name": "leaf-1"}, "b": {"name": "x"}, "name": "leaf-1"}},
        {"deviceRef": {"kind": "leaf-1", "name": "leaf-1"}},
    ],
)
def test_a_spec_that_repeats_its_device_reference_is_served_as_it_is_stored(more: dict[str, Any]) -> None:
    spec = {"deviceRef": {"name": "leaf-1"}} | more
    assert Projection("site").process(stored(spec=spec)).spec == canonical_json(spec)


@pytest.fixture
def fleet() -> DeviceIndex:
    return DeviceIndex(lambda _: None)


def test_a_stale_echo_does_not_revert_a_write(fleet: DeviceIndex) -> None:
    old, new = process_row(resource_version="9"), process_row(resource_version="10", generation=3)
    fleet.on_change(old.key, None, old)
    fleet.update(new, own=True)
    fleet.on_change(old.key, None, old)
    assert fleet.process(old.key) == new
    fleet.on_change(old.key, new, None)
    fleet.update(new, own=True)
    assert fleet.process(old.key) is None
    assert len(fleet) == 0


def test_an_older_version_from_a_restored_backup_replaces_the_newer_one(fleet: DeviceIndex) -> None:
    lost = process_row(resource_version="10", generation=3)
    fleet.on_change(lost.key, None, lost)
    fleet.update(evolve(lost, resource_version="11"), own=True)
    restored = evolve(lost, resource_version="8", generation=2)
    fleet.on_change(lost.key, lost, restored)
    assert fleet.process(lost.key) == restored
    switch = switch_row(resource_version="10")
    fleet.on_change(switch.key, None, switch)
    fleet.on_change(switch.key, switch, evolve(switch, resource_version="8"))
    assert fleet.switch(switch.key) == evolve(switch, resource_version="8")


def test_the_object_read_after_a_conflict_replaces_the_cached_one_unless_it_changed_meanwhile(
    fleet: DeviceIndex,
) -> None:
    known, read = process_row(resource_version="10"), process_row(resource_version="8")
    fleet.on_change(known.key, None, known)
    fleet.update(read, restored=False)
    assert fleet.process(known.key) == known
    fleet.update(read, restored=True)
    assert fleet.process(known.key) == read
    switch, old = switch_row(resource_version="10"), switch_row(resource_version="8")
    fleet.update(old, restored=True)
    assert fleet.switch(switch.key) is None
    fleet.on_change(switch.key, None, switch)
    fleet.update(old, restored=True)
    assert fleet.switch(switch.key) == old


def test_a_process_that_is_created_again_for_another_device_moves_there(fleet: DeviceIndex) -> None:
    row = process_row()
    fleet.on_change(row.key, None, row)
    fleet.on_change(row.key, row, evolve(row, uid="uid-2", device="leaf-2"))
    assert fleet.device("leaf-1") is None
    device = fleet.device("leaf-2")
    assert device is not None
    assert device.etag != EMPTY_ETAG


def test_a_switch_that_moves_to_another_site_is_reported_as_changed() -> None:
    changed: list[str] = []
    fleet = DeviceIndex(changed.append)
    row = switch_row(site="a")
    fleet.on_change(row.key, None, row)
    fleet.on_change(row.key, row, evolve(row, resource_version="4"))
    assert changed == ["leaf-1"]
    fleet.on_change(row.key, row, evolve(row, resource_version="5", site="b"))
    assert changed == ["leaf-1", "leaf-1"]


@pytest.mark.parametrize(
    ("spec", "epoch"),
    [
        ({"credentialEpoch": 3}, 3),
        ({"credentialEpoch": 0}, 0),
        ({}, 0),
        (None, 0),
        *(({"credentialEpoch": nonsense}, 0) for nonsense in (None, -1, True, "2", 2.0, [2])),
    ],
)
def test_an_epoch_is_a_number_from_0_on_and_other_values_count_as_0(spec: object, epoch: int) -> None:
    assert Projection("site").switch({**stored(), "spec": spec}).credential_epoch == epoch


def test_a_device_has_the_epoch_of_its_switch_and_0_without_one() -> None:
    changed: list[str] = []
    fleet = DeviceIndex(changed.append)
    assert fleet.epoch("leaf-1") == 0
    row = switch_row(credential_epoch=2, created="2026-01-01T00:00:00Z")
    other = evolve(row, key=Key("a", "leaf-1"), uid="uid-o", credential_epoch=5, created="2026-01-02T00:00:00Z")
    for each in (other, row):
        fleet.on_change(each.key, None, each)
    assert fleet.epoch("leaf-1") == 2
    before = len(changed)
    fleet.on_change(row.key, row, evolve(row, resource_version="4"))
    assert len(changed) == before
    fleet.on_change(row.key, row, evolve(row, resource_version="5", credential_epoch=3))
    assert (fleet.epoch("leaf-1"), len(changed)) == (3, before + 1)


def test_the_answer_to_a_write_does_not_bring_a_deleted_switch_back(fleet: DeviceIndex) -> None:
    row = switch_row()
    fleet.update(row, own=True)
    fleet.on_change(row.key, row, None)
    assert fleet.switch(row.key) is None
    fleet.on_change(row.key, None, row)
    fleet.on_change(row.key, None, evolve(row, resource_version="1"))
    assert fleet.switch(row.key) == row
