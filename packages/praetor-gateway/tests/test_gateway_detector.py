# SPDX-License-Identifier: Apache-2.0
"""The failure detector, on numbers alone."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_gateway.liveness.detector import DetectorLimits, FailureDetector, Storm
from praetor_gateway.status.connected import Connected, Silence

LIMITS = DetectorLimits(stale_s=45.0, grace_s=60.0, scan_s=5.0, flap_hold_s=30.0)


class DetectorScenario:
    """A failure detector whose scans are on time."""

    def __init__(
        self, devices: int = 1, *, limits: DetectorLimits = LIMITS, connected: Connected = True, site: str = ""
    ) -> None:
        self.now = 1000.0
        self.detector = FailureDetector(limits, self.now)
        self.limits = limits
        self.lost: list[str] = []
        self.storms: list[Storm] = []
        self.in_storm: list[str] = []
        self.most_at_once = 0
        self.over = 0
        for number in range(devices):
            self.detector.declare(f"d{number}", site=site, connected=connected, now=self.now)

    def suspect(self) -> bool:
        return self.detector.suspect

    def run(self, seconds: float, *alive: str, observer: str = "") -> list[str]:
        """Let the devices *alive* be heard with each scan; return all devices that were lost so far."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.limits.scan_s)
            if observer:
                self.detector.push(observer, self.now)
            for device in alive:
                self.detector.hear(device, self.now, observer=observer)
            found = self.detector.scan(self.now)
            self.lost += found.disconnected
            self.storms += found.storms
            self.in_storm += found.in_storm
            self.most_at_once = max(self.most_at_once, len(found.in_storm))
            self.over += found.over
        return self.lost


def test_a_device_that_fell_silent_is_disconnected_after_its_stale_limit() -> None:
    scenario = DetectorScenario(2)
    scenario.run(100, "d0", "d1")
    assert scenario.run(45, "d1") == []
    assert scenario.run(10, "d1") == ["d0"]
    assert (scenario.detector.connected("d0"), scenario.detector.connected("d1")) == (False, True)
    assert scenario.detector.count() == 1


def test_no_device_is_disconnected_within_the_grace() -> None:
    scenario = DetectorScenario(1)
    assert scenario.run(55) == []
    assert scenario.run(10) == ["d0"]


def test_no_device_is_disconnected_while_a_replica_is_not_heard() -> None:
    scenario = DetectorScenario(2)
    scenario.run(100, "d0", "d1")
    for _ in range(10):
        scenario.detector.freeze(scenario.now)
        assert scenario.detector.frozen(scenario.now)
        assert scenario.run(10, "d1") == []
    assert scenario.detector.complete_since(scenario.now) == scenario.now
    assert scenario.run(30, "d1") == ["d0"]
    assert not scenario.detector.frozen(scenario.now)


def test_a_device_that_died_before_the_takeover_is_found() -> None:
    scenario = DetectorScenario(2)
    assert scenario.run(70, "d1") == ["d0"]


@pytest.mark.parametrize("connected", [None, False])
def test_a_device_that_is_not_connected_is_not_disconnected(connected: bool | None) -> None:
    scenario = DetectorScenario(1, connected=connected)
    assert scenario.run(500) == []
    assert scenario.detector.connected("d0") is connected


def test_hearing_connects_once() -> None:
    scenario = DetectorScenario(1, connected=False)
    assert scenario.detector.hear("d0", scenario.now) is True
    assert scenario.detector.hear("d0", scenario.now) is False
    assert scenario.detector.connected("d0") is True


def test_a_push_older_than_the_stale_limit_does_not_connect() -> None:
    scenario = DetectorScenario(1, connected=False)
    scenario.run(100)
    assert scenario.detector.hear("d0", scenario.now, age=46.0) is False


def test_an_older_push_does_not_move_the_last_heartbeat_back() -> None:
    scenario = DetectorScenario(1)
    scenario.run(70, "d0")
    scenario.detector.hear("d0", scenario.now, age=40.0)
    assert scenario.run(40) == []


def test_undeclared_devices_are_not_heard() -> None:
    scenario = DetectorScenario(0)
    assert scenario.detector.hear("ghost", scenario.now) is False
    assert scenario.detector.connected("ghost") is None
    scenario.detector.forget("ghost")


def test_a_forgotten_device_is_not_reported() -> None:
    scenario = DetectorScenario(1)
    scenario.detector.forget("d0")
    assert scenario.run(500) == []


def test_a_device_that_is_declared_again_keeps_its_state() -> None:
    scenario = DetectorScenario(1)
    scenario.detector.declare("d0", site="s", connected=False, now=scenario.now)
    assert scenario.detector.connected("d0") is True


def test_a_pause_of_the_process_does_not_count_as_silence_of_the_devices() -> None:
    scenario = DetectorScenario(1)
    scenario.run(70, "d0")
    scenario.now += 90
    assert scenario.run(40) == []
    assert scenario.run(20) == ["d0"]


def test_devices_of_a_silent_observer_are_frozen_for_a_while() -> None:
    scenario = DetectorScenario(1)
    scenario.run(100, "d0", observer="other")
    assert scenario.run(55) == []
    assert scenario.run(15) == ["d0"]


def test_a_working_observer_that_hears_nothing_is_believed() -> None:
    scenario = DetectorScenario(1)
    scenario.run(100, "d0", observer="other")
    assert scenario.run(60, observer="other") == ["d0"]


def test_a_device_that_flaps_is_held_disconnected_until_it_is_steady() -> None:
    scenario = DetectorScenario(1)
    scenario.run(70, "d0")
    for _ in range(2):
        scenario.run(60)
        scenario.run(5, "d0")
    assert scenario.detector.connected("d0") is True
    scenario.run(60)
    scenario.run(25, "d0")
    assert scenario.detector.connected("d0") is False
    scenario.run(20, "d0")
    assert scenario.detector.connected("d0") is True


def names(count: int, start: int = 0) -> list[str]:
    return [f"d{number}" for number in range(start, start + count)]


def beats(scenario: DetectorScenario, seconds: int, alive: list[str], cut: list[str]) -> None:
    """Let each of the devices *alive* be heard once a heartbeat, a part of them with each scan; *cut* are not."""
    silent = set(cut)
    scans = int(15 // scenario.limits.scan_s)
    for number in range(int(seconds // scenario.limits.scan_s)):
        scenario.run(scenario.limits.scan_s, *(each for each in alive[number % scans :: scans] if each not in silent))


@pytest.mark.parametrize(
    ("devices", "silent", "storm"),
    [
        (1, 1, False),
        (2, 1, False),
        (2, 2, True),
        (5, 1, False),
        (5, 2, True),
        (10, 2, False),
        (10, 3, True),
        (100, 20, False),
        (100, 21, True),
        (2000, 400, False),
        (2000, 401, True),
        (10_000, 2_001, True),
    ],
)
def test_a_share_that_falls_silent_within_a_heartbeat_is_a_storm_at_every_size(
    devices: int, silent: int, storm: bool
) -> None:
    scenario, all_ = DetectorScenario(devices), names(devices)
    beats(scenario, 75, all_, [])
    beats(scenario, 45, all_, all_[:silent])
    assert scenario.lost == [] or not storm  # the judge looked before
    beats(scenario, 20, all_, all_[:silent])
    assert [each.silent for each in scenario.storms] == ([silent] if storm else [])
    assert len(scenario.lost) == (0 if storm else silent)
    assert scenario.suspect() is storm


def test_what_falls_silent_at_both_ends_of_a_heartbeat_is_one_storm() -> None:
    scenario, all_ = DetectorScenario(100), names(100)
    beats(scenario, 75, all_, [])
    beats(scenario, 10, all_, all_[:15])
    beats(scenario, 60, all_, all_[:30])
    assert scenario.lost == []
    assert [each.silent for each in scenario.storms] == [30]


def test_a_storm_is_over_without_a_disconnect_when_the_devices_come_back() -> None:
    scenario = DetectorScenario(200)
    scenario.run(70, *names(200))
    assert scenario.run(60, *names(100)) == []
    assert scenario.storms == [Storm(site=None, silent=100)]
    assert scenario.suspect()
    assert scenario.run(60, *names(200)) == []
    assert not scenario.suspect()
    assert (scenario.over, scenario.in_storm) == (1, [])


def test_when_most_come_back_the_others_are_gone_as_ever() -> None:
    scenario = DetectorScenario(100)
    scenario.run(70, *names(100))
    scenario.run(60, *names(50))
    assert scenario.run(10, *names(95)) == names(5, 95)
    assert (scenario.over, scenario.in_storm) == (1, [])


def test_a_device_that_missed_one_heartbeat_delays_another_only_until_it_is_heard() -> None:
    scenario = DetectorScenario(4)
    scenario.run(70, *names(4))
    scenario.run(30, "d1", "d2", "d3")
    scenario.run(20, "d2", "d3")
    assert scenario.lost == []
    assert scenario.run(5, "d1", "d2", "d3") == ["d0"]
    assert scenario.storms == []


@pytest.mark.parametrize("statuses", [1, 3])
def test_a_storm_that_lasts_is_written_at_its_rate(statuses: int) -> None:
    limits = evolve(LIMITS, scan_s=1.0)
    scenario = DetectorScenario(0, limits=limits)
    for name in names(1000):
        scenario.detector.declare(name, site="", connected=True, now=scenario.now, statuses=statuses)
    scenario.run(70, *names(1000))
    scenario.run(46, *names(500))
    assert len(scenario.storms) == 1
    assert scenario.run(40, *names(500)) == []
    scenario.run(6 * statuses, *names(500))
    assert 0 < len(scenario.in_storm) < 500
    scenario.run(20 * statuses, *names(500))
    assert len(scenario.in_storm) == 500
    assert scenario.most_at_once <= 50 // statuses + 1
    assert {scenario.detector.connected(name) for name in names(500, 500)} == {Silence.STORM}
    assert (scenario.lost, scenario.over) == ([], 1)
    assert not scenario.suspect()
    assert scenario.detector.hear("d999", scenario.now) is True


def test_where_no_device_of_the_fleet_is_heard_that_is_not_known_of_any() -> None:
    scenario = DetectorScenario(100)
    scenario.run(70, *names(100))
    assert scenario.run(1000) == []
    assert sorted(scenario.in_storm) == sorted(names(100))
    assert {scenario.detector.connected(name) for name in names(100)} == {Silence.FLEET}
    assert scenario.suspect()
    scenario.run(5, "d0")
    assert scenario.over == 1
    assert scenario.run(40, "d0") == []
    assert not scenario.suspect()
    scenario.run(200, "d0")
    assert {scenario.detector.connected(name) for name in names(99, 1)} == {Silence.STORM}


def test_a_new_leader_knows_devices_whose_fleet_was_silent() -> None:
    scenario = DetectorScenario(1, connected=Silence.FLEET)
    assert scenario.detector.connected("d0") is Silence.FLEET
    assert scenario.detector.hear("d0", scenario.now) is True


@pytest.mark.parametrize("heartbeat_s", [15, 60])
def test_a_fleet_that_is_cut_off_is_a_storm_though_its_devices_fall_due_over_a_heartbeat(heartbeat_s: int) -> None:
    stale_s = 3.0 * heartbeat_s
    limits = evolve(LIMITS, stale_s=stale_s, grace_s=stale_s + heartbeat_s, storm_window_s=1.2 * heartbeat_s)
    scenario, scans = DetectorScenario(240, limits=limits), heartbeat_s // 5
    each = 240 // scans
    for _ in range(6):  # heartbeats, in which each scan meets another part of the fleet
        for part in range(scans):
            scenario.run(5, *names(each, each * part))
    scenario.run(int(1.9 * stale_s))
    assert len(scenario.storms) == 1
    assert scenario.lost == []
    assert scenario.suspect()


def test_devices_that_fail_one_after_the_other_are_no_storm() -> None:
    scenario = DetectorScenario(120)
    scenario.run(70, *names(120))
    for gone in range(10, 81, 5):  # five a minute
        scenario.run(60, *names(120 - gone, gone))
    scenario.run(60, *names(40, 80))
    assert sorted(scenario.lost) == sorted(names(80))
    assert scenario.storms == []


def test_a_site_that_falls_silent_is_a_storm_of_its_own_and_holds_no_other_device() -> None:
    scenario = DetectorScenario(300, site="a")
    for name in names(30, 300):
        scenario.detector.declare(name, site="b", connected=True, now=scenario.now)
    scenario.run(70, *names(330))
    scenario.run(20, *names(299, 1))
    scenario.run(65, *names(298, 1))
    assert scenario.storms == [Storm(site="b", silent=30)]
    assert scenario.lost == ["d0", "d299"]
    assert not scenario.in_storm
    scenario.run(60, *names(298, 1))
    assert sorted(scenario.in_storm) == sorted(names(30, 300))


def test_many_of_a_large_site_are_no_storm() -> None:
    scenario = DetectorScenario(400, site="a")
    scenario.run(70, *names(400))
    scenario.run(50, *names(340))
    assert scenario.storms == []
    assert len(scenario.lost) == 60


@settings(max_examples=60)
@given(
    beats=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=40),
    stalls=st.sets(st.integers(0, 39), max_size=3),
)
def test_a_device_with_timely_heartbeats_is_never_disconnected(beats: list[tuple[int, int]], stalls: set[int]) -> None:
    """Whatever the others do, and however often the process is paused."""
    scenario = DetectorScenario(4)
    for index, (other, seconds) in enumerate(beats):
        if index in stalls:
            scenario.now += 120
        scenario.run(float(seconds), "d3", f"d{other}")
    assert "d3" not in scenario.lost


@settings(max_examples=60)
@given(silent_after=st.integers(1, 300))
def test_a_device_that_died_is_always_found(silent_after: int) -> None:
    scenario = DetectorScenario(2)
    scenario.run(float(silent_after), "d0", "d1")
    assert scenario.run(120, "d1") == ["d0"]


def test_nothing_is_kept_of_observers_that_are_lost_but_since_when_none_of_their_answers_is_missing() -> None:
    scenario = DetectorScenario()
    detector = scenario.detector
    for number in range(500):  # a replica that is started again every ten seconds
        scenario.now += 10
        detector.push(f"gateway-{number}", scenario.now)
    assert len(detector._pushed_at) <= 8
    last = scenario.now
    scenario.now += 59
    detector.push("other", scenario.now)
    assert detector.complete_since(scenario.now) == scenario.now
    scenario.now += 3
    detector.push("other", scenario.now)
    assert detector._pushed_at.keys() == {"other"}
    assert detector.complete_since(scenario.now) == last + LIMITS.freeze_s
    scenario.now += 1000
    detector.push("other", scenario.now)
    assert detector.complete_since(scenario.now + 1) == last + LIMITS.freeze_s


def test_a_device_of_an_observer_that_is_forgotten_is_lost_as_before() -> None:
    scenario = DetectorScenario()
    scenario.run(100, "d0", observer="gone")
    assert scenario.run(60, observer="other") == []
    assert scenario.run(10, observer="other") == ["d0"]
    assert scenario.detector._pushed_at.keys() == {"other"}
