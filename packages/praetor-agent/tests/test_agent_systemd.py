# SPDX-License-Identifier: Apache-2.0
"""The backend `systemd` against a systemctl that keeps units in memory; a booted device proves the same in the lab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent_testing import command
from praetor_agent.backends.protocol import Owner
from praetor_agent.backends.systemd import SystemdBackend
from praetor_agent.errors import BackendError, StartError

COMMAND = command("/bin/fw", env={"PATH": "/bin", "SECRET": "s"})

SYSTEMCTL = """#!/bin/sh
echo "$*" >> {place}/calls
case "$2" in
  show) shift 3; for unit in "$@"; do echo "Id=$unit"; cat {place}/show; echo; done ;;
  disable) [ -e "{place}/units/$5" ] || {{ echo "Unit file $5 does not exist." >&2; exit 1; }} ;;
  restart) [ ! -e {place}/refuse ] || {{ echo "Job failed" >&2; exit 1; }} ;;
esac
"""


class Systemctl:
    """A systemctl on PATH that answers `show` with given properties and writes down what it was asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        program = place / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL.format(place=place))
        program.chmod(0o755)
        self.show({"ActiveState": "inactive"})

    def show(self, properties: Mapping[str, str]) -> None:
        (self.place / "show").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))

    def refuse(self) -> None:
        (self.place / "refuse").touch()

    @property
    def verbs(self) -> list[str]:
        return [line.split()[1] for line in (self.place / "calls").read_text().splitlines()]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    found = Systemctl(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found


@pytest.fixture
def backend(tmp_path: Path, systemctl: Systemctl) -> SystemdBackend:
    (tmp_path / "units").mkdir()
    return SystemdBackend(Owner("leaf-1"), tmp_path / "state", tmp_path / "units")


def units(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "units").iterdir())


def test_a_start_writes_the_unit_and_its_secret_environment(
    backend: SystemdBackend, systemctl: Systemctl, tmp_path: Path
) -> None:
    backend.start(COMMAND)
    (unit,) = units(tmp_path)
    environment = tmp_path / "state" / f"{unit.name}.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    assert environment.read_text() == 'PATH="/bin"\nSECRET="s"\n'
    assert "SECRET" not in unit.read_text()
    assert systemctl.verbs == ["daemon-reload", "enable", "restart"]


def test_an_unchanged_unit_is_not_loaded_again(backend: SystemdBackend, systemctl: Systemctl) -> None:
    backend.start(COMMAND)
    backend.start(COMMAND)
    assert systemctl.verbs.count("daemon-reload") == 1


def test_a_unit_that_was_written_but_not_loaded_is_loaded_before_it_is_started(
    backend: SystemdBackend, systemctl: Systemctl
) -> None:
    """As when the agent is killed in between: systemd would start what the unit was before."""
    backend.start(COMMAND)
    systemctl.show({"NeedDaemonReload": "yes"})
    backend.start(COMMAND)
    assert systemctl.verbs.count("daemon-reload") == 2
    assert systemctl.verbs[-1] == "restart"


def test_a_job_is_not_started_at_boot(backend: SystemdBackend, systemctl: Systemctl) -> None:
    backend.start(replace(COMMAND, at_boot=False))
    assert "disable" in systemctl.verbs


def test_a_running_unit_is_enabled_once_its_version_is_proven(backend: SystemdBackend, systemctl: Systemctl) -> None:
    backend.start(replace(COMMAND, at_boot=False))
    (unit,) = backend._units_of("u1")
    systemctl.show({"Id": unit, "ActiveState": "active", "SubState": "running", "MainPID": "7"})
    assert backend.observe()["u1"].at_boot is False
    before = len(systemctl.verbs)
    backend.repair(COMMAND)
    assert systemctl.verbs[before:] == ["daemon-reload", "enable"]
    assert backend.observe()["u1"].at_boot is True


def test_a_renamed_process_leaves_no_old_unit(backend: SystemdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.start(replace(COMMAND, name="other"))
    assert len(units(tmp_path)) == 1


def test_only_units_with_our_marker_are_seen(backend: SystemdBackend, tmp_path: Path) -> None:
    foreign = tmp_path / "units" / "praetor-foreign.service"
    foreign.write_text("[Unit]\nX-Praetor-UID=u1\n")
    assert backend.observe() == {}
    backend.stop("u1", grace_seconds=1, force=True)
    backend.remove("u1")
    assert foreign.exists()
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("owner", "renamed", "unknown"),
    [
        pytest.param(Owner("leaf-1", "i1"), False, False, id="own"),
        pytest.param(Owner("leaf-2", "i1"), True, False, id="another-name-of-this-device"),
        pytest.param(Owner("leaf-1", "i2"), False, True, id="another-installation"),
        pytest.param(Owner("leaf-1"), False, True, id="an-older-agent"),
    ],
)
def test_a_unit_says_whose_it_is_and_is_ours_once_it_was_written_again(
    systemctl: Systemctl, tmp_path: Path, owner: Owner, renamed: bool, unknown: bool
) -> None:
    (tmp_path / "units").mkdir()
    SystemdBackend(owner, tmp_path / "state", tmp_path / "units").start(COMMAND)
    unit = units(tmp_path)[0].name
    systemctl.show({"Id": unit, "ActiveState": "active", "SubState": "running", "MainPID": "7"})
    backend = SystemdBackend(Owner("leaf-1", "i1"), tmp_path / "state", tmp_path / "units")
    seen = backend.observe()["u1"]
    assert (seen.renamed, seen.unknown) == (renamed, unknown)
    assert seen.mark == f"unit {unit} of {owner.device}"
    started = systemctl.verbs.count("restart")
    backend.repair(COMMAND)
    seen = backend.observe()["u1"]
    assert (seen.renamed, seen.unknown, seen.edited) == (False, False, False)
    assert systemctl.verbs.count("restart") == started


def test_a_foreign_unit_of_the_same_name_is_left_alone(backend: SystemdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    (unit,) = units(tmp_path)
    unit.write_text("[Service]\n")
    with pytest.raises(StartError, match="was not written by praetor-agent"):
        backend.start(COMMAND)
    assert unit.read_text() == "[Service]\n"


@pytest.mark.parametrize(
    ("properties", "running", "code", "reason"),
    [
        pytest.param({"ActiveState": "active", "SubState": "running", "MainPID": "7"}, True, None, None, id="running"),
        pytest.param({"ActiveState": "deactivating", "MainPID": "7"}, True, None, None, id="stopping"),
        pytest.param(
            {"ActiveState": "active", "SubState": "exited", "ExecMainCode": "1", "ExecMainStatus": "0"},
            False, 0, "Completed", id="completed",
        ),
        pytest.param(
            {"ActiveState": "failed", "ExecMainCode": "1", "ExecMainStatus": "3"}, False, 3, "Error", id="failed"
        ),
        pytest.param(
            {"ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9"},
            False, 137, "Signal:SIGKILL", id="killed",
        ),
        pytest.param(
            {"ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9", "Result": "oom-kill"},
            False, 137, "OOMKilled", id="out of memory",
        ),
        pytest.param(
            {"ActiveState": "inactive", "ExecMainStartTimestampMonotonic": "0"}, False, None, None, id="never ran"
        ),
    ],
)  # fmt: skip
def test_what_systemd_shows_is_understood(
    backend: SystemdBackend,
    systemctl: Systemctl,
    properties: dict[str, str],
    running: bool,
    code: int | None,
    reason: str | None,
) -> None:
    backend.start(COMMAND)
    systemctl.show({"ExecMainStartTimestampMonotonic": "5", "InvocationID": "abc", "MainPID": "0"} | properties)
    seen = backend.observe()["u1"]
    assert (seen.running, seen.exit_code, seen.termination_reason) == (running, code, reason)
    assert (seen.spec_hash, seen.handle) == ("v1", "abc")
    assert (seen.watch == 7) is running


def test_a_program_that_cannot_be_executed_is_reported(backend: SystemdBackend, systemctl: Systemctl) -> None:
    systemctl.refuse()
    systemctl.show({"ExecMainStatus": "203"})
    with pytest.raises(StartError, match="status=203/EXEC"):
        backend.start(COMMAND)
    systemctl.show({"ExecMainStatus": "1"})
    with pytest.raises(StartError, match="Job failed"):
        backend.start(COMMAND)


def test_a_stop_leaves_the_grace_to_systemd_and_force_kills_the_group(
    backend: SystemdBackend, systemctl: Systemctl
) -> None:
    backend.start(COMMAND)
    backend.stop("u1", grace_seconds=5, force=False)
    assert systemctl.verbs[-1] == "stop"
    backend.stop("u1", grace_seconds=5, force=True)
    assert systemctl.verbs[-2:] == ["stop", "kill"]


def test_an_edited_unit_is_noticed_and_set_right_without_a_restart(
    backend: SystemdBackend, systemctl: Systemctl, tmp_path: Path
) -> None:
    backend.start(COMMAND)
    (unit,) = units(tmp_path)
    text = unit.read_text()
    assert not backend.observe()["u1"].edited
    for edit in (lambda: unit.write_text(text + "Nice=5\n"), unit.unlink):
        edit()
        assert backend.observe()["u1"].edited
        backend.repair(COMMAND)
        assert unit.read_text() == text
        assert not backend.observe()["u1"].edited
    assert systemctl.verbs.count("restart") == 1


def test_removing_leaves_nothing(backend: SystemdBackend, systemctl: Systemctl, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.remove("u1")
    assert units(tmp_path) == []
    assert list((tmp_path / "state").iterdir()) == []
    assert systemctl.verbs[-2:] == ["daemon-reload", "reset-failed"]


@pytest.mark.parametrize(("state", "stops"), [("inactive", 0), ("active", 1)])
def test_what_is_left_of_a_unit_whose_file_is_gone_is_removed(
    backend: SystemdBackend, systemctl: Systemctl, tmp_path: Path, state: str, stops: int
) -> None:
    """As when the agent is killed while it removes one, or the file was removed."""
    backend.start(COMMAND)
    units(tmp_path)[0].unlink()
    systemctl.show({"ActiveState": state, "SubState": "exited"})
    assert backend.observe().keys() == {"u1"}
    backend.remove("u1")
    assert list((tmp_path / "state").iterdir()) == []
    assert systemctl.verbs.count("stop") == stops
    assert backend.observe() == {}


def test_a_systemd_that_does_not_answer_is_an_error_and_keeps_its_unit(
    backend: SystemdBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.start(COMMAND)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="systemctl disable"):
        backend.remove("u1")
    assert len(units(tmp_path)) == 1
    with pytest.raises(BackendError, match="systemctl show"):
        backend.observe()
