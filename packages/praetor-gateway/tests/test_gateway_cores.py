"""The small pure parts: events of a step, the fast path of heartbeats, sessions, switches, patches, rows, headers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_testing import process_row, switch_row
from praetor_api.canonical import canonical_json, spec_hash
from praetor_api.kube.client.resource import Key
from praetor_api.kube.objects import DeviceProcessStatus, NetworkSwitchStatus, Phase, ProcessCounts
from praetor_api.protocol import Observation, read_report
from praetor_api.spec import RestartPolicy
from praetor_gateway.fleet.devices import EMPTY_ETAG, DeviceIndex
from praetor_gateway.fleet.rows import POOL_SIZE, CachedProcess, Projection
from praetor_gateway.fleet.session import FACTS, REPLAY_WINDOW_S, DeviceSession
from praetor_gateway.http.requests import preferred_wait
from praetor_gateway.reports.heartbeats import read_heartbeat
from praetor_gateway.status import events
from praetor_gateway.status.merge import merge
from praetor_gateway.status.patch import of_switch
from praetor_gateway.status.pending import PROGRESS_DEBOUNCE_S, RESULT_DEBOUNCE_S, debounce_s
from praetor_gateway.status.switch import SwitchFacts, counts, merge_switch

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def seen(**fields: Any) -> Observation:
    return Observation(**{"name": "agent-leaf-1", "observed_spec_hash": process_row().spec_hash, **fields})


UP = seen(process_started=True, healthy=True, pid=1)


def after(row: CachedProcess, observation: Observation | None, connected: bool | None = True) -> CachedProcess:
    return evolve(row, status=merge(row, observation, connected=connected, now=NOW))


NEVER = process_row(restart_policy=RestartPolicy.NEVER)


@pytest.mark.parametrize(
    ("row", "then", "expected"),
    [
        pytest.param(process_row(), UP, {"SpecObserved", "ProcessStarted", "Healthy", "AgentConnected"}, id="first"),
        pytest.param(after(process_row(), UP), UP, set(), id="nothing-new"),
        pytest.param(
            after(process_row(), UP),
            seen(process_started=True, healthy=False, pid=1),
            {"Unhealthy"},
            id="unhealthy",
        ),
        pytest.param(
            after(process_row(), UP),
            seen(process_started=False, error_message="boom"),
            {"ProcessFailed", "Unhealthy"},
            id="failed",
        ),
        pytest.param(
            after(process_row(), UP),
            seen(process_started=True, healthy=True, pid=2, restart_count=1),
            {"ProcessRestarted"},
            id="restarted",
        ),
        pytest.param(after(NEVER, UP), seen(exit_code=0), {"ProcessSucceeded"}, id="completed"),
        pytest.param(
            after(NEVER, UP), seen(exit_code=4, process_started=True), {"ProcessFailed", "Unhealthy"}, id="never-failed"
        ),
        pytest.param(
            after(process_row(), UP),
            seen(process_started=True, healthy=True, pid=1, warning_message="w"),
            {"SpecWarning"},
            id="warned",
        ),
        pytest.param(
            evolve(after(process_row(), UP), parts=(b"", b"{}", b""), generation=3),
            seen(
                process_started=True,
                healthy=True,
                pid=5,
                observed_spec_hash=process_row(parts=(b"", b"{}", b"")).spec_hash,
            ),
            {"SpecObserved"},
            id="next-spec",
        ),
    ],
)
def test_events_report_transitions_only(row: CachedProcess, then: Observation, expected: set[str]) -> None:
    new = merge(row, then, connected=True, now=NOW)
    assert {each.reason for each in events.of_process(row.status, new, has_switch=False)} == expected


def test_a_lost_connection_is_reported_on_the_switch_if_there_is_one() -> None:
    row = after(process_row(), UP)
    lost = merge(row, None, connected=False, now=NOW)
    assert [each.reason for each in events.of_process(row.status, lost, has_switch=False)] == ["AgentDisconnected"]
    assert events.of_process(row.status, lost, has_switch=True) == ()


def test_failures_are_not_debounced_and_progress_waits_longer_than_results() -> None:
    up = after(process_row(), UP)
    down = after(up, seen(process_started=False, error_message="x"))
    sick = after(up, seen(process_started=True, healthy=False, pid=1))
    waiting = after(process_row(), seen(artifact_downloaded=True))
    assert debounce_s(up.status, down.status) == 0.0
    assert debounce_s(up.status, sick.status) == 0.0
    assert debounce_s(waiting.status, up.status) == RESULT_DEBOUNCE_S
    assert debounce_s(waiting.status, after(waiting, seen(artifact_verified=True)).status) == PROGRESS_DEBOUNCE_S


plain = {"agentVersion": "1", "timestamp": "t", "heartbeat": True, "bootID": "b", "seq": 4, "observations": []}
words = st.sampled_from(["", "x", "\x1b", "y" * 64, "z" * 65])
heartbeats = st.fixed_dictionaries(
    {},
    optional={
        "agentVersion": words | st.none() | st.just(3),
        "timestamp": words | st.none(),
        "heartbeat": st.booleans() | st.none() | st.just(1),
        "bootID": words,
        "seq": st.integers(-1, 2**63) | st.booleans() | st.just(1.5),
        "observations": st.just([]) | st.just([{"name": "p"}]) | st.just({}) | st.none(),
        "facts": st.just({"os": "x"}),
    },
)


def test_a_plain_heartbeat_takes_the_fast_path() -> None:
    assert read_heartbeat(plain) == read_report(plain)[0]


@pytest.mark.parametrize(
    "change", [{"observations": {}}, {"seq": True}, {"seq": -1}, {"heartbeat": 1}, {"bootID": "z" * 65}, {"facts": {}}]
)
def test_a_report_that_is_no_plain_heartbeat_is_left_to_the_full_reader(change: dict[str, object]) -> None:
    assert read_heartbeat({**plain, **change}) is None


@settings(deadline=None)
@given(heartbeats | st.builds(lambda changed: {**plain, **changed}, heartbeats) | st.just([]))
def test_the_fast_path_reads_what_the_full_reader_reads(data: object) -> None:
    fast = read_heartbeat(data)
    if fast is not None:
        assert read_report(data) == (fast, (), ())


def test_a_report_with_a_lower_number_is_a_replay_for_a_while() -> None:
    session = DeviceSession()
    assert not session.is_replay("b", 5, 10.0)
    assert session.is_replay("b", 4, 11.0)
    assert not session.is_replay("b", 5, 11.0)
    assert not session.is_replay("b", None, 11.0)
    assert not session.is_replay("", 1, 11.0)
    assert not session.is_replay("c", 1, 12.0)
    assert not session.is_replay("c", 0, 12.0 + REPLAY_WINDOW_S)


def test_the_report_rate_refills_up_to_its_burst() -> None:
    session = DeviceSession()
    assert [session.allow(2.0, 2.0, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert [session.allow(2.0, 2.0, 100.0) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_a_session_requests_the_processes_that_were_not_reported() -> None:
    session = DeviceSession()
    session.expect(("a", "b"))
    session.reported("a")
    session.reported("a")
    session.reported("other")
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
    session.reported("a")
    session.reported("b")
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
    session.reported(FACTS)
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


NONE, ONE = ProcessCounts(desired=0, running=0, healthy=0), ProcessCounts(desired=1, running=0, healthy=0)


def test_a_switch_without_new_facts_keeps_its_status() -> None:
    row = switch_row(status=NetworkSwitchStatus(agent_version="1", observed_generation=1), generation=9)
    assert merge_switch(row, SwitchFacts(), NOW) is row.status
    assert of_switch(row, row.status, None) is None
    assert merge_switch(row, SwitchFacts(processes=NONE), NOW) is row.status


def test_what_an_agent_reports_of_itself_is_written_to_its_switch() -> None:
    row = switch_row(generation=9)
    status = merge_switch(
        row,
        SwitchFacts(agent_version="2", boot_id="b", facts={"os": "x"}, processes=ONE, connected=True),
        NOW,
    )
    assert (status.agent_version, status.boot_id, status.facts) == ("2", "b", {"os": "x"})
    assert (status.processes, status.observed_generation) == (ONE, 9)
    emptied = merge_switch(evolve(row, status=status), SwitchFacts(processes=NONE), NOW)
    assert emptied.processes == NONE
    patch = of_switch(evolve(row, status=status), emptied, None)
    assert patch is not None
    assert patch.body["status"] == {"processes": {"desired": 0}}


def test_counts_of_zero_are_written() -> None:
    status = merge_switch(switch_row(), SwitchFacts(processes=ONE), NOW)
    patch = of_switch(switch_row(), status, None)
    assert patch is not None
    assert patch.body["status"]["processes"] == {"desired": 1, "running": 0, "healthy": 0}


def test_counts_say_how_many_run_and_are_healthy() -> None:
    rows = (after(process_row(), UP), process_row(), after(process_row(), seen(process_started=True, healthy=False)))
    assert rows[2].status.phase is Phase.RUNNING
    assert counts(rows) == ProcessCounts(desired=3, running=2, healthy=1)


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        (None, 0),
        (b"wait=10", 10),
        (b"wait=100", 55),
        (b"respond-async; wait = 7", 7),
        (b'x, WAIT="8", y', 8),
        (b"wait=-1", 0),
        (b"await=9", 0),
        (b"wait=1.5", 0),
        (b"wait=99999999999", 0),
    ],
)
def test_a_wait_is_read_from_prefer(prefer: bytes | None, wait: int) -> None:
    assert preferred_wait({} if prefer is None else {b"prefer": prefer}, 55) == wait


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
    assert rows[0].parts[0] is rows[1].parts[0]
    assert rows[0].parts[2] is rows[1].parts[2]


def test_a_spec_that_repeats_its_device_reference_is_served_as_it_is_stored() -> None:
    spec = {"a": {"name": "leaf-1"}, "deviceRef": {"name": "leaf-1"}}
    assert Projection("site").process(stored(spec=spec)).spec == canonical_json(spec)


def test_a_stale_echo_does_not_revert_a_write() -> None:
    fleet = DeviceIndex(lambda _: None)
    old, new = process_row(resource_version="9"), process_row(resource_version="10", generation=3)
    fleet.on_change(old.key, None, old)
    fleet.update(new, own=True)
    fleet.on_change(old.key, None, old)
    assert fleet.process(old.key) == new
    fleet.on_change(old.key, new, None)
    fleet.update(new, own=True)
    assert fleet.process(old.key) is None
    assert len(fleet) == 0


def test_an_older_version_from_a_restored_backup_replaces_the_newer_one() -> None:
    fleet = DeviceIndex(lambda _: None)
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


def test_the_object_read_after_a_conflict_replaces_the_cached_one_unless_it_changed_meanwhile() -> None:
    fleet = DeviceIndex(lambda _: None)
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


def test_a_process_that_is_created_again_for_another_device_moves_there() -> None:
    fleet = DeviceIndex(lambda _: None)
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


def test_a_device_has_the_highest_epoch_of_its_switches_and_0_without_one() -> None:
    changed: list[str] = []
    fleet = DeviceIndex(changed.append)
    assert fleet.epoch("leaf-1") == 0
    row = switch_row(credential_epoch=2)
    other = evolve(row, key=Key("other", "leaf-1"), uid="uid-o", credential_epoch=5)
    for each in (row, other):
        fleet.on_change(each.key, None, each)
    assert fleet.epoch("leaf-1") == 5
    fleet.on_change(other.key, other, None)
    assert fleet.epoch("leaf-1") == 2
    before = len(changed)
    fleet.on_change(row.key, row, evolve(row, resource_version="4"))
    assert len(changed) == before
    fleet.on_change(row.key, row, evolve(row, resource_version="5", credential_epoch=3))
    assert (fleet.epoch("leaf-1"), len(changed)) == (3, before + 1)


def test_the_answer_to_a_write_does_not_bring_a_deleted_switch_back() -> None:
    fleet = DeviceIndex(lambda _: None)
    row = switch_row()
    fleet.update(row, own=True)
    fleet.on_change(row.key, row, None)
    assert fleet.switch(row.key) is None
    fleet.on_change(row.key, None, row)
    fleet.on_change(row.key, None, evolve(row, resource_version="1"))
    assert fleet.switch(row.key) == row
