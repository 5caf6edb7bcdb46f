# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from agent_testing import FakeGateway, Fault, command, item, process_spec
from praetor_agent.artifacts.files import FileSource
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.cli import main
from praetor_agent.core.model import Record
from praetor_agent.service.doctor import Check, _marks, checks
from praetor_agent.settings import RunSettings
from praetor_agent.state import Received, State, lock_directory
from praetor_api.protocol import read_desired
from praetor_api.spec import Artifact, ArtifactType


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway(token="t") as gateway:
        yield gateway


def looked(gateway: str, state: Path, token: str = "t") -> dict[str, Check]:  # noqa: S107
    state.mkdir(exist_ok=True, mode=0o700)
    file = state.parent / "token"
    file.write_text(token)
    file.chmod(0o600)
    settings = RunSettings(gateway=gateway, device="leaf-1", state_dir=state, token_file=file)
    return {check.name: check for check in checks(settings)}


def test_a_good_host_passes_every_check(gateway: FakeGateway, tmp_path: Path) -> None:
    found = looked(gateway.url, tmp_path / "state")
    assert {name: found[name].verdict for name in ("python", "state", "token", "process", "gateway", "clock")} == (
        dict.fromkeys(("python", "state", "token", "process", "gateway", "clock"), "ok")
    )
    assert not list((tmp_path / "state").glob("doctor*"))
    assert gateway.reports == []


def test_a_refused_token_and_an_unreachable_gateway_are_distinguished(gateway: FakeGateway, tmp_path: Path) -> None:
    refused = looked(gateway.url, tmp_path / "state", "wrong")["gateway"]
    assert (refused.verdict, "praetorctl devices token" in refused.remedy) == ("fault", True)
    away = looked("http://127.0.0.1:1", tmp_path / "state")["gateway"]
    assert (away.verdict, "firewalls" in away.remedy) == ("fault", True)
    gateway.fail(Fault(path="/desired", status=404))
    assert "not from a Praetor gateway" in looked(gateway.url, tmp_path / "state")["gateway"].remedy


def test_a_gateway_without_tls_is_reported(gateway: FakeGateway, tmp_path: Path) -> None:
    assert "--ca-bundle" in looked(gateway.url.replace("http:", "https:"), tmp_path / "state")["gateway"].remedy


@pytest.mark.parametrize(("hours", "verdict"), [(1, "warning"), (-1, "warning"), (0, "ok")])
def test_a_clock_that_differs_from_the_gateways_is_reported(
    gateway: FakeGateway, tmp_path: Path, hours: int, verdict: str
) -> None:
    date = format_datetime(datetime.now(timezone.utc) - timedelta(hours=hours), usegmt=True)
    gateway.fail(Fault(path="/desired", status=200, headers={"Date": date}))
    assert looked(gateway.url, tmp_path / "state")["clock"].verdict == verdict


def test_damaged_memory_an_open_directory_and_a_readable_token_are_reported(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    (state / "memory.json").write_text("torn")
    found = looked(gateway.url, state)
    assert found["state"].remedy == f"run: chmod go-rw {state}"
    assert "memory.json" in found["memory"].message
    (tmp_path / "token").chmod(0o644)
    settings = RunSettings(gateway=gateway.url, device="leaf-1", state_dir=state, token_file=tmp_path / "token")
    (token,) = (check for check in checks(settings) if check.name == "token")
    assert (token.verdict, token.remedy) == ("fault", f"run: chmod 600 {tmp_path / 'token'}")


def test_a_backend_that_is_missing_is_a_fault_only_where_it_is_asked_for(gateway: FakeGateway, tmp_path: Path) -> None:
    state = tmp_path / "state"
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("this machine has systemd")
    assert looked(gateway.url, state)["systemd"].verdict == "ok"
    body = {"deviceName": "leaf-1", "items": [item("a", process_spec("x", execution={"backend": "systemd"}))]}
    State(state).save_desired("leaf-1", Received(etag=None, body=body, desired=read_desired(body)))
    assert looked(gateway.url, state)["systemd"].verdict == "fault"


def test_a_freeze_and_an_almost_full_store_are_reported_with_a_remedy(gateway: FakeGateway, tmp_path: Path) -> None:
    hold, state = tmp_path / "hold", tmp_path / "state"
    settings = RunSettings(
        gateway=gateway.url, device="leaf-1", state_dir=state, token="t", freeze_file=hold, artifact_store_bytes=4 << 20
    )
    before = {check.name: check for check in checks(settings)}
    assert (before["hold"].verdict, before["artifacts"].verdict) == ("ok", "ok")
    assert before["artifacts"].message == "artifacts use 0MiB of 4MiB"
    hold.write_text("ask the night shift\n")
    (tmp_path / "app").write_bytes(bytes(3800 << 10))
    app = Artifact(type=ArtifactType.FILE, url=str(tmp_path / "app"))
    ArtifactStore(state / "artifacts", max_bytes=4 << 20).add(app, FileSource().fetch)
    found = {check.name: check for check in checks(settings)}
    assert found["hold"].message == f"nothing is changed: held by {hold}: ask the night shift"
    assert (found["hold"].verdict, found["hold"].remedy) == ("warning", f"remove {hold} to allow changes")
    assert found["artifacts"].message == "artifacts use 3MiB of 4MiB"
    assert found["artifacts"].remedy == "a new one may have no room; raise --artifact-store-size"


def test_a_running_agent_is_reported(gateway: FakeGateway, tmp_path: Path) -> None:
    assert "does not run" in looked(gateway.url, tmp_path / "state")["agent"].message
    lock = lock_directory(tmp_path / "state")
    assert "an agent runs" in looked(gateway.url, tmp_path / "state")["agent"].message
    os.close(lock)


def test_the_command_reports_by_its_exit_status_and_as_json(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["doctor", "--device", "leaf-1", "--token", "t", "--state-dir", str(tmp_path)]
    main([*common, "--gateway", gateway.url, "-o", "json"])
    assert {"name": "clock", "verdict": "ok"}.items() <= json.loads(capsys.readouterr().out)[-1].items()
    with pytest.raises(SystemExit) as caught:
        main([*common, "--gateway", "http://127.0.0.1:1"])
    assert caught.value.code == 1
    assert "fault" in capsys.readouterr().out


def test_the_settings_of_an_installed_agent_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "agent.env").write_text(f"PRAETOR_AGENT_STATE_DIR={tmp_path}\n")
    environment = {"PRAETOR_AGENT_ROOT": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "praetor_agent", "status"], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("Device -: no desired state was received yet")


def test_the_mode_that_processes_of_other_users_need_is_no_fault(gateway: FakeGateway, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o711)
    assert looked(gateway.url, state)["state"].verdict == "ok"
    for mode in (0o715, 0o731):
        state.chmod(mode)
        assert looked(gateway.url, state)["state"].verdict == "warning"


def test_what_another_name_or_installation_started_is_named(gateway: FakeGateway, tmp_path: Path) -> None:
    state = tmp_path / "state"
    old = ProcessBackend(state / "processes", procfs.boot_id() or "", device="leaf-0")
    old.start(command("/bin/sleep", "1000"))
    try:
        settings = RunSettings(gateway=gateway.url, device="leaf-1", state_dir=state)
        renamed = next(each for each in checks(settings) if each.name == "marks" and str(state) in each.message)
        assert (renamed.verdict, "of another name of this device" in renamed.message) == ("warning", True)
        assert "names a process for leaf-1" in renamed.remedy
        foreign = replace(old.observe()["u1"], unknown=True, mark="unit praetor-x.service of leaf-0")
        (found,) = _marks("leaf-1", {"u1": foreign}, {})
        assert found.message == "unit praetor-x.service of leaf-0 was not started by this installation"
        assert not [*_marks("leaf-1", {"u1": replace(foreign, renamed=False)}, {"u1": Record(uid="u1")})]
    finally:
        old.stop("u1", grace_seconds=0, force=True)


def test_every_check_is_made_whatever_is_wrong(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--token-file", "/no/such", "--ca-bundle", "/no/ca", "--device", "A_b", "--state-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *flags, "-o", "json"])
    assert caught.value.code == 1
    found = json.loads(capsys.readouterr().out)
    wrong = [check["message"] for check in found if check["name"] == "settings"]
    for flag in ("--ca-bundle /no/ca", "--gateway is missing", "--device 'A_b'"):
        assert any(message.startswith(flag) for message in wrong), flag
    names = {check["name"] for check in found}
    assert names >= {"python", "state", "disk", "artifacts", "hold", "process", "token", "gateway"}
    token = next(check for check in found if check["name"] == "token")
    assert (token["verdict"], "/no/such cannot be read" in token["message"]) == ("fault", True)


def test_a_check_that_cannot_be_carried_out_is_a_fault_and_ends_no_other(gateway: FakeGateway, tmp_path: Path) -> None:
    settings = RunSettings(gateway=gateway.url, device="leaf-1", state_dir=tmp_path / ("x" * 300), token="t")
    found = {check.name: check for check in checks(settings)}
    assert (found["state"].verdict, "File name too long" in found["state"].message) == ("fault", True)
    assert found["gateway"].verdict == "ok"


def test_before_an_installation_every_check_is_made_and_the_command_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--state-dir", str(tmp_path / "none"), "-o", "json"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert (found["agent"]["verdict"], found["agent"]["remedy"]) == ("warning", "run: praetor-agent install")
    assert found["token"]["remedy"] == "give it with --token-file"
    assert found["clock"]["message"] == "cannot be compared without an answer of the gateway"
