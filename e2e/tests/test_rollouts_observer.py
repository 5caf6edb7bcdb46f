# SPDX-License-Identifier: Apache-2.0
"""What an observer makes of a watch, and where it finds `praetorctl plan` wrong."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.rollouts.observer import Sample, SpecWrite, Timeline, observe, together
from e2e.rollouts.plan_check import deviations
from e2e.stack.recorder import Frame

TRUE = ("AgentConnected", "SpecObserved", "Healthy")
LABELS = {"a": {"rack": "r1"}, "b": {"rack": "r1"}, "c": {"rack": "r2"}}
DEPLOYMENT = {"status": {"updateRevision": "v2"}}


def process(
    device: str, generation: int, observed: int, *, since: str = "1970-01-01T00:00:00Z", deployment: str = "tel"
) -> dict[str, Any]:
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": since} for kind in TRUE]
    return {
        "metadata": {
            "name": f"{deployment}-{device}",
            "generation": generation,
            "labels": {"azure.com/deployment": deployment},
            "annotations": {"azure.com/revision": f"v{generation}", "azure.com/wave": "canary"},
        },
        "spec": {"deviceRef": {"name": device}},
        "status": {"phase": "Running", "observedGeneration": observed, "conditions": conditions},
    }


def watched(*frames: tuple[float, str, dict[str, Any]], listed: int = 2, min_ready_s: float = 0) -> Timeline:
    seen = [Frame(*each, wall=each[0]) for each in frames]
    return observe(seen, "tel", listed=listed, min_ready_s=min_ready_s)


START = ((1.0, "ADDED", process("a", 1, 1)), (1.0, "ADDED", process("b", 1, 1)))


def test_a_device_is_down_from_the_write_of_its_spec_until_it_is_ready_with_it() -> None:
    timeline = watched(*START, (2.0, "MODIFIED", process("a", 2, 1)), (3.0, "MODIFIED", process("a", 2, 2)))
    assert [(each.at, sorted(each.disrupted)) for each in timeline.samples] == [(1.0, []), (2.0, ["a"]), (3.0, [])]
    assert timeline.writes == [SpecWrite(2.0, "a", "v2", "canary", created=False)]
    assert timeline.worst() == 1
    assert timeline.samples[-1].revisions == {"v1": 1, "v2": 1}


def test_devices_that_are_down_at_the_same_time_add_up_in_their_domains() -> None:
    timeline = watched(*START, (2.0, "MODIFIED", process("a", 2, 1)), (3.0, "MODIFIED", process("b", 2, 1)))
    assert timeline.worst() == 2
    assert timeline.worst_by_domain(["rack"], LABELS) == {"rack=r1": 2}
    assert timeline.worst_by_domain(["pair"], LABELS) == {}


@pytest.mark.parametrize(("written_at", "stamp", "available"), [(2.6, "03", 3.6), (2.6, "02", 3.0), (4.0, "02", 3.0)])
def test_min_ready_seconds_begin_with_the_offer_however_late_it_is_seen_or_stamped(
    written_at: float, stamp: str, available: float
) -> None:
    ready = process("a", 2, 2)
    ready["metadata"]["annotations"]["azure.com/offered-at"] = f"1970-01-01T00:00:{stamp}Z"
    later = (9.0, "MODIFIED", process("b", 1, 1))
    frames = ((written_at, "MODIFIED", process("a", 2, 1)), (written_at, "MODIFIED", ready), later)
    samples = watched(*START, *frames, min_ready_s=1.0).samples
    assert max(available, written_at) in [each.at for each in samples if not each.disrupted]


def test_a_ready_device_is_down_for_min_ready_seconds_more() -> None:
    ready = process("a", 2, 2, since="1970-01-01T00:00:03Z")
    later = (9.0, "MODIFIED", process("b", 1, 1))
    timeline = watched(*START, (2.0, "MODIFIED", process("a", 2, 1)), (3.0, "MODIFIED", ready), later, min_ready_s=0.5)
    assert [(each.at, sorted(each.disrupted)) for each in timeline.samples[1:4]] == [
        (2.0, ["a"]),
        (3.0, ["a"]),
        (3.5, []),
    ]


def test_a_device_that_goes_down_by_itself_is_unavailable_but_not_disrupted() -> None:
    silent = process("a", 1, 1)
    silent["status"]["phase"] = "Unknown"
    timeline = watched(*START, (2.0, "MODIFIED", silent), (3.0, "MODIFIED", process("a", 2, 1)))
    assert (timeline.worst(), timeline.worst(lambda sample: sample.unavailable)) == (0, 1)


def test_what_several_deployments_have_down_is_counted_together_and_a_device_once() -> None:
    later = process("a", 2, 2, since="1970-01-01T00:00:05Z")
    frames = [
        Frame(*each, wall=each[0])
        for each in (
            *START,
            (1.0, "ADDED", process("a", 1, 1, deployment="log")),
            (1.0, "ADDED", process("b", 1, 1, deployment="log")),
            (2.0, "MODIFIED", process("a", 2, 1)),
            (3.0, "MODIFIED", process("a", 2, 1, deployment="log")),
            (4.0, "MODIFIED", process("b", 2, 1, deployment="log")),
            (5.0, "MODIFIED", later),
            (6.5, "MODIFIED", process("a", 2, 2, deployment="log")),
        )
    ]
    both = together(*(observe(frames, name, listed=4, min_ready_s=1) for name in ("tel", "log")))
    down = {sample.at: sorted(sample.disrupted) for sample in both.samples}
    assert down == {1.0: [], 2.0: ["a"], 3.0: ["a"], 4.0: ["a", "b"], 5.0: ["a", "b"], 6.0: ["a", "b"], 6.5: ["b"]}
    assert [(write.at, write.device) for write in both.writes] == [(2.0, "a"), (3.0, "a"), (4.0, "b")]
    assert both.worst_by_domain(["rack"], LABELS) == {"rack=r1": 2}
    assert both.samples[-1].revisions == {"v1": 1, "v2": 3}


def test_a_deleted_process_is_neither_up_nor_down() -> None:
    timeline = watched(*START, (2.0, "MODIFIED", process("a", 2, 1)), (3.0, "DELETED", process("a", 2, 1)))
    assert (timeline.deleted, sorted(timeline.samples[-1].disrupted)) == (["tel-a"], [])
    assert timeline.samples[-1].revisions == {"v1": 1}


def forecast(**fields: Any) -> dict[str, Any]:
    steps = [{"create": [], "update": ["a", "c"], "delete": []}, {"create": [], "update": ["b"], "delete": ["tel-d"]}]
    budgets = [{"budget": "rack: maxUnavailable 1", "domains": {"rack=r1": 1, "rack=r2": 1}}]
    planned = {"fault": "", "steps": steps, "waves": {}, "unavailableAtMost": 2, "budgets": budgets, "left": {}}
    return planned | fields


def happened(
    *devices: str, at_once: tuple[str, ...] = ("a",), wave: str = "", deleted: tuple[str, ...] = ("tel-d",)
) -> Timeline:
    writes = [SpecWrite(float(number), each, "v2", wave, created=False) for number, each in enumerate(devices)]
    return Timeline(began=0, samples=[Sample(0, frozenset(), frozenset(at_once), {})], writes=writes, deleted=deleted)


@pytest.mark.parametrize(
    ("planned", "seen", "words"),
    [
        pytest.param(forecast(), happened("a", "c", "b"), "", id="came-true"),
        pytest.param(forecast(), happened("c", "a", "b"), "", id="other-racks-may-be-faster"),
        pytest.param(forecast(), happened("a", "c"), "not written: ['b']", id="missing"),
        pytest.param(forecast(), happened("a", "c", "b", "b"), "more than once: ['b']", id="twice"),
        pytest.param(forecast(), happened("a", "c", "b", "d"), "not planned: ['d']", id="unforeseen"),
        pytest.param(forecast(), happened("a", "c", "b", deleted=()), "not deleted: ['tel-d']", id="kept"),
        pytest.param(forecast(), happened("a", "c", "b", deleted=("tel-d", "tel-e")), "deleted, but not", id="deleted"),
        pytest.param(forecast(unavailableAtMost=0), happened("a", "c", "b"), "at most 0", id="too-many-down"),
        pytest.param(forecast(), happened("a", "c", "b", at_once=("a", "b")), "2 devices of rack=r1", id="domain"),
        pytest.param(forecast(fault="no"), happened("a", "c", "b"), "reported a wrong spec", id="fault"),
        pytest.param(forecast(left={"a": {"reason": "Paused"}}), happened("a", "c", "b"), "left at the end", id="left"),
        pytest.param(
            forecast(waves={"canary": ["a", "c"], "(rest)": ["b"]}),
            happened("a", "c", "b", wave="canary"),
            "b was planned for the wave '(rest)' and came in 'canary'",
            id="wave",
        ),
        pytest.param(forecast(budgets=[], unavailableAtMost=1), happened("b", "a", "c"), "number 1", id="order"),
    ],
)
def test_a_forecast_is_compared_with_what_happened(planned: dict[str, Any], seen: Timeline, words: str) -> None:
    found = deviations(planned, seen, DEPLOYMENT, LABELS, {}, stopped=False)
    assert any(words in each for each in found) if words else found == []


def test_of_a_rollout_that_stops_only_the_writes_until_then_are_compared() -> None:
    assert deviations(forecast(), happened("a"), DEPLOYMENT, LABELS, {"b": "Paused"}, stopped=True) == []
