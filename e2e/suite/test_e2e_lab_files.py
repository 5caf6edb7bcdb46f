# SPDX-License-Identifier: Apache-2.0
"""Files under each backend on the real thing: a program with another user is told of new ones, and not restarted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.lab import sysv
from e2e.lab.agent import PLACE, STATE, kill_agent, start_agent
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.payload import install
from e2e.lab.podman import OPTIONS, PODMAN, made_image, podman
from e2e.lab.requirements import lacking, required
from e2e.stack.kube import DEPLOYMENTS, Kube, Object
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.delivered import put_config_map, put_secret, reading_gateway
from e2e.suite.readiness import await_ready, is_ready
from e2e.suite.workloads import change_template

pytestmark = pytest.mark.lab

LABEL = "azure.com/praetor-device"
PROGRAM = (
    'show() { read -r line < "$PRAETOR_FILES/etc/a"; echo "$1 $line"; }; trap "show reloaded" HUP; show started; '
    "while :; do sleep 0.2; done"
)


def spec_of(backend: str, content: str, **more: object) -> Object:
    files = [{"path": "etc/a", "content": f"{content}\n", "mode": "0400", "onChange": "Signal"}]
    execution = {"args": ["-c", PROGRAM], "files": files, "terminationGracePeriodSeconds": 1, **more}
    return process_spec(["/bin/sh"], backend=backend, execution=execution)


def assert_reloads(kube: Kube, name: str, backend: str, output: Callable[[], str], change: Object) -> int:
    """Check that the running process takes *change* without a restart; return its pid."""
    process = f"{backend}-{name}"
    eventually(lambda: output().split("\n")[0], lambda said: said == "started one", what="it has read its file")
    pid = int(kube.process(process)["status"]["pid"])
    before = kube.process(process)["status"]["observedSpecHash"]
    change_template(kube, backend, change)
    eventually(lambda: output().splitlines(), lambda said: said == ["started one", "reloaded two"], what="it was told")
    eventually(
        lambda: kube.process(process),
        lambda seen: is_ready(seen) and seen["status"]["observedSpecHash"] != before,
        what="the new version is ready",
    )
    assert int(kube.process(process)["status"]["pid"]) == pid
    return pid


def logs_of(device: LabDevice, process: str) -> Callable[[], str]:
    words = f"PYTHONPATH={PLACE} python3 -m praetor_agent logs {process} --state-dir {STATE} || true"
    return lambda: device.run("/bin/sh", "-c", words)


def own_files(device: LabDevice) -> str:
    return device.run("/bin/sh", "-c", f"cd {STATE}/files 2>/dev/null && find . -type f -printf '%m %u %P\\n' || true")


def test_a_unit_is_told_of_new_files_and_they_go_with_it(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    root = required(request, rootfs(), why_unavailable(rootfs()))
    name = f"{kube.namespace}-u"
    kube.apply(network_switch(name))
    with LabDevice(name, root, workdir=tmp_path, shared={PLACE: install(tmp_path / "payload")}) as device:
        start_agent(device, stack.gateway_url, stack.token(name))
        kube.apply(deployment("systemd", spec_of("systemd", "one", user="nobody")))
        eventually(lambda: kube.process(f"systemd-{name}"), is_ready, what="the unit is ready")
        output = logs_of(device, f"systemd-{name}")
        pid = assert_reloads(kube, name, "systemd", output, spec_of("systemd", "two", user="nobody"))
        assert device.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "nobody"
        assert own_files(device).split()[:2] == ["400", "nobody"]
        kube.delete(DEPLOYMENTS, "systemd")
        eventually(lambda: own_files(device), lambda found: found == "", what="the files are gone")


def test_an_init_script_and_a_process_are_told_of_new_files_which_survive_the_power(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    root = required(request, sysv.rootfs(), sysv.why_unavailable(sysv.rootfs()))
    name = f"{kube.namespace}-v"
    kube.apply(network_switch(name))
    shared = {PLACE: install(tmp_path / "payload")}
    with sysv.SysvDevice(name, root, workdir=tmp_path, shared=shared, state=(STATE, tmp_path / "state")) as device:
        start_agent(device, stack.gateway_url, stack.token(name))
        for backend in ("initd", "process"):
            kube.apply(deployment(backend, spec_of(backend, "one", user="nobody")))
        for backend in ("initd", "process"):
            eventually(lambda backend=backend: kube.process(f"{backend}-{name}"), is_ready, what=f"{backend} is ready")  # type: ignore[misc]
            output = logs_of(device, f"{backend}-{name}")
            pid = assert_reloads(kube, name, backend, output, spec_of(backend, "two", user="nobody"))
            assert device.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "nobody"
        kill_agent(device)
        device.pull_the_plug()
        device.power_on()
        start_agent(device, stack.gateway_url, stack.token(name))
        for backend in ("initd", "process"):
            eventually(
                logs_of(device, f"{backend}-{name}"),
                lambda said: said.splitlines()[-1:] == ["started two"],
                what=f"{backend} starts with the new file after the power cut",
            )
            kube.delete(DEPLOYMENTS, backend)
        eventually(lambda: own_files(device), lambda found: found == "", what="the files are gone")


def test_a_container_is_told_of_new_files(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("podman", "runc", "busybox"))):
        lacking(request, "needs root, podman, runc and busybox-static")
    name = f"{kube.namespace}-c"
    image = made_image(f"localhost/{name}", tmp_path)
    kube.apply(network_switch(name))
    runtime = {"PRAETOR_AGENT_CONTAINER_RUNTIME": " ".join(PODMAN), "PRAETOR_AGENT_CONTAINER_OPTIONS": OPTIONS}
    stack.add_agent(name, variables=runtime)

    def output() -> str:
        (container,) = podman("ps", "-aq", "--filter", f"label={LABEL}={name}").split()
        return podman("logs", container)

    try:
        one, two = (
            spec_of("container", content, user="65534") | {"artifact": {"type": "oci", "url": image}}
            for content in ("one", "two")
        )
        kube.apply(deployment("container", one))
        await_ready(kube, [name])
        assert_reloads(kube, name, "container", output, two)
    finally:
        stack.remove_agents([name])
        for container in podman("ps", "-aq", "--filter", f"label={LABEL}={name}").split():
            podman("rm", "-f", "-t", "0", container)
        podman("rmi", "-f", f"localhost/{name}:1")


def test_booted_devices_are_told_of_new_contents_of_config_maps_and_secrets(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, api: RawApi, tmp_path: Path
) -> None:
    systemd = required(request, rootfs(), why_unavailable(rootfs()))
    sysvinit = required(request, sysv.rootfs(), sysv.why_unavailable(sysv.rootfs()))
    unit, script = f"{kube.namespace}-ru", f"{kube.namespace}-rv"
    payload = install(tmp_path / "payload")
    put_config_map(api, kube, a="one\n")
    put_secret(api, kube, key=b"one")
    for name, backend in ((unit, "systemd"), (script, "initd")):
        kube.apply(network_switch(name, labels={"init": backend}))
    state = (STATE, tmp_path / "state")
    with (
        reading_gateway(stack, kube, api) as gateway,
        LabDevice(unit, systemd, workdir=tmp_path, shared={PLACE: payload}) as first,
        sysv.SysvDevice(script, sysvinit, workdir=tmp_path, shared={PLACE: payload}, state=state) as second,
    ):
        url = stack.url_of(gateway)
        devices = {"systemd": first, "initd": second}
        for backend, device in devices.items():
            start_agent(device, url, stack.token(device.name))
            spec = spec_of(backend, "", user="nobody")
            spec["execution"]["files"] = [
                {"path": "etc/a", "configMapKeyRef": {"name": "settings", "key": "a"}, "onChange": "Signal"},
                {"path": "etc/key", "secretKeyRef": {"name": "login", "key": "key"}, "onChange": "None"},
            ]
            kube.apply(deployment(backend, spec, match={"init": backend}))
        pids = {}
        for backend, device in devices.items():
            process = f"{backend}-{device.name}"
            eventually(lambda process=process: kube.process(process), is_ready, what=f"{backend} is ready")  # type: ignore[misc]
            pids[process] = kube.process(process)["status"]["pid"]
        put_secret(api, kube, key=b"two")
        put_config_map(api, kube, a="two\n")
        for backend, device in devices.items():
            process = f"{backend}-{device.name}"
            eventually(
                lambda device=device, process=process: logs_of(device, process)().splitlines(),  # type: ignore[misc]
                lambda said: said[:1] == ["started one"] and said[-1] == "reloaded two",
                what=f"{backend} was told",
            )
            eventually(
                lambda device=device: device.run("/bin/sh", "-c", f"cat {STATE}/files/*/etc/key"),  # type: ignore[misc]
                lambda said: said == "two",
                what=f"{backend} has the new Secret",
            )
            assert kube.process(process)["status"]["pid"] == pids[process]
            found = sorted(line.split()[:2] for line in own_files(device).splitlines())
            assert found == [["600", "nobody"], ["644", "nobody"]]
        kill_agent(second)
        second.pull_the_plug()
        second.power_on()
        start_agent(second, url, stack.token(script))
        eventually(
            logs_of(second, f"initd-{script}"),
            lambda said: said.splitlines()[-1:] == ["started two"],
            what="the script starts with the new contents after the power cut",
        )
        for backend, device in devices.items():
            kube.delete(DEPLOYMENTS, backend)
            eventually(lambda device=device: own_files(device), "".__eq__, what="the files are gone")  # type: ignore[misc]
