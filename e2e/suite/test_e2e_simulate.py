# SPDX-License-Identifier: Apache-2.0
"""Simulated devices over TLS, with and without uvloop, and what they count of their gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from e2e.clusters.cluster import Capability, Cluster
from e2e.clusters.programs.ports import free_ports
from e2e.rollouts.fleet import SimulatedFleet
from e2e.scale.certificate import CertificateFiles, write_certificate
from e2e.stack.kube import SWITCHES, Kube, accepted, condition
from e2e.stack.manifests import deployment
from e2e.stack.program import Program
from e2e.stack.stack import Stack, environment
from e2e.stack.waiting import eventually
from e2e.suite.gateways import only_gateway
from e2e.suite.readiness import await_process, await_revision
from e2e.suite.workloads import change_template, sleeping

pytestmark = pytest.mark.needs(Capability.PROGRAMS)


@pytest.fixture
def certificate(tmp_path: Path) -> CertificateFiles:
    """A certificate for 127.0.0.1 and the authority that signed it."""
    return write_certificate(tmp_path)


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The URL of `kubectl proxy`."""
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    (port,) = free_ports(1)
    argv = [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", "proxy", f"--port={port}"]
    program = Program("kubectl-proxy", argv, workdir=tmp_path, env=environment())
    program.start()
    eventually(lambda: "Starting to serve" in program.tail(), what="kubectl proxy serves")
    yield f"http://127.0.0.1:{port}"
    program.stop()


def summary(program: Program) -> dict[str, Any]:
    """Return the last one that was printed."""
    lines = [line for line in program.log.read_text().splitlines() if line.startswith("{")]
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {"disconnections": {"statuses": 0}}
    return last


@pytest.mark.parametrize(("loop", "server"), [("uvloop", "uvicorn"), ("asyncio", "hypercorn")])
def test_a_fleet_over_tls_is_rolled_out_to_and_no_disconnection_is_false_or_missed(
    stack: Stack,
    kube: Kube,
    simulated: SimulatedFleet,
    certificate: CertificateFiles,
    proxy: str,
    tmp_path: Path,
    loop: str,
    server: str,
) -> None:
    if loop == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    variables = {} if loop == "uvloop" else {"PYTHONPATH": str(tmp_path)}
    tls = (f"--tls-cert={certificate.served}", f"--tls-key={certificate.key}")
    devices = simulated.declare(6, lambda number: {"role": "doomed" if number == 0 else "leaf"})
    doomed, *others = devices
    with only_gateway(stack, server, *tls) as gateway:
        program = simulated.power_on(
            devices,
            f"--gateway=https://127.0.0.1:{gateway.ports[0]}",
            f"--ca-bundle={certificate.authority}",
            "--processes=2",
            "--silent-on=deadly",
            f"--api={proxy}",
            f"--namespace={kube.namespace}",
            "--output=json",
            "--summary-seconds=1",
            variables=variables,
        )
        simulated.await_connected(devices)
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        assert ["uvloop/loop" in Path(f"/proc/{pid}/maps").read_text() for pid in children] == [loop == "uvloop"] * 2
        kube.apply(deployment("sleeper", sleeping("1"), match={"role": "leaf"}))
        await_revision(kube, others, "1")
        change_template(kube, "sleeper", sleeping("2"))
        await_revision(kube, others, "2")
        kube.apply(deployment("killer", sleeping("deadly"), match={"role": "doomed"}))
        simulated.await_connected([doomed], "False")
        await_process(kube, doomed, lambda item: condition(item, "AgentConnected") == "False", "disconnected")
        eventually(lambda: summary(program), lambda said: said.get("silent") == 1, what="its silence is counted")
        simulated.await_connected(others)
        program.terminate()
    last = summary(program)
    assert (last["final"], last["devices"], last["connected"], last["silent"], last["errors"]) == (True, 6, 5, 1, 0)
    spread = last["latenciesMs"]["spread"]
    assert (spread["count"], spread["max"] > 0) == (5, True)  # one after the other got it
    found = last["disconnections"]
    assert (found["statuses"], found["false"], found["missed"], found["failure"]) == (6, 0, 0, None)


def test_a_gateway_that_calls_devices_disconnected_wrongly_or_not_at_all_is_counted(
    stack: Stack, kube: Kube, simulated: SimulatedFleet, proxy: str
) -> None:
    devices = simulated.declare(3, lambda number: {"role": "doomed" if number == 0 else "leaf"})
    doomed, wronged, _ = devices
    with only_gateway(stack, "auto", "--stale-multiplier=60") as gateway:  # too late, by the simulator's reckoning
        program = simulated.power_on(
            devices,
            f"--gateway={stack.url_of(gateway)}",
            "--silent-on=deadly",
            f"--api={proxy}",
            "--output=json",
            "--summary-seconds=1",
        )
        simulated.await_connected(devices)

        def found() -> dict[str, Any]:
            disconnections: dict[str, Any] = summary(program)["disconnections"]
            return disconnections

        eventually(found, lambda said: said["statuses"] == 3, what="all statuses are known")
        assert (found()["false"], found()["missed"]) == (0, 0)

        def wrong() -> dict[str, Any]:
            """Say that a device is disconnected, as a gateway with a fault would, again and again."""
            item = kube.switch(wronged)
            for each in item["status"]["conditions"]:
                if each["type"] == "AgentConnected":
                    each["status"] = "False" if each["status"] == "True" else "True"
            accepted(kube.api.patch(f"{kube.path(SWITCHES, wronged)}/status", {"status": item["status"]}))
            return found()

        eventually(wrong, lambda said: said["false"] > 0, what="a false disconnection is counted")
        kube.apply(deployment("killer", sleeping("deadly"), match={"role": "doomed"}))
        eventually(found, lambda said: said["missed"] == 1, what="the silent device is missed")
        program.terminate()
    assert (found()["falseDevices"], found()["missedDevices"]) == ([wronged], [doomed])
