# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from agent_testing import item, process_spec
from praetor_agent.__about__ import __version__
from praetor_agent.cli import main
from praetor_agent.core.model import Failure, ProcessStage, Record, Revision
from praetor_agent.state import Received, State
from praetor_api.protocol import read_desired

URL = "http://127.0.0.1:1"
SIMULATE = ["simulate", "--gateway", URL]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "--gateway is missing"),
        (["run", "--gateway", "ftp://x"], "--gateway 'ftp://x'"),
        (["run", "--gateway", "http://x:99999"], "bad port"),
        (["run", "--gateway", "https://[gateway]:8443"], "--gateway 'https://[gateway]:8443' is not a URL"),
        (["run", "--gateway", "https://[fe80::1"], "--gateway 'https://[fe80::1' is not a URL"),
        (["run", "--gateway", URL, "--proxy", "http://[x"], "--proxy is not an http(s) URL"),
        (
            ["run", "--gateway", URL, "--registry-mirror", "docker.io=http://[x"],
            "--registry-mirror 'docker.io=http://[x'",
        ),
        (["run", "--gateway", URL, "--device", "A_b"], "--device 'A_b'"),
        (["run", "--gateway", URL, "--token", "a", "--token-file", "/x"], "leave one out"),
        (["run", "--gateway", URL, "--token", ""], "--token is empty"),
        (["run", "--gateway", URL, "--token", "a b\n"], "--token is empty or holds"),
        (
            ["install", "--gateway", URL, "--token-file", "/no/such"],
            "--token-file: the token file /no/such cannot be read: No such file or d",
        ),
        (["run", "--gateway", URL, "--ca-bundle", "/no/such"], "--ca-bundle /no/such"),
        (["run", "--gateway", URL, "--start-splay", "nan"], "--start-splay 'nan'"),
        (["run", "--gateway", URL, "--artifact-store-size", "4 gigs"], "--artifact-store-size '4 gigs'"),
        (["run", "--gateway", URL, "--artifact-store-size", "4"], "--artifact-store-size '4' is not a size of 1Mi"),
        (["run", "--gateway", URL, "--log-level", "loud"], "--log-level: invalid choice 'loud'"),
        (["status", "-o", "yaml"], "--output: invalid choice 'yaml'; choose table or json"),
        (["status", "--count", "3"], "unrecognized arguments: --count 3"),
        (["run", "more"], "unrecognized arguments: more"),
        (["run", "--gatway=http://x"], "unrecognized arguments: --gatway=http://x; did you mean --gateway?"),
        (["run", "--state-dri", "/x"], "unrecognized arguments: --state-dri /x; did you mean --state-dir?"),
        (["upgrade", "--rot", "/x"], "unrecognized arguments: --rot; did you mean --root?"),
        (SIMULATE, "--count is missing"),
        ([*SIMULATE, "--count", "-1"], "--count '-1'"),
        ([*SIMULATE, "--count", "1", "--devices-file", "/x"], "leave one out"),
        ([*SIMULATE, "--devices-file", "/no/such"], "--devices-file /no/such"),
        ([*SIMULATE, "--count", "1", "--prefix", "A_"], "--device 'A_1'"),
        ([*SIMULATE, "--count", "1", "--fail-rate", "2"], "--fail-rate '2'"),
        ([*SIMULATE, "--count", "1", "--fail-on", "v2=3"], "--fail-on '3'"),
        ([*SIMULATE, "--count", "1", "--silent-on", "=1"], "--silent-on '=1' names no version"),
        ([*SIMULATE, "--count", "1", "--dead-rate", "-1"], "--dead-rate '-1'"),
        ([*SIMULATE, "--count", "1", "--token", "a", "--token-secret-file", "/x"], "leave one out"),
        ([*SIMULATE, "--count", "1", "--token-secret-file", "/no/such"], "--token-secret-file"),
        ([*SIMULATE, "--gateway", "ftp://x"], "--gateway 'ftp://x'"),
        (["staus"], "there is no command 'staus'; did you mean status?"),
        (["xyz"], "there is no command 'xyz'; choose one of run, status, "),
        (["logs", "fw", "-n", "few"], "--tail 'few' is not a number of lines; write it as --tail=100"),
        (["logs", "fw", "--folow"], "usage: praetor-agent logs"),
        ([*SIMULATE, "--cuont", "1"], "unrecognized arguments: --cuont 1; did you mean --count?"),
    ],
)
def test_bad_input_names_the_flag_and_exits_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    old = arguments[0] == "simulate" and sys.version_info < (3, 11)
    assert ("simulate needs Python 3.11" if old else words) in capsys.readouterr().err


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


def test_status_shows_the_processes_of_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"deviceName": "leaf-1", "items": [item("fw", process_spec("sleep", "1"))]}
    desired = read_desired(body)
    State(tmp_path).save_desired("leaf-1", Received(etag='"e"', body=body, desired=desired))
    record = Record(
        uid="uid-fw", namespace="default", name="fw", stage=ProcessStage.WAITING,
        current=Revision(item=desired.items[0]),
        restart_count=3, exit_code=1, termination_reason="Error",
    )  # fmt: skip
    State(tmp_path).save_memory({"uid-fw": record})
    main(["status", "--state-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Device leaf-1: 1 process; the agent does not run"
    assert lines[1] == "Gateway: no report was sent yet"
    assert lines[2].split() == [
        "NAMESPACE", "NAME", "STATE", "HEALTH", "PID", "RESTARTS", "EXIT", "SPEC", "ARTIFACT", "MESSAGE",
    ]  # fmt: skip
    assert lines[3].split()[:7] == ["default", "fw", "Waiting", "Unhealthy", "-", "3", "1"]
    main(["status", "--state-dir", str(tmp_path), "-o", "json"])
    reported = json.loads(capsys.readouterr().out)
    assert (reported["device"], reported["desiredETag"]) == ("leaf-1", '"e"')
    assert reported["processes"][0]["restartCount"] == 3


@pytest.mark.parametrize("columns", ["80", "120", None])
def test_status_and_doctor_fit_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    tmp_path.chmod(0o755)
    body = {"deviceName": "leaf-1", "items": [item("telemetry-of-the-fabric", process_spec("sleep", "1"))]}
    desired = read_desired(body)
    State(tmp_path).save_desired("leaf-1", Received(etag='"e"', body=body, desired=desired))
    said = (
        "the artifact cannot be fetched: https://artifacts.example.com/telemetry.tar.gz answers 503 Service Unavailable"
    )
    record = Record(
        uid="uid-telemetry-of-the-fabric", namespace="network-telemetry", name="telemetry-of-the-fabric",
        stage=ProcessStage.WAITING, current=Revision(item=desired.items[0]),
        failure=Failure(reason="DownloadFailed", message=said),
    )  # fmt: skip
    State(tmp_path).save_memory({record.uid: record})
    main(["status", "--state-dir", str(tmp_path)])
    status = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["doctor", "--state-dir", str(tmp_path), "--gateway", URL, "--device", "leaf-1", "--token", "t"])
    doctor = capsys.readouterr().out
    assert f"chmod go-rw {tmp_path}" in doctor.replace("run: ", "run:\n")
    assert " ".join(said.split()) in " ".join(status.split())
    if columns is None:
        assert any("503 Service" in line and "telemetry-of-the-fabric" in line for line in status.splitlines())
    else:
        long = [line for line in (status + doctor).splitlines() if len(line) > int(columns)]
        assert [line for line in long if not line.startswith("    ") or len(line.split()) > 3] == []
        assert "STATE" in status


def test_status_of_a_device_without_a_desired_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--state-dir", str(tmp_path)])
    assert capsys.readouterr().out == (
        "Device -: no desired state was received yet; the agent does not run\nGateway: no report was sent yet\n"
    )
    with pytest.raises(SystemExit) as caught:
        main(["status", "--state-dir", str(tmp_path / "none")])
    assert caught.value.code == 1
    assert "--state-dir" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["install", "status", "doctor", "logs", "confirm", "upgrade", "uninstall"])
def test_the_help_of_a_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["help", command])
    assert caught.value.code == 0
    usage, purpose, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: praetor-agent {command}")
    assert purpose.endswith(".")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", [["status"], ["logs", "fw"], ["doctor", "--device", "leaf-1"]])
def test_files_that_only_root_can_read_are_no_damaged_ones(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        state = Path(name)
        state.chmod(0o755)
        State(state).save_memory({"u": Record(uid="u", namespace="default", name="fw")})
        (state / "memory.json").chmod(0o600)
        words = [*command, "--state-dir", name]
        with suppress(SystemExit):
            main(words)  # loads modules that another user may not read
        capsys.readouterr()
        os.seteuid(65534)
        try:
            with pytest.raises(SystemExit) as caught:
                main(words)
        finally:
            os.seteuid(0)
        said = "".join(capsys.readouterr())
    assert (caught.value.code, f"{name}/memory.json cannot be read: Permission denied; try as root" in said) == (
        1,
        True,
    )
    assert "damaged" not in said
