# SPDX-License-Identifier: Apache-2.0
"""The chart on a real kubelet: the Pods, their limits and rights, and devices that do not notice when Pods go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from e2e.clusters.api.kubectl import output_of
from e2e.pods.devices import SAMPLE, Devices
from e2e.pods.system import CURRENT, PROGRAMS, WITHIN_S, System, Version, pods_path
from e2e.release.images import Image
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, accepted, condition
from e2e.stack.recorder import Frame, Recorder
from e2e.stack.waiting import eventually
from e2e.suite.readiness import is_ready
from praetor_controller.ctl.airgap.images import images_in

REPLICAS = {"controller": 2, "gateway": 3}
LIMITS_OF_A_PROCESS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
try:
    open("/opt/praetor/written", "w")
except OSError as error:
    writable = error.strerror
print(json.dumps({
    "user": os.getuid(), "group": os.getgid(), "root": writable,
    "capabilities": int(status["CapEff"], 16), "bounding": int(status["CapBnd"], 16),
    "no new privileges": int(status["NoNewPrivs"]), "seccomp": int(status["Seccomp"]),
}))
"""
FINALIZER = "praetor.azure.com/e2e"
LOST = None
UPGRADE_S = 10  # likewise, so that a rollout lasts while programs are replaced
HELD = {"rollingUpdate": {"waves": [{"name": "first", "limit": 1}, {"name": "rest", "approval": "Manual"}]}}
FILTERED = 2  # seccomp's mode with a profile


def test_upgrades_from_an_older_version_and_a_rollback_restart_nothing(
    older: Version, bare_system: System, devices: Devices
) -> None:
    """First, while the older version is installed; a rollout is under way at each step."""
    system = bare_system
    steps = (partial(system.install, CURRENT), partial(system.roll_back, older), partial(system.install, CURRENT))
    before, declared = devices.writes(PROCESSES), devices.writes(SWITCHES)
    with connected_all_the_while(system, devices) as processes:
        for number, step in enumerate(steps):
            replaced = pod_names(system)
            devices.change(f"1{5 + number}s", minReadySeconds=UPGRADE_S)
            step()
            assert pod_names(system).isdisjoint(replaced)
            devices.await_available()
    assert devices.writes(PROCESSES) == {uid: number + len(steps) for uid, number in before.items()}
    assert devices.writes(SWITCHES) == declared
    assert {len(pids) for pids in pids_of(processes).values()} == {1 + len(steps)}, "started for rollouts alone"
    assert processes.worst(lambda found: sum(not is_ready(item) for item in found.values())) == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_pods_become_ready_without_a_restart_and_answer_their_probes(system: System, program: str) -> None:
    pods = system.pods(program)
    assert len(pods) == REPLICAS[program]
    containers = [container for pod in pods for container in pod["status"]["containerStatuses"]]
    assert [(container["ready"], container["restartCount"]) for container in containers] == [(True, 0)] * len(pods)
    for path in ("/livez", "/readyz"):
        assert {system.probe(pod, path).status_code for pod in pods} == {HTTPStatus.OK}


def test_saved_images_hold_what_the_pods_run_and_the_agent(
    system: System, images: dict[str, Image], tmp_path: Path
) -> None:
    """`praetorctl airgap` takes images by the names in their archives."""
    run = {each["image"] for program in PROGRAMS for pod in system.pods(program) for each in pod["spec"]["containers"]}
    held = set[str]()
    for component, image in images.items():
        archive = tmp_path / f"{component}.tar"
        output_of(["buildah", "push", "--quiet", image.name, f"docker-archive:{archive}:{image.name}"])
        with archive.open("rb") as file:
            held |= images_in(file)
        archive.unlink()
    assert run | {images["agent"].name} == held


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_pods_program_has_no_more_rights_than_the_manifest_gives(system: System, program: str) -> None:
    for pod in system.pods(program):
        assert system.run_in(pod, LIMITS_OF_A_PROCESS) == {
            "user": 65532,
            "group": 65532,
            "root": "Read-only file system",
            "capabilities": 0,
            "bounding": 0,
            "no new privileges": 1,
            "seccomp": FILTERED,
        }


def test_the_sample_runs_on_a_device_outside_the_cluster_and_in_the_agents_image(devices: Devices) -> None:
    devices.change("20s")
    status = devices.await_available()
    assert (status["numberAvailable"], status["desiredNumberScheduled"]) == (3, 3)
    assert devices.values_on_host() == {"20s"}
    assert [devices.values_in_pod(device) for device in devices.in_pods] == [{"20s"}] * 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_apiserver_forbids_the_programs_nothing_that_they_ask_for(
    system: System, devices: Devices, program: str
) -> None:
    counted = [
        line
        for pod in system.pods(program)
        for line in system.probe(pod, "/metrics").text.splitlines()
        if "_apiserver_requests_total{" in line
    ]
    assert counted
    assert not [line for line in counted if 'code="403"' in line]


def test_replacing_the_gateways_one_by_one_disconnects_no_device(system: System, devices: Devices) -> None:
    replaced = [pod["metadata"]["name"] for pod in system.pods("gateway")]
    with exit_codes(system, replaced) as codes, connected_all_the_while(system, devices):
        system.restart("gateway")
        assert set(codes().values()) - {LOST} == {0}, "they end by themselves when asked"
        devices.change("30s")
        devices.await_available()
    assert devices.values_on_host() == {"30s"}


def test_losing_all_gateways_at_once_disconnects_no_device(system: System, devices: Devices) -> None:
    with connected_all_the_while(system, devices):
        system.lose("gateway", *(pod["metadata"]["name"] for pod in system.pods("gateway")))
        devices.change("40s")
        devices.await_available()
    assert devices.values_on_host() == {"40s"}


def test_evicting_every_pod_disconnects_no_device(system: System, devices: Devices) -> None:
    before = [(program, pod["metadata"]["name"]) for program in PROGRAMS for pod in system.pods(program)]
    with connected_all_the_while(system, devices):
        for program, pod in before:
            system.evict(program, pod)
        devices.change("45s")
        devices.await_available()
    assert pod_names(system).isdisjoint(pod for _, pod in before)


def test_the_charts_own_test_reaches_a_gateway_by_its_service(system: System) -> None:
    system.release.test()


def test_another_controller_takes_over_from_one_that_is_lost(system: System, devices: Devices) -> None:
    lost = system.lease_holder("praetor-controller")
    [pod] = [pod["metadata"]["name"] for pod in system.pods("controller") if pod["metadata"]["name"] in lost]
    system.lose("controller", pod)
    devices.change("50s")
    devices.await_available()
    assert devices.values_on_host() == {"50s"}
    assert system.lease_holder("praetor-controller") != lost


def test_a_node_that_loses_power_disconnects_no_device_and_its_rollout_goes_on(
    system: System, devices: Devices
) -> None:
    """The only node: apiserver, controller and gateways are away, and come back by themselves."""
    devices.await_available()
    device, value = devices.agent.device, devices.values_on_host()
    before = devices.writes(PROCESSES)
    declared = devices.writes(SWITCHES)
    devices.change("55s", updateStrategy=HELD)
    first = eventually(devices.updated, lambda updated: len(updated) == 1, what="the rollout has reached one device")
    if device in first:
        value = eventually(devices.values_on_host, lambda values: values == {"55s"}, what=f"{device} has the version")
    running, connected = devices.agent.processes(), devices.connected_since(device)
    system.node.power_off()
    system.node.power_on()
    assert (devices.agent.processes(), devices.values_on_host()) == (running, value)
    updated = eventually(devices.updated, what="the apiserver answers")
    assert updated == first, "the rollout was under way"
    devices.kube.patch(DEPLOYMENTS, SAMPLE, {"spec": {"updateStrategy": {"rollingUpdate": {"waves": None}}}})
    devices.await_available()
    system.await_rollouts()
    assert devices.values_on_host() == {"55s"}
    assert device not in first or devices.agent.processes() == running
    assert devices.connected_since(device) == connected
    assert devices.writes(PROCESSES) == {uid: number + 1 for uid, number in before.items()}
    assert devices.writes(SWITCHES) == declared


def test_a_device_that_falls_silent_is_disconnected_and_comes_back(system: System, devices: Devices) -> None:
    """The tests above could not see a false disconnection if gateways in Pods saw none at all."""
    name = devices.agent.device

    def await_connected(status: str) -> None:
        eventually(
            lambda: condition(devices.kube.switch(name), "AgentConnected"),
            lambda found: found == status,
            what=f"{name}: AgentConnected is {status}",
            within_s=WITHIN_S,
        )

    devices.agent.program.kill()
    await_connected("False")
    devices.agent.start()
    await_connected("True")
    devices.await_available()


def test_processes_run_on_when_the_release_is_uninstalled(system: System, devices: Devices) -> None:
    """Last: nothing of the system is left after it but what outlives a release."""
    running = devices.values_on_host()
    kept = system.uninstall()
    assert "praetor-device-tokens" in kept
    eventually(lambda: system.pods("gateway"), lambda pods: not pods, what="the gateways are gone", within_s=WITHIN_S)
    assert devices.values_on_host() == running != set()
    assert set(devices.kube.processes()) == set(devices.names), "what was declared outlives the release"


@contextmanager
def exit_codes(system: System, pods: Iterable[str]) -> Iterator[Callable[[], dict[str, int | None]]]:
    """Keep *pods* in the API beyond their end; yield a function that waits for it and returns their exit codes.

    LOST where the kubelet removed the container before it had reported how it ended, as that of 1.20 does at times.
    """

    def ended(status: dict[str, Any]) -> bool:
        return "terminated" in status["state"] or is_lost(status)

    def is_lost(status: dict[str, Any]) -> bool:
        last: dict[str, Any] = status.get("lastState", {}).get("terminated", {})
        return last.get("reason") == "ContainerStatusUnknown"

    def exit_code(path: str) -> int | None:
        status = eventually(
            lambda: accepted(system.api.get(path))["status"]["containerStatuses"][0],
            ended,
            what=f"{path} ends",
            within_s=WITHIN_S,
        )
        return LOST if is_lost(status) else int(status["state"]["terminated"]["exitCode"])

    paths = {name: f"{pods_path()}/{name}" for name in pods}
    try:
        for path in paths.values():
            accepted(system.api.patch(path, {"metadata": {"finalizers": [FINALIZER]}}))
        yield lambda: {name: exit_code(path) for name, path in paths.items()}
    finally:
        for path in paths.values():
            system.api.patch(path, {"metadata": {"finalizers": None}})


def pod_names(system: System) -> set[str]:
    """Return the names of all Pods of the programs."""
    return {pod["metadata"]["name"] for program in PROGRAMS for pod in system.pods(program)}


def pids_of(recorder: Recorder) -> dict[str, set[int]]:
    """Return which ids each process had on its device, by the name of its object."""
    pids = defaultdict[str, set[int]](set)
    for frame in recorder.frames:
        pids[frame.object["metadata"]["name"]] |= {frame.object.get("status", {}).get("pid", 0)} - {0}
    return pids


@contextmanager
def connected_all_the_while(system: System, devices: Devices) -> Iterator[Recorder]:
    """Yield the record of the processes; no switch and no process may be recorded as disconnected meanwhile."""
    kubeconfig, path = system.node.kubeconfig, devices.kube.path
    with Recorder(kubeconfig, path(SWITCHES)) as switches, Recorder(kubeconfig, path(PROCESSES)) as processes:
        yield processes
    frames = (*switches.frames, *processes.frames)
    assert {frame.object["metadata"]["name"] for frame in switches.frames} == set(devices.names)
    assert [_described(frame) for frame in frames if condition(frame.object, "AgentConnected") != "True"] == []


def _described(frame: Frame) -> dict[str, Any]:
    return {"kind": frame.object["kind"], "name": frame.object["metadata"]["name"], "status": frame.object["status"]}
