# SPDX-License-Identifier: Apache-2.0
"""Several gateways: any of them serves any device, and the arbiter knows of devices that talk to others."""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.clusters.api.credentials import write_secret
from e2e.clusters.cluster import GATEWAY, Capability
from e2e.stack.kube import PROCESSES, Kube, Object
from e2e.stack.manifests import deployment
from e2e.stack.recorder import Recorder
from e2e.stack.relay import Balancer, Proxy, Relay
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.connections import disconnections, pass_time
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision, revision
from e2e.suite.workloads import prompt

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

PENDING = re.compile(r"^praetor_gateway_queue_depth (\S+)$", re.MULTILINE)
IS_ARBITER = "praetor_gateway_arbiter 1.0"


@pytest.fixture
def replicas(stack: Stack) -> Iterator[tuple[Server, Server]]:
    """Two gateways that exchange which devices they heard, in place of the one that the tests share."""
    stack.gateway.program.terminate()
    token = write_secret(stack.workdir / "peers-token", secrets.token_hex(32).encode())
    with ExitStack() as opened:
        servers = tuple(stack.new_gateway(f"replica-{number}", peer_token=token) for number in (1, 2))
        for server in servers:
            opened.callback(server.program.stop)
            server.start()
        yield servers[0], servers[1]


@pytest.fixture
def devices(fleet: AgentFleet, kube: Kube, replicas: tuple[Server, Server]) -> dict[Server, list[str]]:
    """Two devices of each replica, which run a sleeper of revision 1."""
    found: dict[Server, list[str]] = {}
    for replica in replicas:
        found[replica] = [fleet.declare() for _ in range(2)]
        for device in found[replica]:
            fleet.power_on(device, gateway=replica)
    for device in _all(found):
        fleet.await_connected(device)
    kube.apply(deployment("sleeper", prompt("1"), max_unavailable=4))
    await_ready(kube, _all(found))
    return found


def test_the_arbiter_knows_of_devices_that_talk_to_another_replica(
    stack: Stack, fleet: AgentFleet, kube: Kube, devices: dict[Server, list[str]]
) -> None:
    arbiter = _arbiter(devices)
    [other] = devices.keys() - {arbiter}
    with disconnections(stack, kube) as disconnected:
        pass_time(stack, seconds=2 * stack.settings.heartbeat * stack.settings.stale_multiplier)
        for dead in (devices[arbiter][0], devices[other][0]):
            fleet.agent(dead).program.kill()
            fleet.await_connected(dead, "False")
    assert disconnected() == {devices[arbiter][0], devices[other][0]}


def test_the_death_of_the_arbiter_does_not_affect_devices_of_another_replica(
    stack: Stack, kube: Kube, devices: dict[Server, list[str]]
) -> None:
    arbiter = _arbiter(devices)
    [other] = devices.keys() - {arbiter}
    with disconnections(stack, kube) as disconnected:
        arbiter.program.kill()
        kube.apply(deployment("sleeper", prompt("2"), max_unavailable=4))
        eventually(
            lambda: [revision(kube.processes()[device]) for device in devices[other]],
            lambda found: set(found) == {"2"},
            what="the other replica's devices were given the change",
        )
        eventually(lambda: IS_ARBITER in other.metrics(), what="the other replica is the arbiter")
        arbiter.program.start()
        arbiter.wait_ready()
        await_revision(kube, _all(devices), "2")
    assert not disconnected() & set(devices[other])


def test_what_a_killed_replica_acknowledged_and_did_not_write_reaches_the_status(
    stack: Stack, fleet: AgentFleet, kube: Kube
) -> None:
    stack.gateway.program.terminate()
    with ExitStack() as opened:
        ways = stack.workdir / "ways"
        ways.mkdir(exist_ok=True)
        way = opened.enter_context(Proxy(stack.cluster.kubeconfig_for(GATEWAY), "doomed", ways))
        token = write_secret(stack.workdir / "peers-token", secrets.token_hex(32).encode())
        doomed = stack.new_gateway("doomed", peer_token=token, kubeconfig=way.kubeconfig)
        other = stack.new_gateway("survivor", peer_token=token)
        for server in (doomed, other):
            opened.callback(server.program.stop)
            server.start()
        relay = opened.enter_context(Relay(stack.url_of(other)))
        devices = [fleet.declare() for _ in range(3)]
        for device in devices:
            fleet.power_on(device, url=relay.url)
        kube.apply(deployment("sleeper", prompt("1"), max_unavailable=3))
        await_ready(kube, devices)
        relay.redirect(stack.url_of(doomed))
        pass_time(stack, seconds=3 * stack.settings.heartbeat)  # it has heard all, and asks for nothing any more
        way.hold("/status")
        pids = {device: item["status"]["pid"] for device, item in kube.processes().items()}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: PENDING.search(doomed.metrics()),
            lambda found: found is not None and float(found[1]) >= len(devices),
            what="what happened is acknowledged, and waits to be written",
        )
        pass_time(stack, seconds=2 * stack.settings.heartbeat)  # that the processes run again is, too
        assert {item["status"]["pid"] for item in kube.list(PROCESSES)} == set(pids.values())
        doomed.program.kill()
        relay.redirect(stack.url_of(other))
        eventually(
            lambda: {device: item["status"] for device, item in kube.processes().items()},
            lambda found: all(found[device]["pid"] in fleet.agent(device).processes() for device in devices),
            what="no status is wrong",
            within_s=60,
        )


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_polls_and_reports_may_go_to_either_replica_while_each_is_killed_and_started_again(
    stack: Stack, fleet: AgentFleet, kube: Kube, server: str
) -> None:
    stack.gateway.program.terminate()
    heartbeat = 2 * stack.settings.heartbeat
    with ExitStack() as opened:
        token = write_secret(stack.workdir / "peers-token", secrets.token_hex(32).encode())
        flags = (f"--server={server}", f"--default-heartbeat-seconds={heartbeat}")
        gateways = [stack.new_gateway(f"{server}-{number}", *flags, peer_token=token) for number in (1, 2)]
        for gateway in gateways:
            opened.callback(gateway.program.stop)
            gateway.start()
        balancer = opened.enter_context(Balancer([stack.url_of(gateway) for gateway in gateways]))
        devices = [fleet.declare() for _ in range(4)]
        for device in devices:
            fleet.power_on(device, url=balancer.url)
        for device in devices:
            fleet.await_connected(device)
        kube.apply(deployment("sleeper", prompt("1"), max_unavailable=4))
        await_ready(kube, devices)
        silence_s = heartbeat * stack.settings.stale_multiplier
        with (
            disconnections(stack, kube) as disconnected,
            Recorder(stack.cluster.kubeconfig, kube.path(PROCESSES)) as recorded,
        ):
            for number, gateway in enumerate(gateways, 2):
                for item in kube.list(PROCESSES):
                    os.kill(item["status"]["pid"], signal.SIGKILL)  # what is reported now may be lost
                gateway.program.kill()
                kube.apply(deployment("sleeper", prompt(str(number)), max_unavailable=4))
                await_revision(kube, devices, str(number))
                pass_time(stack, seconds=silence_s + heartbeat)
                gateway.program.start()
                gateway.wait_ready()
                pass_time(stack, seconds=silence_s + heartbeat)
            eventually(
                lambda: {device: item["status"] for device, item in kube.processes().items()},
                lambda found: all(found[device]["pid"] in fleet.agent(device).processes() for device in devices),
                what="no status is wrong",
                within_s=60,
            )
        assert disconnected() == set()
        for device in devices:
            mine = [each.object for each in recorded.frames if each.object["spec"]["deviceRef"]["name"] == device]
            assert _went_back(mine) == []
            for gateway in gateways:
                for what in ("desired", "report"):
                    assert balancer.passed[f"/v1/devices/{device}/{what}", stack.url_of(gateway)] > 1


def _went_back(processes: Iterable[Object]) -> list[list[Any]]:
    """Return what became less from one version of a process to the next: generations, revisions or start times."""
    statuses = [item["status"] for item in processes if "reported" in item.get("status", {})]
    generations: list[Any] = [each["observedGeneration"] for each in statuses if "observedGeneration" in each]
    revisions: list[Any] = [each["reported"]["revision"] for each in statuses]
    starts: list[Any] = [each["startTime"] for each in statuses if "startTime" in each]
    return [each for each in (generations, revisions, starts) if each != sorted(each)]


def _arbiter(servers: dict[Server, list[str]]) -> Server:
    """Return the replica that decides who is connected."""
    found = eventually(
        lambda: [server for server in servers if IS_ARBITER in server.metrics()],
        lambda arbiters: len(arbiters) == 1,
        what="one replica is the arbiter",
    )
    return found[0]


def _all(devices: dict[Server, list[str]]) -> list[str]:
    return [device for each in devices.values() for device in each]
