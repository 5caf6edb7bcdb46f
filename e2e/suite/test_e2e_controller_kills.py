# SPDX-License-Identifier: Apache-2.0
"""The controller is killed many times in one rollout, which ends as an undisturbed one does, within all budgets."""

from __future__ import annotations

import json
import random
import secrets
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.clusters.cluster import Capability
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import Timeline
from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, Object, accepted, conditions
from e2e.stack.manifests import deployment
from e2e.stack.preloaded import Preloaded
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import revision
from e2e.suite.workloads import sleeping

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

NAME, LIMIT, PER_RACK, RACKS, CANARIES = "sleeper", 2, 1, 10, 5
DEVICES, LAST = 60, 6
FINISH_S = 900
MIN_READY_S = 1
MAIN = "praetor_controller.cli:main"
A_FEW = 10  # at least one kill in ten meets a controller that has begun to write


@pytest.fixture
def undisturbed(stack: Stack, kube: Kube) -> Iterator[Kube]:
    """A second namespace, where no controller is killed."""
    other = stack.kube(f"{kube.namespace}-undisturbed").create_namespace()
    yield other
    other.delete_namespace()


@pytest.mark.timeout(3600)
def test_the_end_is_the_same_and_no_budget_is_exceeded_when_the_controller_is_killed_at_random_moments(
    stack: Stack, kube: Kube, undisturbed: Kube, pytestconfig: pytest.Config
) -> None:
    kills, seed = pytestconfig.getoption("kills"), secrets.randbits(32)
    fleets = {each: SimulatedFleet(stack, each) for each in (kube, undisturbed)}
    with _only(stack, _alone(stack, kube), _alone(stack, undisturbed)) as (storm, _):
        try:
            for each, fleet in fleets.items():
                fleet.add(DEVICES, labels=lambda number: {"rack": f"r{number % RACKS}"})
                each.apply(deployment(NAME, sleeping("1"), minReadySeconds=MIN_READY_S, updateStrategy=_strategy()))
            for each in fleets:
                await_done(each, NAME)
            with (
                PlanCheck(stack, undisturbed).change(NAME, approved=True, **_change()) as quiet,
                PlanCheck(stack, kube).change(NAME, approved=True, **_change()) as stormy,
            ):
                killed_at = _kill(storm, kills, random.Random(seed), kube)  # noqa: S311  # not secret
                for each in fleets:
                    Ctl(stack.cluster.kubeconfig, each.namespace)("rollout", "approve", NAME, "--wave", "last")
                    await_done(each, NAME, within_s=FINISH_S)
            for change, each in ((stormy, kube), (quiet, undisturbed)):
                _within_budgets(change.timeline, fleets[each], f"seed {seed}")
                assert _most_processes_of_a_device(change.record.states()) == 1
            assert _end(kube) == _end(undisturbed), f"seed {seed}"
            writers = {bisect(killed_at, write.at) for write in stormy.timeline.writes} - {len(killed_at)}
            assert len(writers) >= kills // A_FEW, f"seed {seed}: only {len(writers)} of {kills} kills met a writer"
            assert {item["metadata"]["generation"] for item in kube.list(PROCESSES)} == {2}
        finally:
            for fleet in fleets.values():
                fleet.close()


def _strategy(*waves: Object) -> Object:
    budgets = [{"groupBy": ["rack"], "maxUnavailable": PER_RACK}]
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": LIMIT, "waves": waves, "budgets": budgets}}


def _change() -> Object:
    """Return a new template and waves, the last of which needs an approval, so that all kills meet the rollout."""
    bulk = {"name": "bulk", "limit": DEVICES - LAST - CANARIES}
    waves = ({"name": "canary", "limit": CANARIES}, bulk, {"name": "last", "approval": "Manual"})
    return {"template": {"spec": sleeping("2")}, "updateStrategy": _strategy(*waves)}


def _alone(stack: Stack, kube: Kube) -> Server:
    """Return a controller for one namespace that waits for no Lease of its killed predecessor."""
    flags = (f"--namespace={kube.namespace}", "--no-leader-elect")
    server = stack.new_controller(f"controller-{kube.namespace}", *flags)
    server.program = Preloaded(server.program, MAIN)  # it is started so often that imports would be most of the work
    return server


@contextmanager
def _only(stack: Stack, *servers: Server) -> Iterator[tuple[Server, ...]]:
    """Run *servers* instead of the stack's controller; the next test finds that one running again."""
    stack.controller.program.terminate()
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.program.stop()


def _kill(controller: Server, kills: int, chance: random.Random, kube: Kube) -> list[float]:
    """Kill and restart *controller* *kills* times, at any moment from its start to well after its first write.

    A controller relies on what is ready when it has seen it for MIN_READY_S itself, so it lives for longer than that.
    Return when that was.
    """
    killed_at, began = [time.time()], time.monotonic()
    controller.restart(kill=True)
    start_s = time.monotonic() - began
    eventually(lambda: _versions(kube) == {"1", "2"}, what="the rollout began")  # it may not have before the first kill
    for number in range(1, kills):
        threading.Event().wait(chance.uniform(0.0, start_s + 3 * MIN_READY_S + 0.7))
        assert _versions(kube) == {"1", "2"}, f"no rollout at kill {number}"
        controller.program.kill()
        killed_at.append(time.time())
        controller.program.start()
    return killed_at


def _versions(kube: Kube) -> set[str]:
    return {revision(item) for item in kube.list(PROCESSES)}


def _within_budgets(timeline: Timeline, fleet: SimulatedFleet, seed: str) -> None:
    assert 1 <= timeline.worst() <= LIMIT, seed
    assert max(timeline.worst_by_domain(["rack"], fleet.labels).values()) <= PER_RACK, seed


def _most_processes_of_a_device(states: Sequence[dict[str, Object]]) -> int:
    return max(
        max(Counter(item["spec"]["deviceRef"]["name"] for item in state.values()).values(), default=0)
        for state in states
    )


def _end(kube: Kube) -> Any:
    """Return all that is left in the namespace, without what differs by time or chance."""
    stored = kube.deployment(NAME)
    revisions = accepted(kube.api.get(f"/apis/apps/v1/namespaces/{kube.namespace}/controllerrevisions"))["items"]
    processes = {device: _process(item) for device, item in kube.processes().items()}
    status = {key: value for key, value in stored["status"].items() if key != "conditions"}
    end = {
        "status": status | {"conditions": {kind: each["status"] for kind, each in conditions(stored).items()}},
        "spec": stored["spec"],
        "generation": stored["metadata"]["generation"],
        "revisions": sorted((item["revision"], item["metadata"]["name"], item["data"]) for item in revisions),
        "processes": processes,
        "deployments": len(kube.list(DEPLOYMENTS)),
    }
    return json.loads(json.dumps(end).replace(kube.namespace, "here"))


def _process(item: Object) -> Object:
    metadata, status = item["metadata"], item["status"]
    annotations = {key: value for key, value in metadata["annotations"].items() if key != "azure.com/offered-at"}
    return {
        "name": metadata["name"],
        "labels": metadata["labels"],
        "annotations": annotations,
        "spec": item["spec"],
        "phase": status["phase"],
        "observed": status["observedGeneration"],
        "conditions": {kind: each["status"] for kind, each in conditions(item).items()},
    }
