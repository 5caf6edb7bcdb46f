# SPDX-License-Identifier: Apache-2.0
"""A device under real systemd: what the status says is what systemctl on the device says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.payload import install
from e2e.lab.requirements import required
from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, condition, conditions
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import await_phase, await_ready, is_ready
from e2e.suite.workloads import change_template, probed

pytestmark = pytest.mark.lab

AGENT = "praetor-agent.service"
PLACE, STATE, TOKEN = "/opt/praetor", "/var/lib/praetor-agent", "/etc/praetor-token"
# as an operator would install it; what it runs are units of their own, so they keep running when it stops
AGENT_UNIT = """[Unit]
Description=Praetor agent
[Service]
Environment=PYTHONPATH={place} PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m praetor_agent run --gateway={gateway} --device={device} \\
  --token-file={token} --state-dir={state} --start-splay=0
Restart=always
KillMode=process
[Install]
WantedBy=multi-user.target
"""
ODD = "a=b 'c' \"d\" $HOME %n \\ ; #\t\x85 \\\n\n"
ARGUMENTS = ["two words", "$HOME", "%n %%", ";", "-", 'quote"d', "back\\slash", "é"]
SCRIPT = 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done'


@pytest.fixture
def device(request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path) -> Iterator[LabDevice]:
    """A booted device with the agent as a service; its state outlives a power cut."""
    root = required(request, rootfs(), why_unavailable(rootfs()))
    (tmp_path / "state").mkdir()
    name = f"{kube.namespace}-s"
    kube.apply(network_switch(name, {"init": "systemd"}))
    shared = {PLACE: install(tmp_path / "payload")}
    with LabDevice(name, root, workdir=tmp_path, shared=shared, kept={STATE: tmp_path / "state"}) as booted:
        _install_agent(booted, stack)
        yield booted


def test_what_the_status_says_is_what_systemctl_says(
    device: LabDevice, stack: Stack, kube: Kube, plan_check: PlanCheck
) -> None:
    kube.apply(deployment("exporter", _exporter("1")))
    process = await_ready(kube, [device.name])[device.name]
    unit = _unit(device)
    pid = _assert_same(device, unit, process)
    assert device.words(f"/proc/{pid}/cmdline")[1:] == ("-c", SCRIPT, "exporter", *ARGUMENTS)
    environment = dict(word.split("=", 1) for word in device.words(f"/proc/{pid}/environ"))
    assert (environment["REVISION"], environment["ODD"]) == ("1", ODD)
    assert device.run("readlink", f"/proc/{pid}/cwd").strip() == "/var/tmp"
    assert device.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "nobody"

    _assert_restarted_when_killed(device, kube, unit, pid)
    _assert_started_again_when_stopped(device, kube, unit)
    _assert_left_alone_by_a_restart_of_the_agent(device, kube, unit)

    with plan_check.template("exporter", _exporter("2")):
        await_done(kube, "exporter")
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: is_ready(item) and item["metadata"]["generation"] == 2,
        what="the changed template runs",
    )
    pid = _assert_same(device, _unit(device), process)
    assert "REVISION=2" in device.words(f"/proc/{pid}/environ")

    _assert_back_after_a_power_cut_and_without_the_unconfirmed_change(device, stack, kube)

    unit = _unit(device)
    kube.delete(DEPLOYMENTS, "exporter")
    eventually(lambda: _units(device) == (), what="the unit is gone")
    eventually(
        lambda: device.run("systemctl", "show", "--property=LoadState", unit).strip(),
        lambda said: said == "LoadState=not-found",
        what="systemd has forgotten the unit",
    )


def test_a_unit_that_runs_to_completion_runs_once(device: LabDevice, kube: Kube) -> None:
    spec = process_spec(["/bin/sh"], backend="systemd", execution={"args": ["-c", "echo x >>/var/tmp/ran"]})
    kube.apply(deployment("firmware", {**spec, "restartPolicy": "Never"}))
    process = await_phase(kube, device.name, "Succeeded")
    assert process["status"]["exitCode"] == 0
    device.run("systemctl", "restart", AGENT)
    kube.apply(deployment("second", process_spec(["/bin/sleep", "infinity"], backend="systemd")))
    eventually(lambda: is_ready(kube.process(f"second-{device.name}")), what="the restarted agent is at work")
    assert device.run("cat", "/var/tmp/ran") == "x\n"


def test_a_command_that_systemd_cannot_execute_is_reported(device: LabDevice, kube: Kube) -> None:
    kube.apply(deployment("absent", process_spec(["/no/such/program"], backend="systemd")))
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: condition(item, "ProcessStarted") == "False" and "203/EXEC" in str(item["status"]),
        what="the status has the reason",
    )
    assert not is_ready(process)


def _exporter(revision: str) -> Object:
    env = [{"name": "REVISION", "value": revision}, {"name": "ODD", "value": ODD}]
    arguments = ["-c", SCRIPT, "exporter", *ARGUMENTS]
    execution = {"args": arguments, "env": env, "workingDir": "/var/tmp", "user": "nobody"}
    return process_spec(
        ["/bin/bash"],
        backend="systemd",
        execution={**execution, "terminationGracePeriodSeconds": 5},
        healthCheck=probed(["/usr/bin/test", "-d", "/var/tmp"]),
    )


def _install_agent(device: LabDevice, stack: Stack) -> None:
    device.write(TOKEN, stack.token(device.name))
    device.run("chmod", "600", TOKEN)
    text = AGENT_UNIT.format(place=PLACE, state=STATE, token=TOKEN, gateway=stack.gateway_url, device=device.name)
    device.write(f"/etc/systemd/system/{AGENT}", text)
    device.run("systemctl", "enable", "--now", AGENT)


def _units(device: LabDevice) -> tuple[str, ...]:
    return tuple(name for name in device.units("praetor-*.service") if name != AGENT)


def _unit(device: LabDevice) -> str:
    (unit,) = _units(device)
    return unit


def _assert_same(device: LabDevice, unit: str, process: Object) -> int:
    """Check that systemd and the status agree on one running process; return its id on the device."""
    state = device.unit(unit, "ActiveState", "SubState", "MainPID", "LoadState")
    pid = process["status"]["pid"]
    assert state == {"ActiveState": "active", "SubState": "running", "MainPID": str(pid), "LoadState": "loaded"}
    assert process["status"]["phase"] == "Running"
    return int(pid)


def _assert_new_instance(device: LabDevice, kube: Kube, unit: str, old: int) -> None:
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: is_ready(item) and item["status"]["pid"] != old,
        what="the status has a new process",
    )
    _assert_same(device, unit, process)
    assert process["status"]["restartCount"] >= 1


def _assert_restarted_when_killed(device: LabDevice, kube: Kube, unit: str, pid: int) -> None:
    device.run("kill", "-KILL", str(pid))
    _assert_new_instance(device, kube, unit, pid)


def _assert_started_again_when_stopped(device: LabDevice, kube: Kube, unit: str) -> None:
    pid = int(device.unit(unit, "MainPID")["MainPID"])
    device.run("systemctl", "stop", unit)
    _assert_new_instance(device, kube, unit, pid)


def _assert_left_alone_by_a_restart_of_the_agent(device: LabDevice, kube: Kube, unit: str) -> None:
    before = device.unit(unit, "MainPID", "InvocationID")
    for command in ("restart", "kill"):
        agent = device.unit(AGENT, "MainPID")
        device.run("systemctl", command, AGENT)
        eventually(
            lambda agent=agent: device.unit(AGENT, "MainPID", "SubState"),  # type: ignore[misc]
            lambda state, agent=agent: state["SubState"] == "running" and state["MainPID"] != agent["MainPID"],  # type: ignore[misc]
            what="another agent runs",
        )
    kube.apply(deployment("probe", process_spec(["/bin/sleep", "infinity"], backend="systemd")))
    eventually(lambda: is_ready(kube.process(f"probe-{device.name}")), what="the new agent is at work")
    kube.delete(DEPLOYMENTS, "probe")
    eventually(lambda: len(_units(device)) == 1, what="the probe is gone again")
    assert device.unit(unit, "MainPID", "InvocationID") == before


def _assert_back_after_a_power_cut_and_without_the_unconfirmed_change(
    device: LabDevice, stack: Stack, kube: Kube
) -> None:
    """Check that a device that lost power and its disk but for the agent's state runs what it ran; a change that
    waited to be confirmed for the half of its window that is left, and then the version that it falls back to."""
    change_template(kube, "exporter", _exporter("3") | {"confirm": {"mode": "Manual", "timeoutSeconds": 30}})
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: is_ready(item) and item["metadata"]["generation"] == 3,
        what="the change runs",
    )
    started = process["status"]["startTime"]
    device.pull_the_plug()
    eventually(lambda: condition(kube.switch(device.name), "AgentConnected") == "False", what="it is disconnected")
    device.power_on()
    _install_agent(device, stack)
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: is_ready(item) and item["status"]["startTime"] != started,
        what="it runs again",
    )
    pid = _assert_same(device, _unit(device), process)
    assert "REVISION=3" in device.words(f"/proc/{pid}/environ")
    process = eventually(
        lambda: kube.processes()[device.name],
        lambda item: condition(item, "RolledBack") == "True" and item["status"].get("pid") not in (None, pid),
        what="the change was taken back",
    )
    assert conditions(process)["RolledBack"]["reason"] == "ConfirmTimedOut"
    pid = _assert_same(device, _unit(device), process)
    # which of the two depends on whether one was healthy for a minute by then
    assert {"REVISION=1", "REVISION=2"} & set(device.words(f"/proc/{pid}/environ"))
