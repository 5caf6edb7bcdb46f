# SPDX-License-Identifier: Apache-2.0
"""Hundreds of simulated devices: a bad version is stopped, and no budget is exceeded at any moment of the watch."""

from __future__ import annotations

import pytest

from e2e.clusters.cluster import Cluster
from e2e.clusters.launch import ClusterName
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import domain
from e2e.rollouts.scenario import BAD, BETTER, CANARIES, FAILURES, PER_RACK, run_scenario
from e2e.stack.kube import Kube, conditions
from e2e.stack.stack import Stack
from e2e.suite.readiness import is_ready, revision


def test_a_bad_version_stops_in_the_first_wave_and_is_rolled_back_within_the_budgets(
    cluster: Cluster, stack: Stack, kube: Kube, simulated: SimulatedFleet, pytestconfig: pytest.Config
) -> None:
    usual = 100 if cluster.name == ClusterName.EMBEDDED else 300
    result = run_scenario(stack, kube, simulated, pytestconfig.getoption("devices") or usual)
    timeline, stopped = result.timeline, result.stopped
    bad = stopped["status"]["failedRevision"]

    hit = {write.device for write in timeline.writes_of(bad)}
    canaries = {name for name, labels in result.labels.items() if labels.get("ring") == "canary"}
    assert FAILURES < len(hit) <= CANARIES
    assert hit <= canaries
    assert {write.wave for write in timeline.writes_of(bad)} == {"canary"}
    assert f"at most {FAILURES} may" in conditions(stopped)["Paused"]["message"]

    assert set(result.explained) == set(result.devices)
    for device, (reason, detail) in result.explained.items():
        wanted = ("Failing", "simulated failure") if device in hit else ("Paused", "the failure policy stopped")
        assert reason == wanted[0], (device, reason, detail)
        assert wanted[1] in detail

    assert 1 <= timeline.worst() <= result.limit
    assert timeline.worst(lambda sample: sample.unavailable) <= result.limit
    assert max(timeline.worst_by_domain(["rack"], result.labels).values()) <= PER_RACK
    assert {domain(["rack"], result.labels[each]) for each in hit} <= timeline.worst_by_domain(
        ["rack"], result.labels
    ).keys()

    assert {revision(item) for item in result.end.values()} == {BETTER}
    assert all(map(is_ready, result.end.values()))
    assert set(result.end) == set(result.devices)
    assert BAD not in {revision(item) for item in result.end.values()}
