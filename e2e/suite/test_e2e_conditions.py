# SPDX-License-Identifier: Apache-2.0
"""Every condition and phase, in both directions."""

from __future__ import annotations

import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import Kube, Object, condition, conditions
from e2e.stack.manifests import deployment, process_spec
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_phase, await_process, await_ready
from e2e.suite.workloads import change_template, probed, shell, sleeping


def test_a_failing_health_check_makes_the_process_unhealthy_and_a_good_one_healthy_again(
    fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    (device,) = fleet.add()
    flag = tmp_path / "healthy"
    flag.touch()
    kube.apply(deployment("probed", sleeping(healthCheck=probed(["/usr/bin/test", "-e", str(flag)]))))
    process = await_ready(kube, [device])[device]
    assert conditions(process)["Healthy"]["status"] == "True"
    flag.unlink()
    sick = await_process(kube, device, lambda item: condition(item, "Healthy") == "False", "unhealthy")
    assert (condition(sick, "ProcessStarted"), condition(sick, "SpecObserved")) == ("True", "True")
    assert conditions(sick)["Healthy"]["message"]
    eventually(
        lambda: kube.deployment("probed"),
        lambda item: item["status"].get("numberReady", 0) == 0 and condition(item, "Available") == "False",
        what="the deployment is not available",
    )
    flag.touch()
    await_ready(kube, [device])


def test_health_over_the_network_shows_the_status_line_and_the_error(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    status = [503]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def sick(words: str) -> None:
        await_process(kube, device, lambda item: words in _healthy(item).get("message", ""), words)
        assert _healthy(kube.processes()[device])["status"] == "False"

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        check = {"httpGet": {"port": port, "path": "/ready"}, "periodSeconds": 1, "failureThreshold": 1}
        kube.apply(deployment("asked", sleeping(healthCheck=check)))
        sick(f"httpGet 127.0.0.1:{port} answered 503: Service Unavailable")
        status[0] = 200
        await_ready(kube, [device])
        check = {"tcpSocket": {"port": port}, "httpGet": None, "periodSeconds": 1, "failureThreshold": 1}
        change_template(kube, "asked", {"healthCheck": check})
        await_done(kube, "asked")
        await_ready(kube, [device])
        server.shutdown()
    sick(f"tcpSocket 127.0.0.1:{port} failed (Connection refused)")


def _healthy(process: Object) -> Object:
    return conditions(process).get("Healthy", {})


def test_what_a_device_does_not_allow_a_container_is_refused_and_the_old_version_runs_on(
    fleet: AgentFleet, kube: Kube
) -> None:
    device = fleet.declare()
    # A runtime with no containers; the agent refuses the spec before it asks for one.
    fleet.power_on(device, variables={"PRAETOR_AGENT_CONTAINER_RUNTIME": shutil.which("true") or "/bin/true"})
    fleet.await_connected(device)
    kube.apply(deployment("box", sleeping()))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    image = {"type": "oci", "url": f"registry.invalid/box@sha256:{'a' * 64}"}
    asked = {"backend": "container", "container": {"privileged": True}}
    change_template(kube, "box", {"artifact": image, "execution": asked})
    held = await_process(
        kube, device, lambda item: conditions(item)["SpecObserved"].get("reason") == "NotAllowed", "refused"
    )
    assert "start the agent with --allow-privileged true" in conditions(held)["SpecObserved"]["message"]
    assert (held["status"]["pid"], held["status"]["phase"]) == (pid, "Running")


def test_the_failure_threshold_is_counted(fleet: AgentFleet, kube: Kube, tmp_path: Path) -> None:
    (device,) = fleet.add()
    counter = tmp_path / "counter"
    # fails in its second and third run only: one short of the threshold
    probe = f'echo x >>{counter}; n=$(wc -l <{counter}); [ "$n" -lt 2 ] || [ "$n" -gt 3 ]'
    check = probed(["/bin/sh", "-c", probe], failureThreshold=3)
    kube.apply(deployment("probed", sleeping(healthCheck=check)))
    await_ready(kube, [device])
    since = conditions(kube.processes()[device])["Healthy"]["lastTransitionTime"]
    eventually(lambda: counter.read_text().count("x") >= 6, what="the probe ran on")
    healthy = conditions(kube.processes()[device])["Healthy"]
    assert (healthy["status"], healthy["lastTransitionTime"]) == ("True", since)


def test_a_command_that_does_not_exist_is_reported_and_nothing_is_started(
    fleet: AgentFleet, kube: Kube, plan_check: PlanCheck
) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("absent", process_spec(["/no/such/program"])))
    process = await_process(kube, device, lambda item: condition(item, "ProcessStarted") == "False", "not started")
    assert "/no/such/program" in conditions(process)["ProcessStarted"]["message"]
    assert process["status"].get("phase") in ("Pending", "Failed")
    assert fleet.agent(device).processes() == frozenset()
    with plan_check.template("absent", sleeping()):
        await_done(kube, "absent")
    await_ready(kube, [device])


def test_a_process_that_crashes_is_restarted_and_counted(fleet: AgentFleet, kube: Kube, tmp_path: Path) -> None:
    (device,) = fleet.add()
    flag = tmp_path / "crashed"
    script = 'if [ -e "$1" ]; then exec sleep infinity; fi; touch "$1"; exit 3'
    kube.apply(deployment("crashing", shell(script, str(flag))))
    process = await_process(
        kube,
        device,
        lambda item: item.get("status", {}).get("restartCount") == 1 and condition(item, "Healthy") == "True",
        "restarted once",
    )
    assert process["status"]["phase"] == "Running"
    assert process["status"]["lastTerminationReason"]


def test_never_runs_to_completion_once(fleet: AgentFleet, kube: Kube, plan_check: PlanCheck, tmp_path: Path) -> None:
    (device,) = fleet.add()
    ran = tmp_path / "ran"
    kube.apply(deployment("firmware", shell('echo x >>"$1"', str(ran), restartPolicy="Never")))
    process = await_phase(kube, device, "Succeeded")
    assert process["status"]["exitCode"] == 0
    assert condition(process, "Healthy") == "True"
    eventually(
        lambda: kube.deployment("firmware"), lambda item: condition(item, "Available") == "True", what="available"
    )
    connected = conditions(kube.switch(device))["AgentConnected"]
    _restart(fleet, device, kill=True)
    assert ran.read_text() == "x\n"
    assert conditions(kube.switch(device))["AgentConnected"]["lastTransitionTime"] == connected["lastTransitionTime"]
    with plan_check.template("firmware", shell('echo again >>"$1"', str(ran), restartPolicy="Never")):
        await_done(kube, "firmware")
    assert ran.read_text() == "x\nagain\n"  # a new spec runs once, too


def test_never_reports_a_failure_and_does_not_try_again(fleet: AgentFleet, kube: Kube, tmp_path: Path) -> None:
    (device,) = fleet.add()
    ran = tmp_path / "ran"
    kube.apply(deployment("firmware", shell('echo x >>"$1"; exit 7', str(ran), restartPolicy="Never")))
    process = await_phase(kube, device, "Failed")
    assert process["status"]["exitCode"] == 7
    assert condition(process, "Healthy") == "False"
    _restart(fleet, device)
    assert ran.read_text() == "x\n"


def test_on_failure_tries_again_until_it_succeeds(fleet: AgentFleet, kube: Kube, tmp_path: Path) -> None:
    (device,) = fleet.add()
    ran = tmp_path / "ran"
    script = 'echo x >>"$1"; [ "$(wc -l <"$1")" -ge 2 ]'
    kube.apply(deployment("job", shell(script, str(ran), restartPolicy="OnFailure")))
    process = await_phase(kube, device, "Succeeded")
    assert (process["status"]["exitCode"], process["status"]["restartCount"]) == (0, 1)
    assert ran.read_text() == "x\nx\n"


def test_a_transition_time_moves_only_with_the_status(fleet: AgentFleet, kube: Kube, plan_check: PlanCheck) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping()))
    before = conditions(await_ready(kube, [device])[device])["AgentConnected"]
    with plan_check.template("sleeper", sleeping("2")):
        await_done(kube, "sleeper")
    after = conditions(await_ready(kube, [device])[device])["AgentConnected"]
    assert after["lastTransitionTime"] == before["lastTransitionTime"]


def _restart(fleet: AgentFleet, device: str, *, kill: bool = False) -> None:
    """Restart the agent, and return when the new one has fetched its state and reported."""
    before = eventually(lambda: _revision(fleet, device), what="the agent reported")
    fleet.agent(device).restart(kill=kill)
    eventually(lambda: _revision(fleet, device) > before, what="the restarted agent reported")


def _revision(fleet: AgentFleet, device: str) -> int:
    """Return the number of the report that the switch's status holds, which grows with a restart; 0: none."""
    return int(((fleet.kube.switch(device).get("status") or {}).get("reported") or {}).get("revision", 0))
