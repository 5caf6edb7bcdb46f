"""The judge of liveness, on numbers alone."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_gateway.liveness.detector import Judge, Rules, Storm

RULES = Rules(stale_s=45.0, grace_s=60.0, scan_s=5.0, flap_hold_s=30.0)


class World:
    """A judge whose scans are on time."""

    def __init__(
        self, devices: int = 1, *, rules: Rules = RULES, connected: bool | None = True, site: str = ""
    ) -> None:
        self.now = 1000.0
        self.judge = Judge(rules, self.now)
        self.rules = rules
        self.lost: list[str] = []
        self.storms: list[Storm] = []
        for number in range(devices):
            self.judge.declare(f"d{number}", site=site, connected=connected, now=self.now)

    def run(self, seconds: float, *beating: str, observer: str = "") -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.rules.scan_s)
            if observer:
                self.judge.push(observer, self.now)
            for device in beating:
                self.judge.hear(device, self.now, observer=observer)
            verdict = self.judge.scan(self.now)
            self.lost += verdict.disconnected
            if verdict.storm is not None:
                self.storms.append(verdict.storm)


def test_a_device_that_fell_silent_is_disconnected_after_its_stale_limit() -> None:
    world = World(2)
    world.run(100, "d0", "d1")
    world.run(45, "d1")
    assert world.lost == []
    world.run(10, "d1")
    assert world.lost == ["d0"]
    assert (world.judge.connected("d0"), world.judge.connected("d1")) == (False, True)
    assert world.judge.count() == 1


def test_nobody_is_disconnected_within_the_grace() -> None:
    world = World(3)
    world.run(55)
    assert world.lost == []
    world.run(10)
    assert sorted(world.lost) == ["d0", "d1", "d2"]


def test_a_device_that_died_while_nobody_judged_is_found() -> None:
    world = World(2)
    world.run(70, "d1")
    assert world.lost == ["d0"]


def test_what_was_never_connected_is_not_called_disconnected() -> None:
    world = World(1, connected=None)
    world.run(500)
    assert world.lost == []
    assert world.judge.connected("d0") is None


def test_what_is_disconnected_already_is_not_told_again() -> None:
    world = World(1, connected=False)
    world.run(500)
    assert world.lost == []


def test_hearing_connects_once() -> None:
    world = World(1, connected=False)
    assert world.judge.hear("d0", world.now) is True
    assert world.judge.hear("d0", world.now) is False
    assert world.judge.connected("d0") is True


def test_old_news_does_not_connect() -> None:
    world = World(1, connected=False)
    world.run(100)
    assert world.judge.hear("d0", world.now, age=46.0) is False


def test_old_news_does_not_make_a_device_older() -> None:
    world = World(1)
    world.run(70, "d0")
    world.judge.hear("d0", world.now, age=40.0)
    world.run(40)
    assert world.lost == []


def test_undeclared_devices_are_not_heard() -> None:
    world = World(0)
    assert world.judge.hear("ghost", world.now) is False
    assert world.judge.connected("ghost") is None
    world.judge.forget("ghost")


def test_a_forgotten_device_is_not_judged() -> None:
    world = World(1)
    world.judge.forget("d0")
    world.run(500)
    assert world.lost == []


def test_a_device_that_is_declared_again_keeps_what_is_known() -> None:
    world = World(1)
    world.judge.declare("d0", site="s", connected=False, now=world.now)
    assert world.judge.connected("d0") is True


def test_a_pause_of_the_judge_is_not_the_devices_silence() -> None:
    world = World(1)
    world.run(70, "d0")
    world.now += 90
    world.run(40)
    assert world.lost == []
    world.run(20)
    assert world.lost == ["d0"]


def test_devices_of_a_silent_observer_are_frozen_for_a_while() -> None:
    world = World(1)
    world.run(100, "d0", observer="other")
    world.run(55)
    assert world.lost == []
    world.run(15)
    assert world.lost == ["d0"]


def test_a_working_observer_that_hears_nothing_is_believed() -> None:
    world = World(1)
    world.run(100, "d0", observer="other")
    world.run(60, observer="other")
    assert world.lost == ["d0"]


def test_a_device_that_flaps_is_held_disconnected_until_it_is_steady() -> None:
    world = World(1)
    world.run(70, "d0")
    for _ in range(2):
        world.run(60)
        world.run(5, "d0")
    assert world.judge.connected("d0") is True
    world.run(60)
    world.run(25, "d0")
    assert world.judge.connected("d0") is False
    world.run(20, "d0")
    assert world.judge.connected("d0") is True


def names(count: int, start: int = 0) -> list[str]:
    return [f"d{number}" for number in range(start, start + count)]


def test_a_storm_is_held_and_ends_without_a_write_when_they_come_back() -> None:
    world = World(200)
    world.run(70, *names(200))
    world.run(60, *names(100))
    assert world.lost == []
    assert world.storms == [Storm(site=None, silent=100)]
    assert world.judge.suspect
    world.run(60, *names(200))
    assert world.lost == []
    assert not world.judge.suspect


def test_a_storm_that_lasts_is_believed_slowly() -> None:
    world = World(2000, rules=evolve(RULES, scan_s=1.0))
    world.run(70, *names(2000))
    world.run(46, *names(1000))
    assert len(world.storms) == 1
    world.run(40, *names(1000))
    assert world.lost == []
    world.run(14, *names(1000))
    assert 400 <= len(world.lost) <= 600
    world.run(20, *names(1000))
    assert len(world.lost) == 1000
    assert not world.judge.suspect


def test_while_nobody_at_all_is_heard_nobody_is_disconnected() -> None:
    world = World(100)
    world.run(70, *names(100))
    world.run(1000)
    assert world.lost == []
    world.run(5, "d0")
    world.run(40, "d0")
    assert world.lost == []
    assert not world.judge.suspect


def test_too_few_devices_for_a_storm_are_believed_also_when_nobody_is_heard() -> None:
    world = World(RULES.storm_floor - 1)
    world.run(70, *names(RULES.storm_floor - 1))
    world.run(60)
    assert len(world.lost) == RULES.storm_floor - 1
    assert not world.judge.suspect


@pytest.mark.parametrize("heartbeat_s", [15, 60])
def test_a_fleet_that_is_cut_off_falls_due_bit_by_bit_and_is_a_storm_all_the_same(heartbeat_s: int) -> None:
    stale_s = 3.0 * heartbeat_s
    rules = evolve(RULES, stale_s=stale_s, grace_s=stale_s + heartbeat_s, storm_window_s=float(heartbeat_s))
    world, scans = World(240, rules=rules), heartbeat_s // 5
    each = 240 // scans
    for _ in range(6):  # heartbeats, in which each scan meets another part of the fleet
        for part in range(scans):
            world.run(5, *names(each, each * part))
    world.run(int(2 * stale_s))
    assert len(world.storms) == 1
    assert len(world.lost) < RULES.storm_floor  # the first ones were believed
    assert world.judge.suspect


def test_devices_that_go_one_after_the_other_are_no_storm() -> None:
    world = World(120)
    world.run(70, *names(120))
    for gone in range(10, 121, 10):  # ten a minute
        world.run(60, *names(120 - gone, gone))
    world.run(60)
    assert len(world.lost) == 120
    assert world.storms == []


def test_a_site_that_falls_silent_is_a_storm_of_its_own() -> None:
    rules = evolve(RULES, storm_fleet_share=1.0)
    world = World(300, rules=rules, site="a")
    for number in range(300, 400):
        world.judge.declare(f"d{number}", site="b", connected=True, now=world.now)
    world.run(70, *names(400))
    world.run(50, *names(300))
    assert world.storms == [Storm(site="b", silent=100)]
    assert world.lost == []


def test_many_of_a_large_site_are_no_storm() -> None:
    rules = evolve(RULES, storm_fleet_share=1.0)
    world = World(400, rules=rules, site="a")
    world.run(70, *names(400))
    world.run(50, *names(340))
    assert world.storms == []
    assert len(world.lost) == 60


@settings(max_examples=60, deadline=None)
@given(
    beats=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=40),
    stalls=st.sets(st.integers(0, 39), max_size=3),
)
def test_a_device_that_beats_in_time_is_never_lost(beats: list[tuple[int, int]], stalls: set[int]) -> None:
    """Whatever the others do, and however often the judge is paused."""
    world = World(4)
    for index, (other, seconds) in enumerate(beats):
        if index in stalls:
            world.now += 120
        world.run(float(seconds), "d3", f"d{other}")
    assert "d3" not in world.lost


@settings(max_examples=60, deadline=None)
@given(silent_after=st.integers(1, 300))
def test_a_device_that_died_is_always_found(silent_after: int) -> None:
    world = World(2)
    world.run(float(silent_after), "d0", "d1")
    world.run(120, "d1")
    assert world.lost == ["d0"]
