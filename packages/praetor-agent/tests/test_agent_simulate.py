# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, item, process_spec, until
from praetor_agent.cli import main
from praetor_agent.clock import SystemClock
from praetor_agent.simulate.device import version_of
from praetor_agent.simulate.faults import BadVersion, Faults
from praetor_agent.simulate.http import parse
from praetor_agent.simulate.statistics import Census, Histogram, Receipt, Spread, Tally, as_json, progress, table
from praetor_api.protocol import Observation
from praetor_api.tokens import device_token

URL = "http://127.0.0.1:1"


def test_help_and_variables_are_those_of_the_agents_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: praetor-agent simulate ")
    monkeypatch.setenv("PRAETOR_AGENT_COUNT", "none")
    with pytest.raises(SystemExit):
        main(["simulate", "--gateway", URL])
    assert "--count 'none'" in capsys.readouterr().err


def simulated(*urls: str, flags: Sequence[str]) -> subprocess.Popen[str]:
    words = (
        "simulate",
        "--gateway",
        ",".join(urls),
        "--start-splay",
        "0",
        "--summary-seconds",
        "0.2",
        "--output",
        "json",
        *flags,
    )
    pipe = subprocess.PIPE
    return subprocess.Popen((sys.executable, "-m", "praetor_agent", *words), stdout=pipe, stderr=pipe, text=True)


def ended(fleet: subprocess.Popen[str], sign: signal.Signals = signal.SIGTERM) -> tuple[list[dict[str, Any]], str]:
    """End the fleet; return what it printed, the last summary at the end, and its progress."""
    fleet.send_signal(sign)
    out, progress = fleet.communicate(timeout=WITHIN_SECONDS)
    assert fleet.returncode == 0, progress
    return [json.loads(line) for line in out.splitlines()], progress


def test_a_simulated_device_whose_polls_are_heartbeats_reports_once_and_keeps_no_second_connection() -> None:
    with FakeGateway(heartbeat_seconds=10) as gateway:
        gateway.quiet = True
        gateway.desire(item("a", process_spec("x")))
        fleet = simulated(gateway.url, flags=("--count", "9"))
        try:
            gateway.wait_for(lambda: len(gateway.history) == 9, "the reports")
            gateway.wait_for(lambda: gateway.connections == 9 and len(gateway.numbers) >= 9, "only the polls are left")
            assert len(gateway.reports) == 9  # its facts and its process at once
        finally:
            ended(fleet)


@pytest.mark.parametrize(("processes", "sign"), [("1", signal.SIGTERM), ("3", signal.SIGINT)])
def test_a_simulated_fleet_polls_runs_and_reports(tmp_path: Path, processes: str, sign: signal.Signals) -> None:
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        flags = ("--count", "20", "--processes", processes, "--token", "t", "--changes-file", str(tmp_path / "changes"))
        fleet = simulated(gateway.url, flags=flags)
        try:
            gateway.wait_for(lambda: len(gateway.history) >= 20, "the first reports")
            changed = item("a", process_spec("y"), generation=2)
            gateway.desire(changed)
            gateway.wait_for(lambda: len(_reported(gateway, changed)) >= 20, "the reports of the change")
            devices = {path.split("/")[3] for _, path, _ in gateway.requests}
            assert devices == {f"sim-{number}" for number in range(1, 21)}
            assert all(seen.process_started and seen.healthy and seen.pid for seen in gateway.history)
            # an address holds 28,000 connections, and a process may have nearly as many
            assert len(gateway.sources) == int(processes)
            until(lambda: _next(fleet)["connected"] == 20, "the summary says that all are connected")
        finally:
            summaries, progress = ended(fleet, sign)
    *_, last = summaries
    assert (last["final"], last["devices"], last["connected"], last["silent"], last["errors"]) == (True, 20, 20, 0, 0)
    assert (last["changes"], last["latenciesMs"]["spread"]["count"]) == (40, 20)
    latencies = [last["latenciesMs"][name] for name in ("poll", "report", "reported")]
    assert all(each["count"] >= 20 and 0 < each["p50"] <= each["p99"] <= each["max"] for each in latencies)
    assert last["polls"] >= sum(each["polls"] for each in summaries[:-1])
    assert "20 of 20 connected" in progress
    assert max(map(len, progress.splitlines())) <= 80
    changes = [json.loads(line) for line in (tmp_path / "changes").read_text().splitlines()]
    assert len([1 for change in changes if change["specHash"] == changed["specHash"]]) == 20


def test_devices_that_are_up_since_a_given_time_say_the_same_in_each_run() -> None:
    up_since = "2026-01-31T12:00:00Z"
    first: list[Observation] = []
    second: list[Observation] = []
    with FakeGateway(heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        for run in (first, second):
            gateway.history.clear()
            fleet = simulated(gateway.url, flags=("--count", "3", "--up-since", up_since))
            try:
                gateway.wait_for(lambda: len(gateway.history) >= 3, "the reports")
            finally:
                ended(fleet)
            run += sorted(gateway.history, key=repr)
    assert first == second
    assert {seen.start_time for seen in first} == {up_since}


def test_a_device_whose_gateway_cannot_be_reached_uses_another_one() -> None:
    with FakeGateway(heartbeat_seconds=1) as gateway:
        fleet = simulated(gateway.url, URL, flags=("--count", "6"))
        try:
            gateway.wait_for(lambda: len(_devices(gateway)) == 6, "all devices are at the one that answers")
        finally:
            (*_, last), _ = ended(fleet)
    assert last["errors"] >= 3


def test_requests_are_lost_and_connections_broken_as_asked() -> None:
    with FakeGateway(heartbeat_seconds=1) as gateway:
        flags = ("--count", "10", "--loss", "0.1", "--lag", "0.01", "--reconnect-seconds", "0.5")
        fleet = simulated(gateway.url, flags=flags)
        try:
            gateway.wait_for(lambda: len(gateway.reports) >= 100, "reports arrive all the same")
            # the first requests of an unlucky device are lost, and it waits longer after each
            gateway.wait_for(lambda: len(_devices(gateway)) == 10, "every device gets through")
            assert len({source for sources in gateway.sources.values() for source in sources}) > 20
        finally:
            (*_, last), _ = ended(fleet)
    assert "lost, as --loss asks" in last["lastError"] or "closed" in last["lastError"]
    assert last["errors"] > 10


def test_a_killed_simulator_leaves_no_process_behind() -> None:
    with FakeGateway(heartbeat_seconds=1) as gateway:
        fleet = simulated(gateway.url, flags=("--count", "4", "--processes", "2"))
        gateway.wait_for(lambda: len(_devices(gateway)) == 4, "all devices are there")
        children = Path(f"/proc/{fleet.pid}/task/{fleet.pid}/children").read_text().split()
        assert len(children) == 2
        fleet.kill()
        fleet.communicate(timeout=WITHIN_SECONDS)
    until(lambda: not any(map(_runs, children)), "its processes end")


def test_a_simulator_whose_process_is_gone_says_so() -> None:
    with FakeGateway(heartbeat_seconds=1) as gateway:
        fleet = simulated(gateway.url, flags=("--count", "4", "--processes", "2"))
        gateway.wait_for(lambda: len(_devices(gateway)) == 4, "all devices are there")
        os.kill(int(Path(f"/proc/{fleet.pid}/task/{fleet.pid}/children").read_text().split()[0]), signal.SIGKILL)
        _, said = fleet.communicate(timeout=WITHIN_SECONDS)
    assert fleet.returncode == 1
    assert "a process of the simulator ended with -9" in said


def _next(fleet: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next summary."""
    assert fleet.stdout is not None
    summary: dict[str, Any] = json.loads(fleet.stdout.readline())
    return summary


def _devices(gateway: FakeGateway) -> set[str]:
    return {path.split("/")[3] for _, path, _ in gateway.requests}


def _runs(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_simulated_devices_may_have_their_own_tokens_and_fail(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("new\nold\n")
    (tmp_path / "devices").write_text("leaf-7\n")
    with FakeGateway(token=device_token(b"new", "leaf-7"), heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        files = ("--devices-file", str(tmp_path / "devices"), "--token-secret-file", str(tmp_path / "secret"))
        fleet = simulated(gateway.url, flags=("--fail-rate", "1", *files))
        try:
            gateway.wait_for(lambda: bool(gateway.history), "a report")
            assert gateway.history[0].error_message == "simulated failure"
            assert gateway.history[0].process_started is False
        finally:
            ended(fleet)


def test_simulated_devices_fail_go_silent_or_never_connect_as_asked(tmp_path: Path) -> None:
    devices = [f"sim-{number}" for number in range(1, 41)]
    faults = Faults(fail=(BadVersion("bad", 0.5),), silent=(BadVersion("worse"),), dead=0.2)
    living = {device for device in devices if not faults.is_dead(device)}
    (tmp_path / "token").write_text("t\n")
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("good")))
        flags = ("--fail-on", "bad=0.5", "--silent-on", "worse", "--dead-rate", "0.2")
        fleet = simulated(gateway.url, flags=("--count", "40", "--token-file", str(tmp_path / "token"), *flags))
        try:
            gateway.wait_for(lambda: len(gateway.history) >= len(living), "the first reports")
            bad, worse = item("a", process_spec("bad"), generation=2), item("a", process_spec("worse"), generation=3)
            gateway.desire(bad)
            gateway.wait_for(lambda: len(_reported(gateway, bad)) >= len(living), "the reports of the bad version")
            gateway.desire(worse)
            until(lambda: _next(fleet)["silent"] == 40, "all are silent")
        finally:
            ended(fleet)
    assert {path.split("/")[3] for _, path, _ in gateway.requests} == living
    assert 0 < len(living) < len(devices)
    failed = [seen.process_started for seen in _reported(gateway, bad)].count(False)
    assert failed == sum(faults.fails(device, bad) for device in living)
    assert 0 < failed < len(living)
    assert _reported(gateway, worse) == []


def _reported(gateway: FakeGateway, wanted: Mapping[str, Any]) -> list[Observation]:
    return [seen for seen in gateway.history if seen.observed_spec_hash == wanted["specHash"]]


def test_a_quantile_is_exact_to_a_twentieth_and_none_without_values() -> None:
    histogram, other = Histogram(), Histogram()
    assert histogram.quantile(0.5) is None
    for number in range(1, 1001):
        (histogram if number % 2 else other).add(number / 1000)
    histogram.merge(other)
    assert len(histogram) == 1000
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert histogram.quantile(0.99) == pytest.approx(0.99, rel=0.05)
    assert histogram.quantile(1.0) == 1.0


def test_only_changes_count_for_the_spread_in_whatever_order_processes_say_them() -> None:
    spread, now = Spread(), SystemClock().now()
    spread.add([Receipt("a", "1a", "v1", now, "", False), Receipt("b", "2b", "v2", now + 0.5, "", True)])
    spread.add([Receipt("a", "2a", "v2", now, "", True), Receipt("c", "2c", "v2", now - 9, "", False)])
    found = spread.histogram()
    assert (len(found), found.largest) == (2, 0.5)


def test_devices_with_one_template_have_one_version_though_their_specs_have_different_hashes() -> None:
    first, second = ({"deviceRef": {"name": name}, "execution": {}} for name in ("leaf-1", "leaf-2"))
    assert version_of(first) == version_of(second) != version_of({**first, "restartPolicy": "Never"})
    assert version_of(None) == version_of(None)


def test_the_table_and_the_progress_fit_the_screen() -> None:
    tally, census = Tally(polls=10**7, reports=10**7, changes=10**6), Census(100_000, 99_900, 100)
    tally.failed(OSError("gone " * 40))
    tally.latencies["report"].add(0.012)
    text = table(as_json(census, tally, Histogram(), 600.0))
    assert "100000 devices, 99900 connected, 100 silent on purpose" in text
    assert "12.0" in text
    assert max(map(len, [*text.splitlines(), progress(census, tally, 600.0, 86_400.0)])) <= 80


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    ],
)
def test_an_answer_is_read_once_it_is_whole(received: bytes) -> None:
    assert [parse(received[:length]) for length in range(len(received))] == [None] * len(received)
    whole = parse(received)
    assert whole is not None
    assert (whole.status, whole.body) == (200, b"abcde")


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        b"x" * 20_000,
    ],
)
def test_an_answer_without_end_is_refused(received: bytes) -> None:
    with pytest.raises(ValueError, match="an answer"):
        parse(received)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--processes", "0"], "--processes '0' is not a whole number from 1 to 200"),
        (["--up-since", "noon"], "--up-since 'noon' is not a time in UTC; write it as 2026-01-31T12:00:00Z"),
        (["--loss", "2"], "--loss '2' is not a share from 0 to 1"),
        (["--output", "yaml"], "--output: invalid choice 'yaml'; choose table or json"),
        (["--gateway", f"{URL},x"], "--gateway 'x' is not a URL"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "--gateway", URL, "--count", "1", *flags])
    assert said in capsys.readouterr().err


def test_a_fleet_that_needs_too_many_files_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard > 28_000:  # then the ports of an address are fewer
        pytest.skip("this machine allows any number")
    with pytest.raises(SystemExit):
        main(["simulate", "--gateway", URL, "--count", "200000", "--processes", "1"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"each may open {hard} files" in said
    assert f"give --processes {-(-200_000 // (hard * 9 // 10 - 64))}, or raise the limit with ulimit -n" in said
