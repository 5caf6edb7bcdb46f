# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent logs` of real processes; units and containers have it tested where they are real."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, command, end_processes, item, process_spec
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.cli import main
from praetor_agent.core.model import ProcessStage, Record, Revision
from praetor_agent.state import State
from praetor_api.protocol import read_desired


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ProcessBackend]:
    """The processes of a device that knows one, named fw."""
    body = {"deviceName": "leaf-1", "items": [item("fw", process_spec("sleep", "1"), uid="u1")]}
    (known,) = read_desired(body).items
    record = Record(uid="u1", namespace="default", name="fw", stage=ProcessStage.RUNNING, current=Revision(item=known))
    State(tmp_path).save_memory({"u1": record, "u2": Record(uid="u2", namespace="default", name="new")})
    yield ProcessBackend(tmp_path / "processes", procfs.boot_id() or "", log_bytes=1000)
    end_processes(tmp_path)


def shown(state: Path, *words: str) -> bytes:
    program = (sys.executable, "-m", "praetor_agent", "logs", *words, "--state-dir", str(state))
    return subprocess.run(program, capture_output=True, check=True, timeout=WITHIN_SECONDS).stdout


def ended(backend: ProcessBackend, script: str) -> None:
    backend.start(command("/bin/sh", "-c", script))
    while backend.observe()["u1"].running:
        pass


def test_the_output_is_shown_byte_for_byte_over_both_files(backend: ProcessBackend, tmp_path: Path) -> None:
    ended(backend, r"printf '\033\377\n'; echo err >&2")
    assert shown(tmp_path, "fw") == b"\x1b\xff\nerr\n"
    ended(backend, "i=1; while [ $i -le 300 ]; do echo $i; i=$((i + 1)); done")
    found = shown(tmp_path, "fw", "--namespace", "default")
    assert found.endswith(b"299\n300\n")
    assert 500 <= len(found) <= 1000


@pytest.mark.parametrize(("lines", "first"), [(3, 298), (1, 300), (0, None), (190, 111), (100000, None)])
def test_the_last_lines_are_shown_over_both_files(
    backend: ProcessBackend, tmp_path: Path, lines: int, first: int | None
) -> None:
    ended(backend, "i=1; while [ $i -le 300 ]; do echo $i; i=$((i + 1)); done")
    found = shown(tmp_path, "fw", "-n", str(lines)).split()
    whole = shown(tmp_path, "fw").split()
    assert found == whole[max(0, len(whole) - lines) :]
    assert not first or found[0] == str(first).encode() or len(whole) < lines


def test_following_begins_with_the_last_lines_and_ends_when_the_process_is_deleted(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    backend.start(command("/bin/sh", "-c", "i=1; while [ $i -le 50 ]; do echo $i; i=$((i + 1)); done; exec sleep 1000"))
    while b"50\n" not in (backend.place("u1") / "log").read_bytes():
        pass
    program = (sys.executable, "-m", "praetor_agent", "logs", "-f", "fw", "--state-dir", str(tmp_path))
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert [following.stdout.readline() for _ in range(10)] == [b"%d\n" % number for number in range(41, 51)]
        backend.stop("u1", grace_seconds=0, force=True)
        State(tmp_path).save_memory({})
        backend.remove("u1")
        assert following.wait(WITHIN_SECONDS) == 0


def test_what_comes_later_is_followed_over_a_new_file(backend: ProcessBackend, tmp_path: Path) -> None:
    go = tmp_path / "go"
    backend.start(command("/bin/sh", "-c", f"echo one; while [ ! -e {go} ]; do :; done; echo two; exec sleep 1000"))
    program = (sys.executable, "-m", "praetor_agent", "logs", "-f", "fw", "--state-dir", str(tmp_path))
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"one\n"
        (backend.place("u1") / "log").rename(backend.place("u1") / "log.1")
        (backend.place("u1") / "log").write_text("new file\n")
        assert following.stdout.readline() == b"new file\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(WITHIN_SECONDS) == 130


def test_a_reader_that_has_seen_enough_is_no_error(backend: ProcessBackend, tmp_path: Path) -> None:
    ended(backend, "yes | head -c 900")
    script = f"{sys.executable} -m praetor_agent logs fw --state-dir {tmp_path} | head -n 1"
    done = subprocess.run(("/bin/sh", "-c", script), capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"y\n", b"")


@pytest.mark.parametrize(("name", "words"), [("old", "there is no process 'old'"), ("new", "was never started")])
def test_a_process_without_output_is_named(
    backend: ProcessBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["logs", name, "--state-dir", str(tmp_path)])
    assert caught.value.code == 1
    assert words in capsys.readouterr().err
