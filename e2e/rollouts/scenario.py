# SPDX-License-Identifier: Apache-2.0
"""A bad version is stopped and rolled back, then a good one goes through three waves; all of it is recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import Timeline, observe
from e2e.rollouts.plan_check import PlanCheck
from e2e.stack.ctl import Ctl
from e2e.stack.kube import PROCESSES, Kube, Object, conditions
from e2e.stack.manifests import deployment
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.workloads import sleeping

NAME = "telemetry"
GOOD, BAD, BETTER = "v1-good", "v2-bad", "v3-good"
CANARIES, FAILURES, PER_RACK, RACK_SIZE = 10, 3, 2, 10
WITHIN_S = 600
FAULTS = (f"--fail-on={BAD}",)


def labels(number: int) -> dict[str, str]:
    """Return the labels of a device: racks of ten, of which the first device is a canary."""
    ring = {"ring": "canary"} if number % RACK_SIZE == 0 else {}
    return {"rack": f"r{number // RACK_SIZE:02}", **ring}


def telemetry() -> Object:
    """Return the deployment: canaries, then three of ten, then the rest; 10 % and two of a rack may be down."""
    waves = [
        {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "limit": CANARIES, "soakSeconds": 2},
        {"name": "early", "limit": "30%"},
    ]
    budgets = [{"groupBy": ["rack"], "maxUnavailable": PER_RACK}]
    rolling = {"maxUnavailable": "10%", "waves": waves, "budgets": budgets}
    return deployment(
        NAME,
        sleeping(GOOD),
        minReadySeconds=1,
        updateStrategy={"type": "RollingUpdate", "rollingUpdate": rolling},
        failurePolicy={"maxFailures": FAILURES, "action": "Pause"},
    )


@frozen(kw_only=True)
class ScenarioResult:
    """What happened. *marks* are moments by their names; *stopped* is the deployment when the bad version was stopped,
    *explained* what `praetorctl explain` said of each device then."""

    devices: tuple[str, ...]
    labels: Mapping[str, Mapping[str, str]]
    timeline: Timeline
    marks: Mapping[str, float]
    stopped: Object
    explained: Mapping[str, tuple[str, str]]
    end: Mapping[str, Object]

    @property
    def limit(self) -> int:
        """How many devices may be down at a time."""
        return -(-len(self.devices) // 10)


def run_scenario(stack: Stack, kube: Kube, fleet: SimulatedFleet, count: int) -> ScenarioResult:
    """Run the whole scenario on a new fleet of *count* devices."""
    devices = fleet.add(count, *FAULTS, labels=labels)
    kube.apply(telemetry())
    await_done(kube, NAME)
    plan_check, ctl = PlanCheck(stack, kube), Ctl(stack.cluster.kubeconfig, kube.namespace)
    marks: dict[str, float] = {}
    with Recorder(stack.cluster.kubeconfig, kube.path(PROCESSES)) as record:
        marks["bad version"] = time.time()
        with plan_check.template(NAME, sleeping(BAD), stopped=True):
            stopped = eventually(lambda: kube.deployment(NAME), _is_stopped, what="the failure policy stops it")
        marks["stopped"] = time.time()
        explained = _explained(ctl)
        marks["undo"] = time.time()
        ctl("rollout", "undo", NAME)
        await_done(kube, NAME)
        marks["good version"] = time.time()
        with plan_check.template(NAME, sleeping(BETTER)):
            await_done(kube, NAME)
        marks["done"] = time.time()
    timeline = observe(record.frames, NAME, listed=record.listed, min_ready_s=1)
    return ScenarioResult(
        devices=devices,
        labels=fleet.labels,
        timeline=timeline,
        marks=marks,
        stopped=stopped,
        explained=explained,
        end=kube.processes(),
    )


def await_done(kube: Kube, name: str, *, within_s: float = WITHIN_S) -> Object:
    """Return the deployment once it says that its present template was rolled out."""

    def done(item: Object) -> bool:
        status = item.get("status") or {}
        said = conditions(item).get("Progressing", {}).get("reason") == "NewRevisionRolledOut"
        return said and status["observedGeneration"] == item["metadata"]["generation"]

    return eventually(lambda: kube.deployment(name), done, what=f"{name} is rolled out", within_s=within_s)


def _is_stopped(item: Object) -> bool:
    return conditions(item).get("Paused", {}).get("reason") == "FailurePolicy"


def _explained(ctl: Ctl) -> dict[str, tuple[str, str]]:
    """Return reason and detail of each device, once none is still being updated."""

    def ask() -> dict[str, tuple[str, str]]:
        explained: Any = ctl.read("explain", NAME)
        return {
            each["device"]: (group["reason"], each["detail"])
            for group in explained["reasons"]
            for each in group["devices"]
        }

    return eventually(
        ask, lambda found: all(reason not in ("Updating", "NotReady") for reason, _ in found.values()), what="settled"
    )
