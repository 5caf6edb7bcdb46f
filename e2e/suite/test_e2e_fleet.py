"""Hundreds of pretend devices: a bad version stops by itself, and no budget is ever exceeded, as a watch shows."""

from __future__ import annotations

import pytest

from e2e.clusters.cluster import Cluster
from e2e.clusters.launch import ClusterName
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import domain
from e2e.rollouts.scenario import BAD, BETTER, CANARIES, FAILURES, PER_RACK, tell
from e2e.stack.kube import Kube, conditions
from e2e.stack.stack import Stack
from e2e.suite.judging import is_ready, revision


def test_a_bad_version_stops_in_the_first_wave_and_is_taken_back_within_the_budgets(
    cluster: Cluster, stack: Stack, kube: Kube, simulated: SimulatedFleet, pytestconfig: pytest.Config
) -> None:
    usual = 100 if cluster.name == ClusterName.EMBEDDED else 300
    story = tell(stack, kube, simulated, pytestconfig.getoption("devices") or usual)
    timeline, stopped = story.timeline, story.stopped
    bad = stopped["status"]["failedRevision"]

    hit = {offer.device for offer in timeline.offered(bad)}
    canaries = {name for name, labels in story.labels.items() if labels.get("ring") == "canary"}
    assert FAILURES < len(hit) <= CANARIES
    assert hit <= canaries
    assert {offer.wave for offer in timeline.offered(bad)} == {"canary"}
    assert f"at most {FAILURES} may" in conditions(stopped)["Paused"]["message"]

    assert set(story.explained) == set(story.devices)
    for device, (reason, detail) in story.explained.items():
        wanted = ("Failing", "simulated failure") if device in hit else ("Paused", "the failure policy stopped")
        assert reason == wanted[0], (device, reason, detail)
        assert wanted[1] in detail

    assert 1 <= timeline.worst() <= story.limit
    assert timeline.worst(lambda sample: sample.unavailable) <= story.limit
    assert max(timeline.worst_by_domain(["rack"], story.labels).values()) <= PER_RACK
    assert {domain(["rack"], story.labels[each]) for each in hit} <= timeline.worst_by_domain(
        ["rack"], story.labels
    ).keys()

    assert {revision(item) for item in story.end.values()} == {BETTER}
    assert all(map(is_ready, story.end.values()))
    assert set(story.end) == set(story.devices)
    assert BAD not in {revision(item) for item in story.end.values()}
