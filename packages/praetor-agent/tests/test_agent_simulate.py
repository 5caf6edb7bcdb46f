# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent_testing import WITHIN_SECONDS, FakeGateway, item, process_spec, until
from praetor_agent.cli import main
from praetor_agent.clock import SystemClock
from praetor_agent.simulate.faults import BadVersion, Faults
from praetor_agent.simulate.statistics import Statistics, percentile
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


def simulated(gateway: FakeGateway, *flags: str) -> subprocess.Popen[str]:
    words = ("simulate", "--gateway", gateway.url, "--start-splay", "0", "--summary-seconds", "0.2", *flags)
    return subprocess.Popen((sys.executable, "-m", "praetor_agent", *words), stdout=subprocess.PIPE, text=True)


def test_a_simulated_fleet_polls_runs_and_reports(tmp_path: Path) -> None:
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        fleet = simulated(gateway, "--count", "20", "--token", "t", "--changes-file", str(tmp_path / "changes"))
        try:
            gateway.wait_for(lambda: len(gateway.history) >= 20, "the first reports")
            changed = item("a", process_spec("y"), generation=2)
            gateway.desire(changed)
            gateway.wait_for(lambda: len(_reported(gateway, changed)) >= 20, "the reports of the change")
            devices = {path.split("/")[3] for _, path, _ in gateway.requests}
            assert devices == {f"sim-{number}" for number in range(1, 21)}
            assert all(seen.process_started and seen.healthy and seen.pid for seen in gateway.history)
        finally:
            fleet.send_signal(signal.SIGTERM)
            out, _ = fleet.communicate(timeout=WITHIN_SECONDS)
    assert fleet.returncode == 0
    assert out.splitlines()[-1].startswith("devices=20 connected=20 ")
    assert "errors=0" in out
    changes = [json.loads(line) for line in (tmp_path / "changes").read_text().splitlines()]
    assert len([1 for change in changes if change["specHash"] == changed["specHash"]]) == 20


def test_simulated_devices_may_have_their_own_tokens_and_fail(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("new\nold\n")
    (tmp_path / "devices").write_text("leaf-7\n")
    with FakeGateway(token=device_token(b"new", "leaf-7"), heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        files = ("--devices-file", str(tmp_path / "devices"), "--token-secret-file", str(tmp_path / "secret"))
        fleet = simulated(gateway, "--fail-rate", "1", *files)
        try:
            gateway.wait_for(lambda: bool(gateway.history), "a report")
            assert gateway.history[0].error_message == "simulated failure"
            assert gateway.history[0].process_started is False
        finally:
            fleet.terminate()
            fleet.communicate(timeout=WITHIN_SECONDS)


def test_simulated_devices_fail_go_silent_or_never_connect_as_asked(tmp_path: Path) -> None:
    devices = [f"sim-{number}" for number in range(1, 41)]
    faults = Faults(fail=(BadVersion("bad", 0.5),), silent=(BadVersion("worse"),), dead=0.2)
    living = {device for device in devices if not faults.is_dead(device)}
    (tmp_path / "token").write_text("t\n")
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("good")))
        flags = ("--fail-on", "bad=0.5", "--silent-on", "worse", "--dead-rate", "0.2")
        fleet = simulated(gateway, "--count", "40", "--token-file", str(tmp_path / "token"), *flags)
        try:
            gateway.wait_for(lambda: len(gateway.history) >= len(living), "the first reports")
            bad, worse = item("a", process_spec("bad"), generation=2), item("a", process_spec("worse"), generation=3)
            gateway.desire(bad)
            gateway.wait_for(lambda: len(_reported(gateway, bad)) >= len(living), "the reports of the bad version")
            gateway.desire(worse)
            summary = fleet.stdout
            assert summary is not None
            until(lambda: "connected=0 " in summary.readline(), "all are silent")
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.communicate(timeout=WITHIN_SECONDS)
    assert {path.split("/")[3] for _, path, _ in gateway.requests} == living
    assert 0 < len(living) < len(devices)
    failed = [seen.process_started for seen in _reported(gateway, bad)].count(False)
    assert failed == sum(faults.fails(device, bad) for device in living)
    assert 0 < failed < len(living)
    assert _reported(gateway, worse) == []


def _reported(gateway: FakeGateway, wanted: Mapping[str, Any]) -> list[Observation]:
    return [seen for seen in gateway.history if seen.observed_spec_hash == wanted["specHash"]]


def test_percentiles_are_of_what_there_is() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99


def test_only_changes_count_for_the_spread() -> None:
    statistics, now = Statistics(), SystemClock().now()
    statistics.received("v1", now, changed=False)
    statistics.received("v2", now, changed=True)
    statistics.received("v2", now + 0.5, changed=True)
    assert list(statistics.spread) == [0, 0.5]
    statistics.failed(OSError("gone"))
    assert "spread_ms[p50=500 p99=500] reported_ms[p50=- p99=-] errors=1 last_error='gone'" in statistics.line(1, 0)


def test_a_fleet_that_needs_too_many_files_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard > 300_000:
        pytest.skip("this machine allows any number")
    with pytest.raises(SystemExit):
        main(["simulate", "--gateway", URL, "--count", "200000"])
    assert "ulimit -n" in capsys.readouterr().err
