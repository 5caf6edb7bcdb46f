# SPDX-License-Identifier: Apache-2.0
"""Two controllers, of which the leader cannot renew its Lease: never two writers, by the apiserver's own log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby

import pytest

from e2e.clusters.api.audit import Write, accepted_writes
from e2e.clusters.cluster import CONTROLLER, Capability
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.ctl import Ctl
from e2e.stack.kube import PROCESSES, Kube
from e2e.stack.manifests import deployment
from e2e.stack.relay import Proxy
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import revision
from e2e.suite.workloads import sleeping

pytestmark = pytest.mark.needs(Capability.AUDIT)
NAME, FIRST, SECOND, DEVICES, LIMIT, LEASE_S = "sleeper", "controller-1", "controller-2", 18, 2, 2
WAVES = ({"name": "first", "limit": LIMIT}, {"name": "others", "approval": "Manual"})


@pytest.mark.parametrize("trouble", ["renewals-held-up", "leader-frozen"])
def test_a_leader_that_cannot_renew_its_lease_writes_nothing_once_another_has(
    stack: Stack, kube: Kube, simulated: SimulatedFleet, plan_check: PlanCheck, trouble: str
) -> None:
    with _two_controllers(stack) as (leader, other, way):
        devices = simulated.add(DEVICES)
        leader.start()
        kube.apply(deployment(NAME, sleeping("1"), max_unavailable=LIMIT, minReadySeconds=1))
        await_done(kube, NAME)
        other.start()
        rolling = {"maxUnavailable": LIMIT, "waves": WAVES}
        strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
        with plan_check.template(NAME, sleeping("2"), updateStrategy=strategy, approved=True) as change:
            eventually(lambda: FIRST in _writers(stack, kube, "2"), what="the leader rolls out")
            if trouble == "renewals-held-up":
                way.hold("/leases")
            else:
                leader.program.freeze()
            # only now, so that most of the rollout is left to the next leader, however late this happens
            Ctl(stack.cluster.kubeconfig, kube.namespace)("rollout", "approve", NAME)
            eventually(lambda: SECOND in _writers(stack, kube, "2"), what="the other one goes on with it")
            assert len(_at(kube, "1")) > LIMIT, "the rollout was over before the leader was relieved"
            way.release()
            leader.program.thaw()
            await_done(kube, NAME)
    assert [agent for agent, _ in groupby(write.agent for write in _writes(stack, kube))] == [FIRST, SECOND]
    assert 1 <= change.timeline.worst() <= LIMIT
    assert {item["metadata"]["generation"] for item in kube.list(PROCESSES)} == {2}
    assert set(kube.processes()) == set(devices)


@contextmanager
def _two_controllers(stack: Stack) -> Iterator[tuple[Server, Server, Proxy]]:
    """Yield two controllers, not started, with different user agents, and the first one's way to it."""
    stack.controller.program.terminate()
    with ExitStack() as opened:
        servers, ways = [], []
        for agent in (FIRST, SECOND):
            folder = stack.workdir / "ways"
            folder.mkdir(exist_ok=True)
            way = opened.enter_context(Proxy(stack.cluster.kubeconfig_for(CONTROLLER), agent, folder))
            flag = f"--leader-elect-lease-duration={LEASE_S}"
            server = stack.new_controller(agent, flag, kubeconfig=way.kubeconfig)
            opened.callback(server.program.stop)
            servers.append(server)
            ways.append(way)
        yield servers[0], servers[1], ways[0]


def _writes(stack: Stack, kube: Kube) -> list[Write]:
    """Return the writes of both controllers to the namespace, in the order in which they were stored."""
    writes = accepted_writes(stack.cluster.audit_log(), kube.namespace)
    return [write for write in writes if write.agent in (FIRST, SECOND)]


def _writers(stack: Stack, kube: Kube, wanted: str) -> set[str]:
    """Return who wrote processes of the revision *wanted*."""
    names = {item["metadata"]["name"] for item in kube.list(PROCESSES) if revision(item) == wanted}
    latest = {write.name: write.agent for write in _writes(stack, kube) if write.resource == PROCESSES}
    return {latest[name] for name in names if name in latest}


def _at(kube: Kube, wanted: str) -> list[str]:
    return [item["metadata"]["name"] for item in kube.list(PROCESSES) if revision(item) == wanted]
