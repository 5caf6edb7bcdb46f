# SPDX-License-Identifier: Apache-2.0
"""Under load devices are asked to be heard less often, and judged by what they were asked."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway_testing import FLAGS, AsgiClient, GatewayLab, conditions
from praetor_api.annotations import JUDGES_WITHIN_ANNOTATION, LONGEST_HEARTBEAT_ANNOTATION
from praetor_api.kube.client.resource import LEASES, Key
from praetor_api.names import GATEWAY_LEASE
from praetor_gateway.cli import main
from praetor_gateway.liveness.detector import DetectorLimits, FailureDetector, Storm
from praetor_gateway.liveness.intervals import LOWER_S, MOST_LOWER_S, RAISE_S, HandedIntervals, Pace
from praetor_gateway.liveness.pace import ProcessLoad
from test_gateway_peers import PeerNetwork


def after(pace: Pace, load: float, seconds: float, now: float) -> int:
    for second in range(int(seconds) + 1):
        pace.sample(load, now + second)
    return pace.interval


def test_the_interval_grows_under_load_and_shrinks_slowly_without() -> None:
    pace = Pace(15, 60)
    assert after(pace, 1.0, RAISE_S / 2, 0.0) == 15
    assert after(pace, 0.0, RAISE_S, 6.0) == 15  # that was a burst
    assert after(pace, 0.9, RAISE_S, 21.0) == 22
    assert after(pace, 0.9, 9 * RAISE_S, 32.0) == 60
    assert after(pace, 0.6, 1000, 123.0) == 60  # neither high nor low
    assert after(pace, 0.1, LOWER_S / 4, 1124.0) == 60
    assert after(pace, 0.1, LOWER_S, 1155.0) == 40
    assert after(pace, 0.1, 9 * LOWER_S, 1276.0) == 15


def test_one_sample_among_many_decides_nothing() -> None:
    pace = Pace(15, 60)
    for second in range(60):
        pace.sample(0.3 if second % 5 == 4 else 1.0, float(second))
    assert pace.interval > 15
    interval = after(pace, 0.9, 120, 60.0)
    for second in range(200, 200 + 5 * int(LOWER_S)):
        pace.sample(1.0 if second % 60 == 0 else 0.1, float(second))
    assert (interval, pace.interval) == (60, 15)


def test_a_load_that_the_interval_halves_makes_it_swing_no_more_than_once() -> None:
    pace, changes, before = Pace(15, 60), 0, 15
    for second in range(7200):  # what devices cost is inverse to the interval
        now = pace.sample(1.2 * 15 / pace.interval, float(second))
        changes, before = changes + (now != before), now
    assert changes <= 2
    assert before == 33


def test_an_interval_that_was_too_short_is_tried_again_less_and_less_often() -> None:
    pace, changes, before = Pace(15, 60), 0, 15
    for second in range(7200):  # programs that share processors have little to wait for until these are full
        now = pace.sample(0.2 if pace.interval == 60 else 1.0, float(second))
        changes, before = changes + (now != before), now
    assert 8 <= changes <= 20
    assert after(pace, 0.2, MOST_LOWER_S + 9 * LOWER_S, 7200.0) == 15  # the load is gone
    later = 7201.0 + MOST_LOWER_S + 9 * LOWER_S
    assert after(pace, 0.9, RAISE_S, later) == 22
    assert after(pace, 0.2, 1.2 * LOWER_S, later + RAISE_S + 1.0) == 15


def test_a_longer_interval_counts_at_once_and_a_shorter_one_after_the_longer() -> None:
    handed = HandedIntervals(15)
    assert not handed.concerns("d", 15, 0.0)
    handed.hand("d", 60, 0.0)
    assert (handed.of("d", 0.0), handed.of("e", 0.0), handed.longest(0.0)) == (60, 15, 60)
    handed.hand("d", 15, 50.0)  # this answer may be lost
    assert handed.of("d", 109.0) == 60
    handed.hand("d", 30, 80.0)
    handed.hand("d", 15, 110.0)
    assert handed.of("d", 110.0) == 30
    handed.hand("d", 15, 120.0)
    handed.hand("d", 60, 130.0)
    handed.hand("d", 15, 140.0)
    handed.hand("d", 15, 199.0)
    assert handed.of("d", 199.0) == 60
    handed.hand("d", 15, 200.0)
    assert (handed.of("d", 200.0), len(handed), handed.longer(["d"], 200.0)) == (15, 0, {})


def test_what_a_judge_that_is_gone_handed_out_is_assumed_for_a_while() -> None:
    handed = HandedIntervals(15)
    handed.assume(60, 0.0, 300.0)
    assert (handed.of("d", 0.0), handed.longest(0.0)) == (60, 60)
    assert handed.concerns("d", 15, 0.0)
    handed.hand("d", 15, 10.0)
    assert handed.of("d", 60.0) == 60
    handed.hand("d", 15, 70.0)
    assert handed.of("d", 70.0) == 15
    assert (handed.of("e", 299.0), handed.of("e", 300.0)) == (60, 15)
    handed.hand("d", 15, 300.0)
    assert len(handed) == 0
    handed.hand("f", 60, 301.0)
    handed.forget("f")
    assert handed.longest(301.0) == 15


def test_nothing_is_kept_of_devices_while_no_judge_handed_out_a_longer_interval() -> None:
    handed = HandedIntervals(15)
    handed.assume(15, 0.0, 300.0)
    assert not handed.concerns("d", 15, 10.0)
    handed.hand("d", 15, 10.0)
    assert (len(handed), handed.of("d", 10.0), handed.longest(10.0)) == (0, 15, 15)


def test_what_a_judge_that_is_gone_may_have_handed_out_counts_for_known_devices_too() -> None:
    handed = HandedIntervals(15)
    for device, interval in (("d", 22), ("e", 60)):
        handed.hand(device, interval, 0.0)
    handed.assume(33, 0.0, 300.0)
    assert [handed.of(device, 10.0) for device in "def"] == [33, 60, 33]
    handed.assume(22, 10.0, 200.0)  # another one is gone, which handed out less
    assert [handed.of(device, 250.0) for device in "def"] == [33, 60, 33]


@given(st.lists(st.tuples(st.sampled_from([15, 22, 33, 60]), st.floats(1.0, 60.0), st.booleans()), max_size=60))
def test_no_device_is_judged_by_less_than_it_last_got(answers: list[tuple[int, float, bool]]) -> None:
    handed, now, got, got_at = HandedIntervals(15), 0.0, 15, 0.0
    for interval, after_s, arrives in answers:
        now += after_s
        handed.hand("d", interval, now)
        if arrives:
            got, got_at = interval, now
        if now - got_at < got:  # else every answer was lost for an interval, and the device is not heard
            assert handed.of("d", now) >= got


def test_a_device_that_is_heard_less_often_may_be_silent_longer() -> None:
    detector = FailureDetector(DetectorLimits(stale_s=45.0, grace_s=60.0, scan_s=5.0, flap_hold_s=30.0), 0.0)
    for device in ("d", "e"):
        detector.declare(device, site="", connected=True, now=0.0)
    detector.allow("d", 4.0)
    detector.allow("unknown", 4.0)
    lost: dict[str, int] = {}
    for now in range(0, 400, 5):
        detector.hear("f", now)
        lost |= dict.fromkeys(detector.scan(float(now)).disconnected, now)
    assert lost == {"e": 60, "d": 185}
    assert [detector.stretch(device) for device in ("d", "e", "unknown")] == [4, 1, 1]


@pytest.mark.parametrize(("silent", "storm"), [(15, False), (25, True)])
@pytest.mark.parametrize("stretch", [1, 4])
def test_a_site_that_is_cut_off_is_a_storm_however_often_its_devices_are_heard(
    stretch: int, silent: int, storm: bool
) -> None:
    limits = DetectorLimits(stale_s=45.0, grace_s=60.0, scan_s=5.0, flap_hold_s=30.0)
    detector, interval, cut = FailureDetector(limits, 0.0), 15 * stretch, 1000 * stretch
    devices = [f"d{number}" for number in range(100)]
    for device in devices:
        detector.declare(device, site="", connected=True, now=0.0)
        detector.allow(device, float(stretch))
    lost: list[str] = []
    storms: list[Storm] = []
    for now in range(0, cut + 50 * stretch, 5):
        for number, device in enumerate(devices):
            late = number * interval // 100 // 5 * 5  # each at a time of its own within the interval
            if now % interval == late and (now < cut or number >= silent):
                detector.hear(device, float(now))
        found = detector.scan(float(now))
        lost += found.disconnected
        storms += found.storms
    assert [bool(lost), bool(storms)] == [not storm, storm]


def test_the_load_is_the_share_of_a_second_that_the_process_worked_or_was_late() -> None:
    load = ProcessLoad()
    assert 0.0 <= load() < 2.0
    load._at -= 3.0  # as if that long ago
    assert load() >= 1.9


def test_a_process_that_waits_for_a_processor_is_loaded(tmp_path: Path) -> None:
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("5 0 1\n")
    load = ProcessLoad(schedstat)
    load._at -= 1.0  # as if a second ago
    schedstat.write_text("5 900000000 2\n")
    assert load() >= 0.7
    schedstat.unlink()  # a sandbox without it
    load()
    load._at -= 1.0
    assert 0.0 <= load() < 0.7


def connected(lab: GatewayLab, device: str = "leaf-1") -> bool:
    return conditions(lab.switch(device)).get("AgentConnected") == "True"


async def settle_load(network: PeerNetwork, lab: GatewayLab, load: float, seconds: float) -> int:
    """Have all replicas be under *load*, leaf-1 being heard by *lab*; return the interval that it got last."""
    network.load, interval = load, 0
    for _ in range(int(seconds / 5)):
        interval = (await lab.client.post("/v1/devices/leaf-1/connect")).json()["heartbeatIntervalSeconds"]
        await network.clock.advance(5)
    return interval


def said(lab: GatewayLab) -> dict[str, str]:
    (lease,) = [each for each in lab.kube.objects(LEASES).values() if each["spec"].get("holderIdentity")]
    annotations: dict[str, str] = lease["metadata"]["annotations"]
    return annotations


@pytest.mark.parametrize("through", ["judge", "other"])
async def test_a_device_that_was_asked_to_be_heard_less_often_is_judged_by_that(through: str) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        labs = {name: await network.start(name, stack) for name in ("judge", "other")}
        judge, lab = labs["judge"], labs[through]
        await judge.declare("leaf-1")
        assert await settle_load(network, lab, 0.0, 30) == 15
        assert await settle_load(network, lab, 0.9, 90) == 60
        assert lab.value("heartbeat_interval_seconds") == 60
        assert said(judge)[LONGEST_HEARTBEAT_ANNOTATION] == "judge 60"
        assert said(judge)[JUDGES_WITHIN_ANNOTATION] == "245"
        for _ in range(10):
            await network.clock.advance(60)
            await lab.client.post("/v1/devices/leaf-1/connect")
            assert connected(judge)
        await network.clock.advance(170)
        assert connected(judge)
        await network.clock.advance(30)
        assert not connected(judge)
        assert await settle_load(network, lab, 0.0, 600) == 15
        assert said(judge)[LONGEST_HEARTBEAT_ANNOTATION] == "judge 15"
        assert connected(judge)
        await network.clock.advance(60)
        assert not connected(judge)


async def test_a_device_that_was_lost_under_load_is_judged_like_any_other_once_it_is_back() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        judge = await network.start("judge", stack)
        await judge.declare("leaf-1")
        assert await settle_load(network, judge, 0.9, 90) == 60
        network.load = 0.0
        for _ in range(120):
            await network.clock.advance(5)
        assert not connected(judge)
        assert said(judge)[LONGEST_HEARTBEAT_ANNOTATION] == "judge 15"
        assert await settle_load(network, judge, 0.0, 10) == 15
        assert connected(judge)
        await network.clock.advance(60)
        assert not connected(judge)


async def test_the_next_judge_knows_what_devices_may_have_got_from_the_last_one() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as short:
            judge = await network.start("judge", short)
            await judge.declare("leaf-1")
            assert await settle_load(network, judge, 0.9, 90) == 60
            await network.start("next", stack)
            await network.clock.advance(3)
        lab = network.labs["next"]
        network.load = 0.0
        for _ in range(13):
            await network.clock.advance(5)  # the device is quiet for its 60 s, and the judge since 10 of them
            assert connected(lab)
        await lab.client.post("/v1/devices/leaf-1/connect")
        assert await settle_load(network, lab, 0.0, 600) == 15
        await network.clock.advance(60)
        assert not connected(lab)


async def test_the_next_judge_knows_what_the_last_one_said_just_before_it_ended() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        judge, lab = await network.start("judge", stack), await network.start("next", stack)
        await judge.declare("leaf-1")
        assert await settle_load(network, judge, 0.9, 25) > 15
        longer = {LONGEST_HEARTBEAT_ANNOTATION: "judge 60", JUDGES_WITHIN_ANNOTATION: "245"}
        key = Key("lab", GATEWAY_LEASE)  # which the next one has not read when it takes over
        await network.kube.patch(LEASES, key, {"metadata": {"annotations": longer}, "spec": {"holderIdentity": ""}})
        network.load = 0.0
        await network.clock.advance(4)
        (leading,) = [each for each in (judge, lab) if each.value("arbiter")]
        assert leading.gateway._liveness.longest_interval() == 60


async def test_what_a_replica_handed_out_after_its_last_word_counts_though_it_is_gone() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        judge = await network.start("judge", stack)
        await judge.declare("leaf-1")
        async with AsyncExitStack() as short:
            other = await network.start("other", short)
            await settle_load(network, judge, 0.0, 30)
            assert await settle_load(network, judge, 0.9, 10) == 15
            await network.clock.advance(8)
            network.cut = True  # what the device gets now is never pushed
            assert (await other.client.post("/v1/devices/leaf-1/connect")).json()["heartbeatIntervalSeconds"] == 22
            del network.labs["other"]
        network.load = 0.0
        for _ in range(9):
            await network.clock.advance(5)
            assert connected(judge)
        await network.clock.advance(60)
        assert not connected(judge)


async def test_no_replica_hands_out_more_beside_an_older_judge_that_would_not_honour_it() -> None:
    network = PeerNetwork()
    key = Key("lab", GATEWAY_LEASE)
    async with AsyncExitStack() as stack:
        said = {LONGEST_HEARTBEAT_ANNOTATION: "gateway-of-before 60"}
        spec = {"holderIdentity": "older", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
        body = {"metadata": {"name": key.name, "namespace": key.namespace, "annotations": said}, "spec": spec}
        await network.kube.create(LEASES, "lab", body)
        other = await network.start("other", stack)
        await other.declare("leaf-1")
        for second in range(20):
            renewed = {"spec": {"renewTime": f"2026-01-01T00:00:{second:02}.500000Z"}}
            await network.kube.patch(LEASES, key, renewed)
            assert await settle_load(network, other, 0.9, 5) == 15


async def test_an_older_replica_hands_out_the_shortest_beside_a_judge_that_does_not() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        judge, other = await network.start("judge", stack), await network.start("other", stack)
        await judge.declare("leaf-1")
        assert await settle_load(network, judge, 0.9, 90) == 60
        network.outdated = True
        await settle_load(network, other, 0.9, 30)
        await network.clock.advance(120)
        assert connected(judge)


def test_a_load_that_the_longest_interval_does_not_relieve_is_overload() -> None:
    pace = Pace(15, 20)
    said: list[tuple[float, bool]] = []
    for load, seconds in ((1.0, RAISE_S), (1.0, RAISE_S - 2), (1.0, 2), (0.9, 1), (0.8, 1), (1.0, 1)):
        now = sum(one for one, _ in said)
        after(pace, load, seconds, now)
        said.append((seconds + 1, pace.overloaded))
    assert [overloaded for _, overloaded in said] == [False, False, True, True, False, False]


async def test_in_an_overload_every_other_new_request_is_refused_and_no_poll_that_may_be_held() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        lab = await network.start("judge", stack)
        await lab.declare("leaf-1")
        path = "/v1/devices/leaf-1/desired"
        known = {"If_None_Match": lab.etag("leaf-1")}
        held = asyncio.ensure_future(lab.client.get(path, Prefer="wait=55", **known))
        network.load = 1.0
        await network.clock.advance(90)
        assert lab.value("overloaded") == 1
        answers = [await lab.client.get(path, **known) for _ in range(8)]
        answers += [await lab.client.post("/v1/devices/leaf-1/report", {}) for _ in range(8)]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) == 8
        assert {answer.status for answer in answers} == {200, 304, 503}
        assert refused[0].headers["content-type"] == "application/problem+json"
        assert {int(answer.headers["retry-after"]) for answer in refused} == set(range(5, 13))
        more = [asyncio.ensure_future(lab.client.get(path, Prefer="wait=55", **known)) for _ in range(4)]
        await network.clock.advance(1)
        assert not held.done()
        assert not any(poll.done() for poll in more)
        wrong = AsgiClient(lab.gateway.app, "wrong")
        assert {(await wrong.get(path)).status for _ in range(4)} == {401}
        for _ in range(20):  # what is refused is a sign of life all the same
            await network.clock.advance(15)
            await lab.client.get(path, **known)
            assert connected(lab)
        network.load = 0.0
        await network.clock.advance(2)
        assert {(await lab.client.get(path, **known)).status for _ in range(4)} == {304}
        lab.gateway.drain()
        assert [(await poll).status for poll in (held, *more)] == [304] * 5


PRESENT = "the present ETag"


@pytest.mark.parametrize(
    ("method", "action", "headers"),
    [
        pytest.param("GET", "desired", {"Prefer": "wait=55"}, id="no-etag"),
        pytest.param("GET", "desired", {"Prefer": "wait=55", "If-None-Match": '"other"'}, id="another-etag"),
        pytest.param("GET", "desired", {"Prefer": "wait=0", "If-None-Match": PRESENT}, id="no-wait"),
        pytest.param("GET", "desired", {"Prefer": "return=minimal", "If-None-Match": PRESENT}, id="another-preference"),
        pytest.param("HEAD", "desired", {"Prefer": "wait=55", "If-None-Match": PRESENT}, id="head"),
        pytest.param("POST", "report", {"Prefer": "wait=55", "If-None-Match": PRESENT}, id="report"),
        pytest.param("POST", "connect", {"Prefer": "wait=55", "If-None-Match": PRESENT}, id="connect"),
    ],
)
async def test_in_an_overload_a_preference_spares_no_request_that_cannot_be_held(
    method: str, action: str, headers: dict[str, str]
) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        lab = await network.start("judge", stack)
        await lab.declare("leaf-1")
        network.load = 1.0
        await network.clock.advance(90)
        sent = {name: lab.etag("leaf-1") if value == PRESENT else value for name, value in headers.items()}
        path = f"/v1/devices/leaf-1/{action}"
        said = [(await lab.client.request(method, path, headers=sent, chunks=(b"{}",))).status for _ in range(4)]
        assert said.count(503) == 2


async def test_bodies_that_are_read_at_once_have_a_maximum_and_heartbeats_come_last() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        lab = await network.start("judge", stack)
        await lab.declare("leaf-1")
        path, bodies = "/v1/devices/leaf-1/report", lab.gateway._api.bodies
        bodies.most = 20_000
        more = asyncio.Event()
        chunks = (b"{}" + b" " * 15_000, b" ")
        first = asyncio.ensure_future(lab.client.request("POST", path, chunks=chunks, between=more))
        await network.clock.settle()
        assert lab.value("body_bytes") == bodies.held == 15_002
        second = await lab.client.post(path, b"{}" + b" " * 10_000)
        assert (second.status, second.headers["retry-after"], second.headers["connection"]) == (503, "5", "close")
        assert (await lab.client.post(path, {})).status == 200
        more.set()
        assert (await first).status == 200
        assert bodies.held == 0
        assert (await lab.client.post(path, b"{}" + b" " * 10_000)).status == 200


def test_a_longest_interval_below_the_shortest_is_refused() -> None:
    result = CliRunner().invoke(main, [*FLAGS, "--default-heartbeat-seconds=20", "--max-heartbeat-seconds=15"])
    assert result.exit_code == 2
    assert "--max-heartbeat-seconds" in result.output
    assert "give 20 or more" in result.output
