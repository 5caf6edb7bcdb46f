# SPDX-License-Identifier: Apache-2.0
"""The whole agent as its own program, against a gateway on a real socket and with real processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, Fault, end_processes, item, process_spec, until
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.state import State
from praetor_api.protocol import Observation

SLEEP = process_spec("sleep", "1000")


class Agent:
    """An agent of the device leaf-1; what it ran is ended with the test."""

    def __init__(self, state: Path, gateway: str, **environment: str) -> None:
        self.state = state
        self._gateway = gateway
        self._environment = {
            **os.environ,
            "PRAETOR_AGENT_TOKEN": "t0ken",
            "PRAETOR_AGENT_START_SPLAY": "0",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (
            sys.executable, "-m", "praetor_agent", "run",
            "--hold-file", str(self.state.parent / "hold"),
            "--gateway", self._gateway, "--device", "leaf-1", "--state-dir", str(self.state),
        )  # fmt: skip
        self.process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WITHIN_SECONDS)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        end_processes(self.state)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t0ken", heartbeat_seconds=1) as gateway:
        yield gateway


@pytest.fixture
def agent(gateway: FakeGateway, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "state", gateway.url)
    yield agent
    agent.close()


def seen(gateway: FakeGateway, name: str = "a") -> Observation:
    return gateway.observations.get(name) or Observation(name=name)


def wait_running(gateway: FakeGateway, *, other_than: int | None = None, name: str = "a") -> int:
    gateway.wait_for(lambda: seen(gateway, name).pid not in (None, other_than), f"{name} running")
    pid = seen(gateway, name).pid
    assert pid is not None
    return pid


def run_sleep(gateway: FakeGateway, agent: Agent) -> int:
    """Start the agent with SLEEP desired; return the pid of the process."""
    gateway.desire(item("a", SLEEP))
    agent.start()
    return wait_running(gateway)


def probe_of(file: Path) -> dict[str, Any]:
    command = ["test", "-e", str(file)]
    return {"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 1}


def test_a_desired_process_runs_and_is_reported(gateway: FakeGateway, agent: Agent) -> None:
    wanted = item("a", SLEEP)
    gateway.desire(wanted)
    agent.start()
    pid = wait_running(gateway)
    gateway.wait_for(lambda: seen(gateway).healthy is True, "a stable process")
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/usr/bin/sleep\x001000")
    reported = seen(gateway)
    assert (reported.process_started, reported.healthy, reported.observed_spec_hash) == (True, True, wanted["specHash"])
    assert (reported.uid, reported.namespace) == (wanted["uid"], "default")
    first = gateway.reports[0]
    assert first.facts is not None
    assert set(first.facts) >= {"os", "kernel", "arch", "hostname", "python", "diskFree"}
    assert (first.boot_id, first.heartbeat) == (procfs.boot_id(), True)


def test_the_agent_connects_then_holds_a_conditional_poll(gateway: FakeGateway, agent: Agent) -> None:
    run_sleep(gateway, agent)
    gateway.wait_for(lambda: len([r for r in gateway.requests if r[0] == "GET"]) >= 2, "the held poll")
    paths = [(method, path) for method, path, _ in gateway.requests]
    assert ("POST", "/v1/devices/leaf-1/connect") in paths
    headers = [headers for method, _, headers in gateway.requests if method == "GET"][1]
    assert headers["Prefer"] == "wait=50"
    assert headers["If-None-Match"] == gateway.etag


def test_a_changed_spec_replaces_the_process_and_a_withdrawn_one_ends_it(gateway: FakeGateway, agent: Agent) -> None:
    first = run_sleep(gateway, agent)
    gateway.desire(item("a", process_spec("sleep", "1001"), generation=2))
    second = wait_running(gateway, other_than=first)
    assert procfs.start_ticks(first) is None
    gateway.desire()
    until(lambda: procfs.start_ticks(second) is None, "the process to end")
    until(lambda: not list((agent.state / "processes").iterdir()), "its directory to go")


def test_a_killed_process_comes_back_and_is_counted(gateway: FakeGateway, agent: Agent) -> None:
    first = run_sleep(gateway, agent)
    os.kill(first, signal.SIGKILL)
    wait_running(gateway, other_than=first)
    assert (seen(gateway).restart_count, seen(gateway).termination_reason) == (1, "Signal:SIGKILL")
    assert [reported.pid for reported in gateway.history if reported.process_started is False][-1:] == [None]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_outlive_the_agent_and_are_adopted(gateway: FakeGateway, agent: Agent, how: int) -> None:
    pid = run_sleep(gateway, agent)
    code = agent.end(how)
    assert code == (0 if how == signal.SIGTERM else -how)
    assert procfs.start_ticks(pid) is not None
    last = gateway.reports[-1].seq
    gateway.observations.clear()
    agent.start()
    assert wait_running(gateway) == pid
    assert seen(gateway).restart_count == 0
    numbers = [report.seq for report in gateway.reports]
    assert last is not None
    assert (gateway.reports[-1].seq or 0) > last
    assert numbers == sorted(numbers, key=lambda number: number or 0)


def test_an_agent_that_finds_no_gateway_enforces_what_it_last_knew(gateway: FakeGateway, agent: Agent) -> None:
    first = run_sleep(gateway, agent)
    agent.end()
    os.kill(first, signal.SIGKILL)
    offline = Agent(agent.state, "http://127.0.0.1:1")
    offline.start()
    backend = ProcessBackend(agent.state / "processes", procfs.boot_id() or "")
    until(lambda: any(process.running for process in backend.observe().values()), "the process to come back")
    offline.close()


@pytest.mark.parametrize(("policy", "code", "runs"), [("Never", 3, 1), ("OnFailure", 0, 1), ("OnFailure", 3, 2)])
def test_runs_to_completion_are_not_repeated_by_a_restart_of_the_agent(
    gateway: FakeGateway, agent: Agent, tmp_path: Path, policy: str, code: int, runs: int
) -> None:
    script = 'echo ran >> "$1"; [ "$(wc -l < "$1")" -gt 1 ] || exit "$2"'
    spec = process_spec("/bin/sh", "-c", script, "x", str(tmp_path / "runs"), str(code), restartPolicy=policy)
    gateway.desire(item("a", spec))
    agent.start()
    final = code if runs == 1 else 0
    gateway.wait_for(lambda: seen(gateway).exit_code == final, "the end")
    assert seen(gateway).process_started is True
    assert seen(gateway).healthy is (final == 0)
    agent.end(signal.SIGKILL)
    gateway.observations.clear()
    agent.start()
    gateway.wait_for(lambda: seen(gateway).exit_code == final, "the end, reported again")
    assert (tmp_path / "runs").read_text() == "ran\n" * runs


def test_the_output_tail_of_a_job_is_reported_and_survives_the_agent(gateway: FakeGateway, agent: Agent) -> None:
    script = 'i=0; while [ $i -lt 900 ]; do echo line $i; i=$((i+1)); done; printf "\\033[1mé bye"; exit 3'
    gateway.desire(item("a", process_spec("/bin/sh", "-c", script, restartPolicy="Never")))
    agent.start()
    gateway.wait_for(lambda: seen(gateway).output_tail is not None, "the output")
    tail = seen(gateway).output_tail
    assert tail is not None
    assert (len(tail), tail[-27:]) == (2000, "line 898\nline 899\n\ufffd[1mé bye"[-27:])
    agent.end(signal.SIGKILL)
    gateway.observations.clear()
    agent.start()
    gateway.wait_for(lambda: seen(gateway).output_tail == tail, "the output, reported again")


def test_the_output_tail_of_a_crashed_service_stays_while_it_runs_again(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    script = '[ -e "$1" ] && exec sleep 1000; touch "$1"; echo no config >&2; exit 1'
    gateway.desire(item("a", process_spec("/bin/sh", "-c", script, "x", str(tmp_path / "ran"))))
    agent.start()
    wait_running(gateway)
    gateway.wait_for(lambda: seen(gateway).restart_count == 1 and seen(gateway).pid is not None, "the second run")
    assert seen(gateway).output_tail == "no config\n"


def test_an_end_without_an_agent_is_reported_later(gateway: FakeGateway, agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    spec = process_spec("/bin/sh", "-c", 'read x < "$1"; exit 5', "x", str(tmp_path / "go"), restartPolicy="Never")
    gateway.desire(item("a", spec))
    agent.start()
    pid = wait_running(gateway)
    agent.end(signal.SIGKILL)
    (tmp_path / "go").write_text("now\n")
    until(lambda: procfs.start_ticks(pid) is None, "the end")
    agent.start()
    gateway.wait_for(lambda: seen(gateway).exit_code == 5, "the exit code")


def test_health_follows_the_probe(gateway: FakeGateway, agent: Agent, tmp_path: Path) -> None:
    gateway.desire(item("a", SLEEP | {"healthCheck": probe_of(tmp_path / "ok")}))
    agent.start()
    gateway.wait_for(lambda: seen(gateway).healthy is False, "unhealthy")
    assert seen(gateway).error_message == "health check failed: exit status 1"
    (tmp_path / "ok").touch()
    gateway.wait_for(lambda: seen(gateway).healthy is True, "healthy")
    (tmp_path / "ok").unlink()
    gateway.wait_for(lambda: seen(gateway).healthy is False, "unhealthy again")


def test_a_readiness_that_flips_is_reported_at_once_and_not_at_the_next_heartbeat(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    gateway.heartbeat_seconds = 3600
    gateway.desire(item("a", SLEEP | {"healthCheck": probe_of(tmp_path / "ok")}))
    agent.start()
    for healthy in (False, True, False):
        (tmp_path / "ok").touch() if healthy else (tmp_path / "ok").unlink(missing_ok=True)
        gateway.wait_for(lambda wanted=healthy: seen(gateway).healthy is wanted, f"healthy is {healthy}")  # type: ignore[misc]
    count = len(gateway.reports)
    pid = wait_running(gateway)
    os.kill(pid, signal.SIGKILL)
    gateway.wait_for(lambda: seen(gateway).restart_count == 1, "the restart")
    assert count < len(gateway.reports) < count + 10


def test_a_probe_that_hangs_delays_nothing_and_fails(gateway: FakeGateway, agent: Agent) -> None:
    probe = {"exec": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1, "failureThreshold": 1, "periodSeconds": 1}
    gateway.desire(item("a", SLEEP | {"healthCheck": probe}))
    agent.start()
    wait_running(gateway)
    gateway.wait_for(lambda: seen(gateway).healthy is False, "unhealthy")
    assert seen(gateway).error_message == "health check failed: no answer within 1 s"


def test_an_artifact_is_run_from_the_store_and_a_bad_successor_leaves_it_running(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    program = tmp_path / "fwd"
    program.write_bytes(b"#!/bin/sh\nexec sleep 1000\n")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()

    def spec(checksum: str) -> dict[str, object]:
        wanted = {"type": "file", "url": str(program), "checksumSHA256": checksum}
        return process_spec("./fwd", artifact=wanted)

    gateway.desire(item("a", spec(digest)))
    agent.start()
    pid = wait_running(gateway)
    good = seen(gateway)
    assert (good.artifact_downloaded, good.artifact_verified) == (True, True)
    assert good.artifact_digest == f"sha256:{digest}"
    assert digest in os.readlink(f"/proc/{pid}/cwd")
    gateway.desire(item("a", spec("0" * 64), generation=2))
    gateway.wait_for(lambda: seen(gateway).artifact_verified is False, "the failure")
    reported = seen(gateway)
    assert (reported.pid, reported.process_started, reported.observed_spec_hash) == (pid, True, good.observed_spec_hash)
    assert reported.artifact_downloaded is True
    assert "has sha256" in (reported.error_message or "")


def test_a_deleted_artifact_is_fetched_again_when_the_process_must_be_started(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    program = tmp_path / "fwd"
    program.write_bytes(b"#!/bin/sh\nexec sleep 1000\n")
    gateway.desire(item("a", process_spec("./fwd", artifact={"type": "file", "url": str(program)})))
    agent.start()
    first = wait_running(gateway)
    assert (seen(gateway).artifact_downloaded, seen(gateway).artifact_verified) == (True, None)  # nothing to verify by
    store = agent.state / "artifacts"
    shutil.rmtree(store)
    os.kill(first, signal.SIGKILL)
    second = wait_running(gateway, other_than=first)
    assert store.is_dir()
    assert seen(gateway).error_message is None
    agent.end()
    os.kill(second, signal.SIGKILL)
    shutil.rmtree(store)
    agent.start()
    wait_running(gateway, other_than=second)


def test_a_process_that_cannot_run_is_reported_and_affects_no_other(gateway: FakeGateway, agent: Agent) -> None:
    container = {"execution": {"backend": "container"}}
    nonsense = {"execution": {"backend": "quantum", "command": "x"}}
    gateway.desire(
        item("a", SLEEP), item("box", container), item("bad", nonsense), item("none", process_spec("/no/such"))
    )
    agent.start()
    wait_running(gateway)
    gateway.wait_for(lambda: len(gateway.observations) == 4, "all four")
    wrong = ("backend container is not available on this device", "spec.artifact: the backend container needs")
    assert (seen(gateway, "box").error_message or "").startswith(wrong)
    assert "spec.execution.backend" in (seen(gateway, "bad").error_message or "")
    assert "spec.execution.command" in (seen(gateway, "bad").error_message or "")
    gateway.wait_for(lambda: "No such file" in (seen(gateway, "none").error_message or ""), "the failed start")
    assert seen(gateway, "none").process_started is False
    assert seen(gateway, "bad").observed_spec_hash != ""


def test_a_process_that_understands_no_longer_runs_on(gateway: FakeGateway, agent: Agent) -> None:
    pid = run_sleep(gateway, agent)
    gateway.desire(item("a", {"execution": {"backend": "quantum"}}, generation=2))
    gateway.wait_for(lambda: seen(gateway).error_message is not None, "the reason")
    assert (seen(gateway).pid, seen(gateway).process_started) == (pid, True)


def test_a_lost_report_is_sent_again_and_processes_are_not_affected(gateway: FakeGateway, agent: Agent) -> None:
    gateway.desire(item("a", SLEEP))
    gateway.fail(
        Fault(path="/report", status=500, times=2), Fault(path="/desired", status=503, headers={"Retry-After": "1"})
    )
    agent.start()
    pid = wait_running(gateway)
    count = len(gateway.reports)
    gateway.fail(Fault(path="/report", status=500))
    gateway.wait_for(lambda: len(gateway.reports) > count + 2, "further heartbeats")
    assert procfs.start_ticks(pid) is not None


def test_heartbeats_carry_nothing_new_until_the_gateway_asks_for_a_resync(gateway: FakeGateway, agent: Agent) -> None:
    run_sleep(gateway, agent)
    gateway.wait_for(lambda: seen(gateway).healthy is True, "a stable process")
    count = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) >= count + 2, "heartbeats")
    assert [len(report.observations) for report in gateway.reports[count:]] == [0] * len(gateway.reports[count:])
    assert gateway.reports[-1].facts is None
    gateway.observations.clear()
    gateway.resync = True
    wait_running(gateway)
    assert gateway.reports[-1].facts is not None


def test_a_refused_token_stops_nothing_and_is_asked_again(gateway: FakeGateway, agent: Agent) -> None:
    pid = run_sleep(gateway, agent)
    gateway.token = "another"
    count = len(gateway.requests)
    gateway.wait_for(lambda: len(gateway.requests) >= count + 2, "refused requests")
    assert procfs.start_ticks(pid) is not None
    gateway.token = "t0ken"
    reports = len(gateway.reports)
    gateway.wait_for(lambda: len(gateway.reports) > reports, "reports again")


def test_a_desired_state_that_the_poll_missed_is_fetched(gateway: FakeGateway, agent: Agent) -> None:
    gateway.desire(item("a", SLEEP))
    gateway.fail(Fault(path="/desired", status=503, headers={"Retry-After": "300"}))
    agent.start()
    wait_running(gateway)  # the poller was reported to wait for five minutes; the report's answer knew better


def test_two_agents_do_not_share_a_state_directory(gateway: FakeGateway, agent: Agent) -> None:
    agent.start()
    gateway.wait_for(lambda: bool(gateway.reports), "a report")
    command = (sys.executable, "-m", "praetor_agent", "run", "--gateway", gateway.url, "--state-dir", str(agent.state))
    second = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False)
    assert second.returncode == 1
    assert "another agent runs with --state-dir" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_version_that_crashes_gives_way_to_the_old_one_and_is_not_tried_again(
    gateway: FakeGateway, agent: Agent
) -> None:
    good = item("a", SLEEP)
    run_sleep(gateway, agent)
    gateway.wait_for(lambda: seen(gateway).healthy is True, "the old version")
    bad = item("a", process_spec("false"), generation=2)
    gateway.desire(bad)
    gateway.wait_for(lambda: seen(gateway).rolled_back_reason is not None, "the restore")
    assert (seen(gateway).rolled_back_reason, seen(gateway).failed_spec_hash) == ("CrashLoop", bad["specHash"])
    gateway.wait_for(lambda: seen(gateway).healthy is True, "the old version again")
    restored = wait_running(gateway)
    assert seen(gateway).observed_spec_hash == good["specHash"]
    agent.end(signal.SIGKILL)
    gateway.observations.clear()
    agent.start()
    assert wait_running(gateway) == restored
    assert seen(gateway).failed_spec_hash == bad["specHash"]
    gateway.desire(item("a", process_spec("sleep", "1002"), generation=3))
    wait_running(gateway, other_than=restored)
    assert seen(gateway).failed_spec_hash is None


def test_a_change_after_which_the_gateway_is_unreachable_is_rolled_back(gateway: FakeGateway, agent: Agent) -> None:
    good = item("a", SLEEP)
    run_sleep(gateway, agent)
    gateway.wait_for(lambda: seen(gateway).healthy is True, "the old version")
    cut_off = process_spec("sleep", "1003", confirm={"mode": "GatewayReachable", "timeoutSeconds": 5})
    gateway.fail(Fault(path="/report", status=503, times=10_000))
    gateway.desire(item("a", cut_off, generation=2))
    backend = ProcessBackend(agent.state / "processes", procfs.boot_id() or "")

    def runs(spec_hash: str) -> bool:
        return [run.spec_hash for run in backend.observe().values() if run.running] == [spec_hash]

    until(lambda: runs(item("a", cut_off)["specHash"]), "the change to run")
    until(lambda: runs(good["specHash"]), "the old version to run")


def test_a_change_after_which_the_gateway_answers_stays(gateway: FakeGateway, agent: Agent) -> None:
    run_sleep(gateway, agent)
    gateway.wait_for(lambda: seen(gateway).healthy is True, "the old version")
    changed = item("a", process_spec("sleep", "1003", confirm={"timeoutSeconds": 5}), generation=2)
    gateway.desire(changed)
    state = State(agent.state)
    until(lambda: any(record.confirmation for record in state.load_memory().values()), "the wait for a word")
    until(lambda: all(record.confirmation is None for record in state.load_memory().values()), "its end")
    assert seen(gateway).observed_spec_hash == changed["specHash"]


def test_an_operator_on_the_device_confirms_a_change(gateway: FakeGateway, agent: Agent) -> None:
    gateway.desire(item("a", process_spec("sleep", "1003", confirm={"mode": "Manual", "timeoutSeconds": 60})))
    agent.start()
    wait_running(gateway)
    command = (sys.executable, "-m", "praetor_agent", "confirm", "--state-dir", str(agent.state), "a")
    assert subprocess.run(command, timeout=WITHIN_SECONDS, check=True, capture_output=True).stdout.endswith(
        b"is confirmed\n"
    )
    state = State(agent.state)
    until(lambda: all(record.confirmation is None for record in state.load_memory().values()), "the confirmation")
    again = subprocess.run(command, timeout=WITHIN_SECONDS, check=False, capture_output=True)
    assert (again.returncode, again.stderr) == (
        1,
        b"praetor-agent confirm: no change of 'a' waits to be confirmed\n",
    )


def status(agent: Agent, *more: str) -> str:
    command = [sys.executable, "-m", "praetor_agent", "status", "--state-dir", str(agent.state), *more]
    hold = ("--hold-file", str(agent.state.parent / "hold"))
    return subprocess.run([*command, *hold], capture_output=True, text=True, timeout=WITHIN_SECONDS, check=True).stdout


def test_status_shows_what_a_process_waits_for(gateway: FakeGateway, agent: Agent) -> None:
    ends_late = process_spec("bash", "-c", 'trap "sleep 1000" TERM; while :; do sleep 1; done')
    ends_late["execution"]["terminationGracePeriodSeconds"] = 3000
    gateway.desire(item("a", ends_late))
    agent.start()
    gateway.wait_for(lambda: seen(gateway).process_started is True, "the start")
    gateway.desire(item("b", process_spec("sleep", "1006")))
    until(lambda: "waits for default/a to end" in status(agent), "what it waits for")
    assert gateway.observations["b"].pending_reason == "WaitingForOthersToEnd"


def moment(text: str) -> datetime:
    """Return the time that *text* says; a Z is read from Python 3.11 on."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_status_shows_health_pending_confirmations_and_the_last_exchange(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    confirm = {"mode": "Manual", "timeoutSeconds": 300}
    gateway.desire(item("a", process_spec("sleep", "1005", healthCheck=probe_of(tmp_path / "ok"), confirm=confirm)))
    agent.start()
    gateway.wait_for(lambda: seen(gateway).healthy is False, "unhealthy")
    until(lambda: "Unhealthy" in status(agent), "the health")
    lines = status(agent).splitlines()
    assert re.fullmatch(r"Gateway: \S+Z \(\d+ s ago\): acknowledged", lines[1])
    said = " ".join(" ".join(lines[3:]).split())  # a long path takes several lines
    assert "health check failed: exit status 1" in said
    assert re.search(r"rolls back at \S+Z unless it is confirmed \(run: praetor-agent confirm a\)", said)
    reported = json.loads(status(agent, "-o", "json"))
    waits = reported["processes"][0]["confirmation"]
    assert waits["mode"] == "Manual"
    left = moment(waits["deadline"]) - datetime.now(timezone.utc)
    assert timedelta(seconds=120) < left < timedelta(seconds=301)
    (tmp_path / "ok").touch()
    (tmp_path / "hold").write_text("ask me\n")
    until(lambda: "   Healthy " in status(agent), "the new health")
    gateway.fail(Fault(path="/report", status=503, times=10_000))
    until(lambda: "the gateway answered 503" in status(agent), "the new answer")
    last = json.loads(status(agent, "-o", "json"))["lastExchange"]
    assert last["answer"].startswith("the gateway answered 503")
    assert moment(last["acknowledgedAt"]) <= moment(last["at"])
    assert f"\nNothing is changed: held by {tmp_path / 'hold'}: ask me\n" in status(agent)
    agent.end(signal.SIGKILL)
    lines = status(agent).splitlines()
    assert lines[0] == "Device leaf-1: 1 process; the agent does not run"
    assert re.search(r"last acknowledged \S+Z \(\d+ s ago\)$", lines[1])
    before = json.loads(status(agent, "-o", "json"))["lastExchange"]
    agent.start()
    until(lambda: json.loads(status(agent, "-o", "json"))["lastExchange"]["at"] != before["at"], "a new exchange")
    after = json.loads(status(agent, "-o", "json"))["lastExchange"]
    assert after["acknowledgedAt"] == before["acknowledgedAt"]


def test_during_a_freeze_nothing_changes_but_processes_are_kept_running(gateway: FakeGateway, agent: Agent) -> None:
    first = run_sleep(gateway, agent)
    hold = agent.state.parent / "hold"
    hold.write_text("ask the night shift\n")
    gateway.desire(item("a", process_spec("sleep", "1004"), generation=2))
    said = f"held by {hold}: ask the night shift"  # the file is empty before it says so
    gateway.wait_for(lambda: seen(gateway).update_held_message == said, "the hold")
    os.kill(first, signal.SIGKILL)
    second = wait_running(gateway, other_than=first)
    assert Path(f"/proc/{second}/cmdline").read_bytes() == b"/usr/bin/sleep\x001000\x00"
    hold.unlink()
    third = wait_running(gateway, other_than=second)
    assert Path(f"/proc/{third}/cmdline").read_bytes() == b"/usr/bin/sleep\x001004\x00"
    assert seen(gateway).update_held_message is None


def test_under_the_strict_umask_of_its_service_artifacts_are_open_to_other_users_and_all_else_is_not(
    gateway: FakeGateway, agent: Agent, tmp_path: Path
) -> None:
    program = tmp_path / "app"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    with tarfile.open(tmp_path / "app.tar", "w") as archive:
        archive.add(program, "bin/app")
    execution = {"env": [{"name": "PASSWORD", "value": "secret"}]}
    artifact = {"type": "file", "url": str(tmp_path / "app.tar")}
    gateway.desire(item("a", process_spec("bin/app", execution=execution, artifact=artifact)))
    before = os.umask(0o077)
    try:
        agent.start()
    finally:
        os.umask(before)
    wait_running(gateway)
    store = agent.state / "artifacts"
    modes = {path: path.stat().st_mode & 0o777 for path in agent.state.rglob("*") if ".parts" not in path.parts}
    unpacked = {path.name: mode for path, mode in modes.items() if path.is_relative_to(store) and "root" in path.parts}
    assert unpacked == {"root": 0o755, "bin": 0o755, "app": 0o755}
    assert not [path for path, mode in modes.items() if path.is_relative_to(store) and path.is_dir() and ~mode & 0o055]
    assert (store / ".parts").stat().st_mode & 0o777 == 0o700
    open_files = [path for path, mode in modes.items() if mode & 0o077 and path.is_file()]
    assert all(path.is_relative_to(store) for path in open_files), open_files
    assert not [path for path, mode in modes.items() if path.parent.name == "processes" and mode & 0o077]
