# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.conditions import get_condition, is_true, set_condition, without_condition
from praetor_api.kube.objects import Condition, ConditionStatus

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def healthy(status: ConditionStatus, now: datetime, before: tuple[Condition, ...] = ()) -> tuple[Condition, ...]:
    return set_condition(before, type="Healthy", status=status, reason="Probe", observed_generation=3, now=now)


def test_a_new_condition_starts_now_in_whole_seconds() -> None:
    (condition,) = healthy(ConditionStatus.TRUE, NOON)
    assert condition.last_transition_time == NOON.replace(microsecond=0)
    assert (condition.reason, condition.observed_generation) == ("Probe", 3)


def test_the_transition_time_stays_while_the_status_does() -> None:
    before = healthy(ConditionStatus.TRUE, NOON)
    after = set_condition(
        before, type="Healthy", status=ConditionStatus.TRUE, reason="Other", message="fine", now=LATER
    )
    assert after[0].last_transition_time == before[0].last_transition_time
    assert (after[0].reason, after[0].message) == ("Other", "fine")


def test_setting_an_equal_condition_changes_nothing() -> None:
    before = healthy(ConditionStatus.TRUE, NOON)
    assert healthy(ConditionStatus.TRUE, LATER, before) == before


def test_the_transition_time_moves_with_the_status() -> None:
    after = healthy(ConditionStatus.FALSE, LATER, healthy(ConditionStatus.TRUE, NOON))
    assert after[0].last_transition_time == LATER.replace(microsecond=0)


def test_the_transition_time_never_goes_back_with_the_clock() -> None:
    after = healthy(ConditionStatus.FALSE, NOON, healthy(ConditionStatus.TRUE, LATER))
    assert after[0].last_transition_time == LATER.replace(microsecond=0)


def test_a_condition_that_lacks_its_time_gets_one() -> None:
    before = (Condition(type="Healthy", status=ConditionStatus.TRUE, reason="Probe"),)
    assert healthy(ConditionStatus.TRUE, NOON, before)[0].last_transition_time == NOON.replace(microsecond=0)


def test_conditions_are_found_and_removed_by_type() -> None:
    conditions = healthy(ConditionStatus.FALSE, NOON)
    assert get_condition(conditions, "Healthy") == conditions[0]
    assert get_condition(conditions, "Ready") is None
    assert not is_true(conditions, "Healthy")
    assert not is_true(conditions, "Ready")
    assert is_true(healthy(ConditionStatus.TRUE, NOON), "Healthy")
    assert without_condition(conditions, "Healthy") == ()
    assert without_condition(conditions, "Ready") == conditions


@given(
    st.lists(st.tuples(st.sampled_from("DACB"), st.sampled_from(ConditionStatus), st.integers(-100, 100)), max_size=20)
)
def test_there_is_one_condition_of_each_type_in_order_and_times_never_go_back(
    steps: list[tuple[str, ConditionStatus, int]],
) -> None:
    conditions: tuple[Condition, ...] = ()
    for type_, status, offset in steps:
        old = get_condition(conditions, type_)
        conditions = set_condition(
            conditions, type=type_, status=status, reason="R", now=NOON + timedelta(seconds=offset)
        )
        new = get_condition(conditions, type_)
        assert new is not None
        assert new.status is status
        assert new.last_transition_time is not None
        if old is not None and old.last_transition_time is not None:
            assert new.last_transition_time >= old.last_transition_time
    types = [condition.type for condition in conditions]
    assert types == sorted({type_ for type_, _, _ in steps})
