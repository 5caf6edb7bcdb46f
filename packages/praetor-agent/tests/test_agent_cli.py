from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from praetor_agent.__about__ import __version__
from praetor_agent.cli import main
from praetor_agent.clock import SystemClock
from praetor_agent.records import Record, Revision, Stage
from praetor_agent.simulate.faults import BadVersion, Faults
from praetor_agent.simulate.statistics import Statistics, percentile
from praetor_agent.state import Received, State
from praetor_agent.testing import FakeGateway, item, process_spec, until
from praetor_api.protocol import Observation, read_desired
from praetor_api.tokens import device_token

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "--gateway is missing"),
        (["run", "--gateway", "ftp://x"], "--gateway 'ftp://x'"),
        (["run", "--gateway", "http://x:99999"], "bad port"),
        (["run", "--gateway", URL, "--device", "A_b"], "--device 'A_b'"),
        (["run", "--gateway", URL, "--token", "a", "--token-file", "/x"], "leave one out"),
        (["run", "--gateway", URL, "--token", ""], "--token is empty"),
        (["run", "--gateway", URL, "--token", "a b\n"], "--token is empty or holds"),
        (["run", "--gateway", URL, "--token-file", "/no/such"], "--token-file /no/such"),
        (["run", "--gateway", URL, "--ca-bundle", "/no/such"], "--ca-bundle /no/such"),
        (["run", "--gateway", URL, "--start-splay", "nan"], "--start-splay 'nan'"),
        (["run", "--gateway", URL, "--log-level", "loud"], "--log-level 'loud'"),
        (["status", "-o", "yaml"], "--output 'yaml'"),
        (["simulate", "--gateway", URL], "--count is missing"),
        (["simulate", "--gateway", URL, "--count", "-1"], "--count '-1'"),
        (["simulate", "--gateway", URL, "--count", "1", "--devices-file", "/x"], "leave one out"),
        (["simulate", "--gateway", URL, "--devices-file", "/no/such"], "--devices-file /no/such"),
        (["simulate", "--gateway", URL, "--count", "1", "--prefix", "A_"], "--device 'A_1'"),
        (["simulate", "--gateway", URL, "--count", "1", "--fail-rate", "2"], "--fail-rate '2'"),
        (["simulate", "--gateway", URL, "--count", "1", "--fail-on", "v2=3"], "--fail-on '3'"),
        (["simulate", "--gateway", URL, "--count", "1", "--silent-on", "=1"], "--silent-on '=1' names no version"),
        (["simulate", "--gateway", URL, "--count", "1", "--dead-rate", "-1"], "--dead-rate '-1'"),
        (["simulate", "--gateway", URL, "--count", "1", "--token", "a", "--token-secret-file", "/x"], "leave one out"),
        (["simulate", "--gateway", URL, "--count", "1", "--token-secret-file", "/no/such"], "--token-secret-file"),
    ],
)
def test_bad_input_names_the_flag_and_exits_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_every_flag_has_a_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PRAETOR_AGENT_GATEWAY", "gopher://x")
    with pytest.raises(SystemExit):
        main(["run"])
    assert "--gateway 'gopher://x'" in capsys.readouterr().err


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "praetor_agent", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"praetor-agent {__version__}\n"


def test_the_command_line_loads_no_more_than_it_needs() -> None:
    code = "import sys; from praetor_agent import cli; print(sorted({'requests', 'asyncio', 'ssl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_status_tells_what_the_device_thinks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"deviceName": "leaf-1", "items": [item("fw", process_spec("sleep", "1"))]}
    desired = read_desired(body)
    State(tmp_path).save_desired("leaf-1", Received(etag='"e"', body=body, desired=desired))
    record = Record(
        uid="uid-fw", namespace="default", name="fw", stage=Stage.WAITING, current=Revision(item=desired.items[0]),
        restart_count=3, exit_code=1, termination_reason="Error",
    )  # fmt: skip
    State(tmp_path).save_memory({"uid-fw": record})
    main(["status", "--state-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Device leaf-1: 1 processes; the agent does not run"
    assert lines[1].split() == ["NAMESPACE", "NAME", "STATE", "PID", "RESTARTS", "EXIT", "SPEC", "ARTIFACT", "MESSAGE"]
    assert lines[2].split()[:6] == ["default", "fw", "Waiting", "-", "3", "1"]
    main(["status", "--state-dir", str(tmp_path), "-o", "json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["device"], told["desiredETag"], told["processes"][0]["restartCount"]) == ("leaf-1", '"e"', 3)


def test_status_of_a_device_that_was_never_told_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--state-dir", str(tmp_path)])
    assert capsys.readouterr().out == "Device -: it was never told what to run; the agent does not run\n"
    with pytest.raises(SystemExit) as caught:
        main(["status", "--state-dir", str(tmp_path / "none")])
    assert caught.value.code == 1
    assert "--state-dir" in capsys.readouterr().err


def test_a_pretend_fleet_polls_runs_and_reports(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        fleet = subprocess.Popen(
            [
                sys.executable, "-m", "praetor_agent", "simulate", "--gateway", gateway.url, "--count", "20",
                "--token-file", str(tmp_path / "token"), "--start-splay", "0", "--summary-seconds", "0.2",
                "--changes-file", str(tmp_path / "changes"),
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            gateway.wait_for(lambda: len(gateway.history) >= 20, "the first reports")
            changed = item("a", process_spec("y"), generation=2)
            gateway.desire(changed)
            gateway.wait_for(
                lambda: len([1 for seen in gateway.history if seen.observed_spec_hash == changed["specHash"]]) >= 20,
                "the reports of the change",
            )
            devices = {path.split("/")[3] for _, path, _ in gateway.requests}
            assert devices == {f"sim-{number}" for number in range(1, 21)}
            assert all(seen.process_started and seen.healthy and seen.pid for seen in gateway.history)
        finally:
            fleet.send_signal(signal.SIGTERM)
            out, _ = fleet.communicate(timeout=20)
    assert fleet.returncode == 0
    assert out.splitlines()[-1].startswith("devices=20 connected=20 ")
    assert "errors=0" in out
    changes = [json.loads(line) for line in (tmp_path / "changes").read_text().splitlines()]
    assert len([1 for change in changes if change["specHash"] == changed["specHash"]]) == 20


def test_pretend_devices_may_have_tokens_of_their_own_and_fail(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("new\nold\n")
    (tmp_path / "devices").write_text("leaf-7\n")
    with FakeGateway(token=device_token(b"new", "leaf-7"), heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("x")))
        fleet = subprocess.Popen(
            [
                sys.executable, "-m", "praetor_agent", "simulate", "--gateway", gateway.url, "--fail-rate", "1",
                "--devices-file", str(tmp_path / "devices"), "--token-secret-file", str(tmp_path / "secret"),
                "--start-splay", "0",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            gateway.wait_for(lambda: bool(gateway.history), "a report")
            assert gateway.history[0].error_message == "simulated failure"
            assert gateway.history[0].process_started is False
        finally:
            fleet.terminate()
            fleet.wait(20)


def test_pretend_devices_meet_versions_that_fail_or_silence_them_and_some_are_dead(tmp_path: Path) -> None:
    devices = [f"sim-{number}" for number in range(1, 41)]
    faults = Faults(fail=(BadVersion("bad", 0.5),), silent=(BadVersion("worse"),), dead=0.2)
    living = {device for device in devices if not faults.is_dead(device)}
    (tmp_path / "token").write_text("t\n")
    with FakeGateway(token="t", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("good")))
        fleet = subprocess.Popen(
            [
                sys.executable, "-m", "praetor_agent", "simulate", "--gateway", gateway.url, "--count", "40",
                "--token-file", str(tmp_path / "token"), "--start-splay", "0", "--summary-seconds", "0.2",
                "--fail-on", "bad=0.5", "--silent-on", "worse", "--dead-rate", "0.2",
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
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
            fleet.communicate(timeout=20)
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
