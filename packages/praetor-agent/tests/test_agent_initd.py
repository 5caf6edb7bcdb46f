# SPDX-License-Identifier: Apache-2.0
"""Init scripts, run by real shells; a booted SysV device proves the same in the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_testing import WITHIN_SECONDS, command, until
from praetor_agent.backends import procfs
from praetor_agent.backends.initd import InitdBackend, Places, quote, read_marks, render_script
from praetor_agent.backends.protocol import Owner, own_name
from praetor_agent.errors import StartError

BOOT = procfs.boot_id() or ""
COMMAND = command("/bin/sleep", "1000", env={"PATH": "/bin:/usr/bin", "SECRET": "s"})
PLACES = Places(place="/p", shim="/s", python="/py")
SHELLS = [shell for shell in (("/bin/sh",), ("/bin/bash", "--posix"), ("/bin/busybox", "sh")) if shutil.which(shell[0])]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NASTY = ("", "'", "''", "$(touch /tmp/x)", "`id`", "\\", "\n", "a\nb'c", "-e", "${IFS}", '"', "*", "!", "\t", "é", "%s")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[InitdBackend]:
    (tmp_path / "init.d").mkdir()
    backend = InitdBackend(Owner("leaf-1"), tmp_path / "it's a $state", BOOT, tmp_path / "init.d")
    yield backend
    for uid in backend.observe():
        backend.stop(uid, grace_seconds=0, force=True)


def the_script(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "init.d").iterdir()
    return path


def call(path: Path, verb: str, shell: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*shell, str(path), verb), capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False
    )


def group_is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(pid, 0)
        return True
    return False


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@settings(max_examples=20)
@given(words=st.lists(st.one_of(TEXT, st.sampled_from(NASTY)), min_size=60, max_size=100))
def test_quoted_words_come_out_of_a_real_shell_unchanged(shell: tuple[str, ...], words: list[str]) -> None:
    program = "printf '%s\\0' " + " ".join(map(quote, words))
    done = subprocess.run((*shell, "-c", program), capture_output=True, timeout=WITHIN_SECONDS, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


@given(name=TEXT, namespace=TEXT, uid=TEXT, place=TEXT)
def test_what_a_spec_names_never_becomes_a_command(name: str, namespace: str, uid: str, place: str) -> None:
    plain = render_script(COMMAND, Owner("leaf-1", "i1"), PLACES)
    try:
        launch = replace(COMMAND, name=name, namespace=namespace, uid=uid)
        text = render_script(launch, Owner("leaf-1", "i1"), replace(PLACES, place=place))
    except StartError:
        assert not (name + namespace + uid).isprintable()
        return
    assert read_marks(text) == (uid, Owner("leaf-1", "i1"))
    text = text.replace(f"dir={quote(place)}\n", "dir='/p'\n").replace(own_name(name, uid), own_name("fw", "u1"))
    commands = [line for line in text.split("\n") if not line.startswith("#")]
    assert commands == [line for line in plain.split("\n") if not line.startswith("#")]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_script_starts_shows_and_stops_it(backend: InitdBackend, tmp_path: Path, shell: tuple[str, ...]) -> None:
    backend.start(COMMAND)
    path, first = the_script(tmp_path), backend.observe()["u1"]
    assert first.running
    assert call(path, "status", shell).stdout == f"{path.name} runs, process {first.pid}\n"
    assert call(path, "start", shell).returncode == 0
    assert backend.observe()["u1"] == first, "a second start starts nothing"
    assert call(path, "stop", shell).returncode == 0
    until(lambda: not backend.observe()["u1"].running, "its stage to write how it ended")
    ended = backend.observe()["u1"]
    assert (ended.running, ended.termination_reason) == (False, "Signal:SIGTERM")
    assert call(path, "status", shell).returncode == 3
    assert call(path, "start", shell).returncode == 0
    assert backend.observe()["u1"].running
    assert call(path, "nonsense", shell).returncode == 2


def test_a_script_is_for_init_once_the_version_is_proven(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(replace(COMMAND, at_boot=False))
    on_trial = backend.observe()["u1"]
    backend.repair(COMMAND)
    proven = backend.observe()["u1"]
    assert (on_trial.at_boot, proven.at_boot, proven.edited) == (False, True, False)
    assert proven.handle == on_trial.handle
    assert "not init at boot" not in the_script(tmp_path).read_text()


def test_two_starts_at_once_make_one_process(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    path = the_script(tmp_path)
    call(path, "stop")
    starts = [subprocess.Popen((str(path), "start"), stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [start.wait(30) for start in starts] == [0, 0, 0, 0]
    pids = set(procfs.marked("u1", backend.place("u1")))
    seen = backend.observe()["u1"]
    assert pids == {seen.pid}  # a stage that init started carries no marker


def test_a_reused_pid_is_not_mistaken_for_ours(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.stop("u1", grace_seconds=0, force=True)
    until(lambda: not backend.observe()["u1"].running, "its end")
    run = backend.place("u1") / "run"
    lines = run.read_text().split("\n")
    lines[3] = f"{os.getpid()} 1"
    run.write_text("\n".join(lines))
    assert call(the_script(tmp_path), "status").returncode == 3
    assert call(the_script(tmp_path), "stop").returncode == 0
    assert not backend.observe()["u1"].running


def test_an_init_that_starts_it_under_another_boot_is_understood(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.stop("u1", grace_seconds=0, force=True)
    until(lambda: not backend.observe()["u1"].running, "its end")
    run = backend.place("u1") / "run"
    run.write_text(run.read_text().replace(BOOT, "an-earlier-boot"))
    assert not backend.observe()["u1"].running
    assert call(the_script(tmp_path), "start").returncode == 0
    assert backend.observe()["u1"].running


def test_the_environment_is_secret_and_not_in_the_script(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    assert (backend.place("u1") / "job").stat().st_mode & 0o777 == 0o600
    assert "SECRET" not in the_script(tmp_path).read_text()


def test_a_program_that_is_missing_is_reported(backend: InitdBackend) -> None:
    with pytest.raises(StartError, match=r"cannot execute '/no/such'.*No such file"):
        backend.start(replace(COMMAND, argv=("/no/such",)))


def test_an_edited_script_is_noticed_and_rewritten(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    path, before = the_script(tmp_path), backend.observe()["u1"]
    assert not before.edited
    path.write_text(path.read_text() + "# mine\n")
    assert backend.observe()["u1"].edited
    backend.repair(COMMAND)
    assert backend.observe()["u1"] == before


def test_a_foreign_script_is_left_alone(backend: InitdBackend, tmp_path: Path) -> None:
    path = tmp_path / "init.d" / own_name("fw", "u1")
    path.write_text("#!/bin/sh\n")
    with pytest.raises(StartError, match="was not written by praetor-agent"):
        backend.start(COMMAND)
    assert path.read_text() == "#!/bin/sh\n"
    assert backend.observe() == {}


def test_a_script_that_was_written_but_never_started_is_removed(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.stop("u1", grace_seconds=0, force=True)
    (backend.place("u1") / "run").unlink()
    assert not backend.observe()["u1"].running
    backend.remove("u1")
    assert list((tmp_path / "init.d").iterdir()) == []
    assert backend.observe() == {}


def test_the_tail_of_the_output_is_kept(backend: InitdBackend) -> None:
    backend.start(replace(COMMAND, argv=("/bin/sh", "-c", "echo first; echo last")))
    until(lambda: not backend.observe()["u1"].running, "its end")
    assert backend.tail("u1", 5) == "last\n"
    assert backend.tail("u2", 5) == ""


def test_a_renamed_process_leaves_no_old_script(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(COMMAND)
    backend.stop("u1", grace_seconds=0, force=True)
    until(lambda: not backend.observe()["u1"].running, "its end")
    backend.start(replace(COMMAND, name="other"))
    assert the_script(tmp_path).name == own_name("other", "u1")


def test_stopping_reaches_a_process_that_ignores_the_request(backend: InitdBackend, tmp_path: Path) -> None:
    backend.start(replace(COMMAND, argv=("/bin/sh", "-c", "trap '' TERM; sleep 1000"), grace_seconds=1))
    pid = backend.observe()["u1"].pid or 0
    assert call(the_script(tmp_path), "stop").returncode == 0
    until(lambda: not group_is_there(pid), "the group to end")


@pytest.mark.parametrize(
    ("owner", "renamed", "unknown"),
    [
        pytest.param(Owner("leaf-1", "i1"), False, False, id="own"),
        pytest.param(Owner("leaf-2", "i1"), True, False, id="another-name-of-this-device"),
        pytest.param(Owner("leaf-1", "i2"), False, True, id="another-installation"),
        pytest.param(Owner("leaf-1"), False, True, id="an-older-agent"),
    ],
)
def test_a_script_says_whose_it_is_and_is_ours_once_it_was_written_again(
    tmp_path: Path, owner: Owner, renamed: bool, unknown: bool
) -> None:
    (tmp_path / "init.d").mkdir(exist_ok=True)
    InitdBackend(owner, tmp_path / "state", BOOT, tmp_path / "init.d").start(COMMAND)
    backend = InitdBackend(Owner("leaf-1", "i1"), tmp_path / "state", BOOT, tmp_path / "init.d")
    try:
        seen = backend.observe()["u1"]
        assert (seen.running, seen.renamed, seen.unknown) == (True, renamed, unknown)
        backend.repair(COMMAND)
        again = backend.observe()["u1"]
        assert (again.pid, again.renamed, again.unknown, again.edited) == (seen.pid, False, False, False)
    finally:
        backend.stop("u1", grace_seconds=0, force=True)


def test_what_runs_from_another_state_directory_is_stopped_before_its_script_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "init.d").mkdir(exist_ok=True)
    lost = InitdBackend(Owner("leaf-1", "i1"), tmp_path / "lost", BOOT, tmp_path / "init.d")
    lost.start(COMMAND)
    pid = lost.observe()["u1"].pid
    backend = InitdBackend(Owner("leaf-1", "i2"), tmp_path / "state", BOOT, tmp_path / "init.d")
    backend.start(COMMAND)
    try:
        assert backend.observe()["u1"].running
        assert pid is not None
        assert procfs.start_ticks(pid) is None
    finally:
        backend.stop("u1", grace_seconds=0, force=True)
