# SPDX-License-Identifier: Apache-2.0
"""`install` and `uninstall` with a systemctl that does nothing; booted devices prove the same in the lab."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_testing import FakeGateway, command, end_processes
from praetor_agent.__about__ import __version__
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.cli import main
from praetor_agent.files.store import FileStore
from praetor_agent.service import installation
from praetor_agent.state import Received, State, lock_directory
from praetor_api.files import File
from praetor_api.protocol import DesiredItem, read_desired
from praetor_api.spec import Backend, Execution, ProcessSpec

DOCKER = """#!/bin/sh
[ ! -e {place}/dead ] || {{ echo "Cannot connect to the Docker daemon" >&2; exit 1; }}
"""


class InitSystem:
    """A device below *place* with systemd and docker, whose daemon may be dead."""

    def __init__(self, place: Path) -> None:
        self.place, self.root, self.state = place, place / "root", place / "state"
        self.unit, self.command = place / "praetor-agent.service", place / "bin" / "praetor-agent"
        (place / "bin").mkdir()
        for name, text in (("systemctl", "#!/bin/sh\n"), ("docker", DOCKER.format(place=place))):
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)

    def install(self, *flags: str) -> None:
        main(["install", "--init", "systemd", "--root", str(self.root), "--gateway", "http://127.0.0.1:1",
              "--device", "leaf-1", "--state-dir", "state", *flags])  # fmt: skip

    def uninstall(self, *flags: str) -> None:
        main(["uninstall", "--root", str(self.root), *flags])

    def run(self) -> ProcessBackend:
        """Have one process run, and state as an agent leaves it."""
        self.state.mkdir(exist_ok=True)
        body: dict[str, object] = {"deviceName": "leaf-1", "items": []}
        State(self.state).save_desired("leaf-1", Received(etag=None, body=body, desired=read_desired(body)))
        backend = ProcessBackend(self.state / "processes", procfs.boot_id() or "")
        backend.start(command("/bin/sleep", "1000"))
        return backend


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InitSystem]:
    device = InitSystem(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PRAETOR_AGENT_CONTAINER_RUNTIME", "docker")
    monkeypatch.setattr(installation, "UNIT", device.unit)
    monkeypatch.setattr(installation, "COMMAND", device.command)
    monkeypatch.setattr(installation, "SCRIPT", tmp_path / "no-script")
    yield device
    end_processes(device.state)


def complaint(capsys: pytest.CaptureFixture[str], status: object) -> str:
    assert status == 1
    return capsys.readouterr().err


def test_the_service_finds_every_file_wherever_install_was_called(device: InitSystem) -> None:
    for name in ("auth.json", "ca.pem", "artifacts.pem", "token"):
        (device.place / name).touch(mode=0o600)
    (device.place / "token").write_text("t0ken\n")
    device.install(
        "--token-file", "token", "--ca-bundle", "ca.pem", "--hold-file", "hold",
        "--registry-auth-file", "auth.json", "--artifact-ca-bundle", "artifacts.pem",
    )  # fmt: skip
    kept = dict(line.split("=", 1) for line in (device.root / "agent.env").read_text().splitlines())
    for variable, name in (
        ("STATE_DIR", "state"), ("TOKEN_FILE", "root/token"), ("CA_BUNDLE", "ca.pem"), ("HOLD_FILE", "hold"),
        ("REGISTRY_AUTH_FILE", "auth.json"), ("ARTIFACT_CA_BUNDLE", "artifacts.pem"),
    ):  # fmt: skip
        assert kept[f"PRAETOR_AGENT_{variable}"] == str(device.place / name)
    assert (device.root / "agent.env").stat().st_mode & 0o777 == 0o600
    assert (device.root / "token").stat().st_mode & 0o777 == 0o600
    (device.place / "token").unlink()  # an uploaded copy
    assert (device.root / "token").read_text() == "t0ken\n"


def test_the_token_may_come_by_standard_input_so_that_no_copy_of_it_is_left(
    device: InitSystem, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("t0ken\n"))
    device.install("--token-file", "-")
    assert (device.root / "token").read_text() == "t0ken\n"
    assert (device.root / "token").stat().st_mode & 0o777 == 0o600
    assert f"PRAETOR_AGENT_TOKEN_FILE={device.root / 'token'}\n" in (device.root / "agent.env").read_text()

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as caught:
        device.install("--token-file", "-")
    assert caught.value.code == 2
    assert "--token-file -: standard input holds no token; pipe" in capsys.readouterr().err
    assert (device.root / "token").read_text() == "t0ken\n"


def test_the_service_does_not_wait_for_the_network(device: InitSystem) -> None:
    device.install()
    lines = device.unit.read_text().splitlines()
    assert [line for line in lines if line.startswith(("After=", "Wants=", "Requires="))] == ["After=network.target"]


def test_an_upgrade_writes_the_service_as_the_new_version_expects_it(
    device: InitSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install()
    expected = device.unit.read_text()
    device.unit.write_text(expected.replace("After=network.target", "After=network-online.target"))
    monkeypatch.setattr(installation, "_put", lambda *_: "another")
    monkeypatch.setattr(installation, "TRIAL_SECONDS", -31)  # the new version does not come up here
    with pytest.raises(SystemExit):
        main(["upgrade", "--root", str(device.root)])
    assert device.unit.read_text() == expected


def test_an_upgrade_to_a_file_that_is_not_there_says_so(
    device: InitSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device.install()
    with pytest.raises(SystemExit) as caught:
        main(["upgrade", "--root", str(device.root), str(tmp_path / "nope.pyz")])
    said = complaint(capsys, caught.value.code)
    assert said.endswith(f"cannot upgrade {__version__}: {tmp_path}/nope.pyz: No such file or directory\n")


def test_the_command_is_on_path_and_asks_the_installed_version(device: InitSystem) -> None:
    device.install()
    done = subprocess.run((device.command, "--version"), capture_output=True, text=True, check=True)
    assert done.stdout == f"praetor-agent {__version__}\n"
    status = subprocess.run((device.command, "doctor"), capture_output=True, text=True, check=False)
    assert "http://127.0.0.1:1" in status.stdout  # the settings of that installation
    device.uninstall()
    assert not device.command.exists()
    device.command.write_text("#!/bin/sh\n# by pip\n")
    device.install()
    device.uninstall()
    assert device.command.read_text() == "#!/bin/sh\n# by pip\n"


def test_an_uninstall_that_a_dead_container_runtime_stops_ends_the_rest_and_can_be_repeated(
    device: InitSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    device.install()
    backend = device.run()
    (device.place / "dead").touch()
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            device.uninstall("--remove-processes")
        reported = complaint(capsys, caught.value.code)
        assert "not all processes could be removed: docker ps failed (1): Cannot connect to the Docker" in reported
        assert (backend.observe(), device.unit.exists(), device.state.exists()) == ({}, False, True)
    (device.place / "dead").unlink()
    device.uninstall("--remove-processes")
    assert "are removed" in capsys.readouterr().out
    assert not device.root.exists()
    assert not device.state.exists()


def test_what_an_uninstall_left_running_can_be_removed_later(device: InitSystem) -> None:
    device.install()
    backend = device.run()
    (device.place / "etc").mkdir()
    theirs, ours = device.place / "etc" / "theirs", device.place / "etc" / "ours"
    theirs.write_text("mine")
    execution = Execution(backend=Backend.PROCESS, files=(File(path=str(ours), content="x"),))
    item = DesiredItem(uid="u1", namespace="net", name="fw", spec=ProcessSpec(execution=execution), spec_hash="v1")
    FileStore(device.state / "files", device.state / "files.json", [str(device.place / "etc")]).write(item)
    device.uninstall()
    assert backend.observe()["u1"].running
    assert ours.exists()
    device.uninstall("--remove-processes")
    assert not backend.observe()
    assert not device.state.exists()
    assert [path.name for path in (device.place / "etc").iterdir()] == ["theirs"]


@pytest.mark.parametrize("flags", [(), ("--remove-processes",)])
def test_without_an_installation_nothing_is_touched(
    device: InitSystem, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    device.unit.write_text("of another root\n")
    with pytest.raises(SystemExit) as caught:
        device.uninstall(*flags)
    assert f"no agent is installed in {device.root}" in complaint(capsys, caught.value.code)
    assert device.unit.exists()


def test_processes_are_not_removed_while_an_agent_would_start_them_again(
    device: InitSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    device.install()
    backend = device.run()
    lock = lock_directory(device.state)
    with pytest.raises(SystemExit) as caught:
        device.uninstall("--remove-processes")
    os.close(lock)
    assert f"an agent runs with {device.state}" in complaint(capsys, caught.value.code)
    assert backend.observe()["u1"].running


def test_install_says_whether_the_gateway_answers_and_closes_the_state_directory(
    device: InitSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    device.state.mkdir()
    device.state.chmod(0o755)
    device.install()
    said = capsys.readouterr()
    assert said.out.endswith(f"; {device.state} was readable for others and has mode 0711 now\n")
    assert said.err.startswith(
        "praetor-agent install: the agent runs and tries again, but the gateway does not answer: "
    )
    assert "firewalls" in said.err
    assert device.state.stat().st_mode & 0o777 == 0o711
    with pytest.raises(SystemExit) as caught:
        device.install("--require-gateway")
    assert caught.value.code == 3
    assert device.unit.exists()
    capsys.readouterr()
    with FakeGateway(token="t") as gateway:
        device.install("--gateway", gateway.url, "--token", "t", "--require-gateway")
        said = capsys.readouterr()
        assert said.out.endswith(" and runs as praetor-agent.service\n")
        assert said.err == ""


def test_an_uninstall_names_each_thing_that_it_keeps(device: InitSystem, capsys: pytest.CaptureFixture[str]) -> None:
    (device.place / "token").write_text("t\n")
    (device.place / "token").chmod(0o600)
    device.install("--token-file", "token")
    capsys.readouterr()
    device.uninstall()
    kept = f"{device.state}, {device.root}/agent.env and the token in {device.root}/token are kept\n"
    assert capsys.readouterr().out.endswith(kept)


def test_an_installed_version_that_is_installed_again_is_the_same_one(device: InitSystem) -> None:
    device.install()
    whole = shutil.copytree((device.root / "current").resolve(), device.place / "whole")
    (whole / "praetor_agent.dist-info" / "licenses").mkdir(parents=True)
    (whole / "praetor_agent.dist-info" / "licenses" / "LICENSE").write_text("free\n")
    archive = Path(shutil.make_archive(str(device.place / "agent"), "zip", whole))
    version = installation._put(device.root, archive)
    place = device.root / "versions" / version
    code = (
        f"import sys; sys.path.insert(0, {str(place)!r})\nfrom pathlib import Path\n"
        f"from praetor_agent.service import installation\nprint(installation._put(Path({str(device.root)!r})))"
    )
    again = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout
    assert again == f"{version}\n"
    assert (place / "praetor_agent.dist-info" / "licenses" / "LICENSE").read_text() == "free\n"
