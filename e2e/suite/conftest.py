# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the suite: the three programs once, and a namespace with devices of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from e2e.clusters.cluster import Cluster
from e2e.clusters.remote import PodCluster
from e2e.pods.stack import PodStack
from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.plan_check import PlanCheck
from e2e.stack.kube import Kube
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.rollout_fixture import DEVICES, FAULTS, RolloutFixture, labels

TIMEOUT_S = 1800
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of the suite as one that needs a cluster, and give it time."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the programs logged meanwhile."""
    report = yield
    logged = item.stash.get(LOGGED, None)
    if report.failed and logged is not None:
        stack, since = logged
        report.sections.append(("logs of the programs", stack.logs(since)))
    return report


LOGGED = pytest.StashKey[tuple[Stack, dict[Path, int]]]()


@pytest.fixture(scope="session")
def session_stack(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Stack]:
    """The programs, started once: in Pods where the cluster runs them."""
    workdir = tmp_path_factory.mktemp("stack")
    in_pods = isinstance(cluster, PodCluster)
    with PodStack(request.getfixturevalue("bare_system"), workdir) if in_pods else Stack(cluster, workdir) as stack:
        yield stack


@pytest.fixture
def stack(request: pytest.FixtureRequest, session_stack: Stack) -> Stack:
    """The programs, all of them running and ready, whatever the test before did to them."""
    request.node.stash[LOGGED] = (session_stack, session_stack.log_sizes())
    return _ready(session_stack)


def _ready(stack: Stack) -> Stack:
    for server in stack.servers():
        if not server.program.running:
            server.program.start()
        server.wait_ready()
    eventually(lambda: _unsettled(stack), lambda found: not found, what="nothing of the test before goes on")
    return stack


def _unsettled(stack: Stack) -> list[str]:
    """Return the programs that still see what the test before did to gateways and devices, and would warn of it."""
    calm = dict.fromkeys(stack.servers(), "praetor_gateway_observer_suspect 0.0")
    if stack.controller in calm:
        calm[stack.controller] = "praetor_controller_gateway_judging 1.0"
    return [f"{server.name}: not {line}" for server, line in calm.items() if f"\n{line}\n" not in server.metrics()]


@pytest.fixture
def kube(stack: Stack) -> Iterator[Kube]:
    """A namespace of the test's own."""
    kube = stack.kube(f"e2e-{secrets.token_hex(3)}").create_namespace()
    yield kube
    kube.delete_namespace()


@pytest.fixture
def fleet(stack: Stack, kube: Kube) -> Iterator[AgentFleet]:
    """Devices of the test's own."""
    fleet = AgentFleet(stack, kube)
    yield fleet
    fleet.close()


@pytest.fixture
def simulated(stack: Stack, kube: Kube) -> Iterator[SimulatedFleet]:
    """Simulated devices of the test's own, of which there can be many."""
    fleet = SimulatedFleet(stack, kube)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def shared(session_stack: Stack) -> Iterator[tuple[Kube, SimulatedFleet]]:
    """Simulated devices that the tests of a module share, in a namespace of their own."""
    kube = _ready(session_stack).kube(f"e2e-{secrets.token_hex(3)}").create_namespace()
    fleet = SimulatedFleet(session_stack, kube)
    try:
        fleet.add(DEVICES, FAULTS, labels=labels)
        yield kube, fleet
    finally:
        fleet.close()
        kube.delete_namespace()


@pytest.fixture
def rollout(stack: Stack, shared: tuple[Kube, SimulatedFleet]) -> Iterator[RolloutFixture]:
    """A deployment of the test's own on the module's devices, and a record of all that happens to it."""
    with RolloutFixture(stack, *shared) as rollout:
        yield rollout


@pytest.fixture
def plan_check(stack: Stack, kube: Kube) -> PlanCheck:
    """Changes whose forecast by `praetorctl plan` is compared with what happened."""
    return PlanCheck(stack, kube)
