# SPDX-License-Identifier: Apache-2.0
"""Dead devices hold nothing up; a version that kills devices goes no further than its first wave."""

from __future__ import annotations

from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import Kube, Object, condition, conditions
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually
from e2e.suite.readiness import is_ready, revision
from e2e.suite.workloads import sleeping

NAME, DEADLY, DEVICES, CANARIES, LIMIT = "sleeper", "v3-deadly", 100, 6, 10


def test_a_fleet_with_dead_devices_finishes_and_a_version_that_kills_devices_stops(
    kube: Kube, simulated: SimulatedFleet, plan_check: PlanCheck
) -> None:
    devices = simulated.declare(DEVICES)
    dying, living = devices[:5], devices[5:]
    simulated.power_on(living, f"--silent-on={DEADLY}")
    lost = simulated.power_on(dying)
    simulated.await_connected((*living, *dying))
    kube.apply(_sleeper())
    await_done(kube, NAME)
    lost.stop()
    simulated.await_connected(dying, "False")

    with plan_check.template(NAME, sleeping("2")) as change:
        await_done(kube, NAME)
    assert {device for device, item in kube.processes().items() if not is_ready(item)} == set(dying)
    assert {revision(kube.processes()[device]) for device in living} == {"2"}
    assert 1 <= change.timeline.worst() <= LIMIT

    with plan_check.template(NAME, sleeping(DEADLY), stopped=True) as change:
        stopped = eventually(
            lambda: kube.deployment(NAME),
            lambda item: conditions(item).get("Paused", {}).get("reason") == "FailurePolicy",
            what="the failure policy stops it",
        )
    hit = {write.device for write in change.timeline.writes_of(stopped["status"]["failedRevision"])}
    assert 1 <= len(hit & set(living)) <= CANARIES
    assert change.timeline.worst() <= LIMIT
    assert "silent since the " in conditions(stopped)["Paused"]["message"]
    survivors = set(living) - hit
    assert all(is_ready(item) for device, item in kube.processes().items() if device in survivors)
    assert condition(kube.switch(min(survivors)), "AgentConnected") == "True"


def _sleeper() -> Object:
    rolling = {"maxUnavailable": LIMIT, "waves": [{"name": "canary", "limit": CANARIES}]}
    strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
    policy = {"maxFailures": 2, "action": "Pause"}
    return deployment(NAME, sleeping("1"), updateStrategy=strategy, failurePolicy=policy)
