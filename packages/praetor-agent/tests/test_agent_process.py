# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from agent_testing import WITHIN_SECONDS, command, item, mounted, process_spec, until
from praetor_agent.backends import procfs
from praetor_agent.backends.command import Command, command_of, probe_of, resolve
from praetor_agent.backends.process import SHIM, ProcessBackend
from praetor_agent.core.model import Observed, Revision
from praetor_agent.errors import BackendError, StartError
from praetor_agent.state import State
from praetor_api.protocol import read_desired

BOOT = "boot-1"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ProcessBackend]:
    backend = ProcessBackend(tmp_path / "processes", BOOT, log_bytes=1000)
    yield backend
    for uid in backend.observe():
        backend.stop(uid, grace_seconds=0, force=True)


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code, *arguments)


def seen(backend: ProcessBackend, uid: str = "u1") -> Observed:
    return backend.observe()[uid]


def wait_end(backend: ProcessBackend) -> Observed:
    until(lambda: not seen(backend).running, "the process to end")
    return seen(backend)


def test_a_process_runs_and_is_seen_by_another_agent(backend: ProcessBackend, tmp_path: Path) -> None:
    backend.start(command("/bin/sleep", "1000"))
    first = seen(backend)
    assert first.running
    assert first.pid is not None
    assert Path(f"/proc/{first.pid}/cmdline").read_bytes() == b"/bin/sleep\x001000\x00"
    assert seen(ProcessBackend(tmp_path / "processes", BOOT)) == first


def test_it_is_no_child_of_the_agent_and_leads_its_own_session(backend: ProcessBackend) -> None:
    backend.start(command("/bin/sleep", "1000"))
    pid, stage = seen(backend).pid, seen(backend).watch
    assert pid is not None
    assert stage is not None
    assert os.getsid(pid) == pid
    assert int(Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[1]) != os.getpid()


def test_a_process_gets_its_arguments_and_variables_byte_for_byte(backend: ProcessBackend, tmp_path: Path) -> None:
    nasty = ("", " ", "$HOME", "%n", ";", "a\"b'c\\", "line\nbreak", "é\x1b[0m", "-n")
    code = "import os,sys;open(sys.argv[1],'wb').write(b'\\0'.join(map(os.fsencode,sys.argv[2:])));"
    code += "open(sys.argv[1]+'.env','wb').write(open('/proc/self/environ','rb').read());"
    code += "open(sys.argv[1]+'.cwd','w').write(os.getcwd())"
    env = {"PATH": "/bin", "A": "x=y\n$z", "EMPTY": ""}
    argv = python(code, str(tmp_path / "out"), *nasty)
    backend.start(command(*argv, env=env, working_dir=str(tmp_path)))
    assert wait_end(backend).exit_code == 0
    assert (tmp_path / "out").read_bytes() == b"\0".join(map(os.fsencode, nasty))
    place = os.fsencode(f"PRAETOR_PROCESS_DIR={backend.place('u1')}")
    entries = (tmp_path / "out.env").read_bytes().rstrip(b"\0").split(b"\0")
    assert set(entries) == {b"PATH=/bin", b"A=x=y\n$z", b"EMPTY=", b"PRAETOR_PROCESS_UID=u1", place}
    assert (tmp_path / "out.cwd").read_text() == str(tmp_path)


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("pass", 0, "Completed"),
        ("import sys; sys.exit(3)", 3, "Error"),
        ("import os; os.kill(os.getpid(), 9)", 137, "Signal:SIGKILL"),
    ],
)
def test_how_a_process_ended_is_reported(backend: ProcessBackend, code: str, exit_code: int, reason: str) -> None:
    backend.start(command(*python(code)))
    ended = wait_end(backend)
    assert (ended.exit_code, ended.termination_reason, ended.pid) == (exit_code, reason, None)


def test_how_it_ended_is_known_even_when_no_agent_was_there(tmp_path: Path) -> None:
    ProcessBackend(tmp_path, BOOT).start(command(*python("import sys; sys.exit(7)")))
    later = ProcessBackend(tmp_path, BOOT)
    assert wait_end(later).exit_code == 7


def test_a_stop_reaches_the_whole_group(backend: ProcessBackend, tmp_path: Path) -> None:
    code = "import os,sys,time;pid=os.fork();pid and open(sys.argv[1],'w').write(str(pid));time.sleep(1000)"
    backend.start(command(*python(code, str(tmp_path / "child"))))
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "", "the child")
    backend.stop("u1", grace_seconds=5, force=False)
    assert wait_end(backend).termination_reason == "Signal:SIGTERM"
    until(lambda: procfs.start_ticks(int((tmp_path / "child").read_text())) is None, "the child to end")


def test_a_forced_stop_ends_what_ignores_the_first_and_what_left_the_group(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    code = (
        "import os,signal,sys,time;signal.signal(15,signal.SIG_IGN)\n"
        "pid=os.fork()\n"
        "if not pid: os.setsid(); time.sleep(1000)\n"
        "open(sys.argv[1]+'.new','w').write(str(pid)); os.rename(sys.argv[1]+'.new', sys.argv[1]); time.sleep(1000)"
    )
    backend.start(command(*python("import signal\n" + code, str(tmp_path / "child"))))
    until((tmp_path / "child").exists, "the child")
    child = int((tmp_path / "child").read_text())
    backend.stop("u1", grace_seconds=5, force=False)
    assert seen(backend).running
    backend.stop("u1", grace_seconds=5, force=True)
    assert wait_end(backend).termination_reason == "Signal:SIGKILL"
    until(lambda: procfs.start_ticks(child) is None, "the daemon to end")


def test_a_start_ends_what_an_earlier_run_left_behind_whose_shim_was_killed(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    file = tmp_path / "child"
    backend.start(command("/bin/sh", "-c", f"setsid sleep 1000 & echo $! >{file}.new; mv {file}.new {file}; wait"))
    until(file.exists, "the child")
    child, shim, pid = int(file.read_text()), seen(backend).watch, seen(backend).pid
    os.kill(shim or 0, signal.SIGKILL)
    os.kill(pid or 0, signal.SIGKILL)
    wait_end(backend)
    assert procfs.start_ticks(child) is not None
    backend.start(command("/bin/sleep", "1000"))
    until(lambda: procfs.start_ticks(child) is None, "the leftover to end")
    assert seen(backend).running


def test_a_program_that_is_missing_is_reported(backend: ProcessBackend) -> None:
    with pytest.raises(StartError, match=r"cannot execute '/no/such'.*No such file"):
        backend.start(command("/no/such"))
    assert (seen(backend).running, seen(backend).exit_code) == (False, 128)
    assert seen(backend).error == "cannot be executed: No such file or directory"


def test_a_long_path_is_cut_and_the_reason_is_not(backend: ProcessBackend) -> None:
    """The cluster shows 200 characters of a failure."""
    long = f"/{'a' * 120}/bin/{'b' * 60}-1.2"
    with pytest.raises(StartError) as caught:
        backend.start(command(long, working_dir=f"/{'c' * 200}/release"))
    said = str(caught.value)
    assert len(f"phase Failed: {said}") <= 200
    assert said.endswith(": No such file or directory")
    assert all(part in said for part in ("cannot execute '/aaa", "bbb-1.2' in '/ccc", "/release'"))


def test_a_process_whose_record_cannot_be_written_never_runs(backend: ProcessBackend, tmp_path: Path) -> None:
    place, ran = backend.place("u1"), tmp_path / "ran"
    (place / "pid.new").mkdir(parents=True)
    with pytest.raises(StartError, match="Is a directory"):
        backend.start(command("/bin/sh", "-c", f"touch {ran}"))
    assert backend.observe() == {}
    assert not (place / "run").exists()
    (place / "pid.new").rmdir()
    backend.start(command("/bin/sh", "-c", f"touch {ran}"))
    assert wait_end(backend).exit_code == 0
    assert ran.exists()


def test_a_directory_that_is_missing_is_reported(backend: ProcessBackend) -> None:
    with pytest.raises(StartError, match="in '/no/such'"):
        backend.start(command("/bin/true", working_dir="/no/such"))


def test_a_reused_pid_is_not_mistaken_for_the_process(backend: ProcessBackend) -> None:
    backend.start(command("/bin/sleep", "1000"))
    run = backend.place("u1") / "run"
    ours = seen(backend).pid
    head = run.read_text().split("\n")[:3]
    run.write_text("\n".join([*head, f"{os.getpid()} 1", f"{os.getpid()} 1"]))
    assert not seen(backend).running
    backend.stop("u1", grace_seconds=0, force=False)  # a SIGTERM to this very process, were it mistaken
    assert ours is not None
    os.killpg(ours, signal.SIGKILL)


def test_what_ran_before_a_reboot_does_not_run_now(backend: ProcessBackend, tmp_path: Path) -> None:
    backend.start(command("/bin/sleep", "1000"))
    later = seen(ProcessBackend(tmp_path / "processes", "boot-2"))
    assert (later.running, later.exit_code, later.termination_reason) == (False, None, "Lost")


def test_without_its_shim_a_process_runs_on_and_another_takes_its_output_over(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    backend.start(
        command("/bin/sh", "-c", f"while [ -e {tmp_path / 'go'} ]; do echo {'x' * 4000}; done; exec sleep 99")
    )
    shim, pid = seen(backend).watch, seen(backend).pid
    assert shim is not None
    assert pid is not None
    os.kill(shim, signal.SIGKILL)
    until(lambda: procfs.start_ticks(shim) is None, "the shim to end")
    assert (seen(backend).running, seen(backend).pid) == (True, pid)
    (tmp_path / "go").unlink()
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the process not to be blocked")
    again = seen(backend).watch
    assert again not in (None, shim, pid)
    os.kill(pid, signal.SIGKILL)
    assert (wait_end(backend).exit_code, seen(backend).termination_reason) == (None, "Lost")
    until(lambda: procfs.start_ticks(again or 0) is None, "the other shim to end")


def test_removing_leaves_nothing(backend: ProcessBackend) -> None:
    backend.start(command("/bin/true"))
    wait_end(backend)
    backend.remove("u1")
    assert backend.observe() == {}
    assert not backend.place("u1").exists()


class RecordingBackend(ProcessBackend):
    """Keeps the job instead of having it started."""

    job = b""

    def _launch_shim(self, launch: Command, place: Path, job: bytes) -> str:
        self.job = job
        return "ok"


def test_a_job_that_was_cut_off_anywhere_is_not_started(backend: ProcessBackend, tmp_path: Path) -> None:
    recording = RecordingBackend(tmp_path / "processes", BOOT)
    env = {"A": "x" * 5000, "PATH": "/bin"}
    recording.start(command("/bin/sh", "-c", f"echo ran >> {tmp_path / 'ran'}", "", "5", env=env))
    job, shim = recording.job, (sys.executable, "-I", "-S", str(SHIM))
    ends = [at for at, byte in enumerate(job) if byte == 0]  # cut between two words it would look the most complete
    for cut in {0, 1, 4096, len(job) - 1, *ends, *(at + 1 for at in ends[:-1])}:
        done = subprocess.run(shim, input=job[:cut], capture_output=True, timeout=WITHIN_SECONDS, check=False)
        assert (done.returncode, done.stdout) == (1, b"the job is not complete"), cut
    assert (backend.observe(), (tmp_path / "ran").exists()) == ({}, False)
    assert subprocess.run(shim, input=job, capture_output=True, timeout=WITHIN_SECONDS, check=True).stdout == b"ok"
    wait_end(backend)
    assert (tmp_path / "ran").read_text() == "ran\n"


def logged(backend: ProcessBackend) -> int:
    size = 0
    for name in ("log", "log.1"):
        with suppress(FileNotFoundError):
            size += (backend.place("u1") / name).stat().st_size
    return size


def test_output_goes_to_a_log_of_bounded_size_of_which_the_end_is_kept(backend: ProcessBackend) -> None:
    code = "import sys,time; print('x' * 5000 + 'END', flush=True); print('err', file=sys.stderr)"
    backend.start(command(*python(code)))
    wait_end(backend)
    assert logged(backend) <= 1000
    assert backend.tail("u1", 900).endswith("x" * 300 + "END\nerr\n")


def test_a_process_that_writes_without_end_never_exceeds_the_bound_nor_does_what_an_older_agent_left(
    tmp_path: Path,
) -> None:
    bound = 1024 * 1024
    backend = ProcessBackend(tmp_path, BOOT, log_bytes=bound)
    place = backend.place("u1")
    place.mkdir(parents=True)
    (place / "log").write_bytes(b"old" * bound)
    backend.start(command("/bin/sh", "-c", "yes | head -c 100000000; echo done"))
    largest = 0
    while seen(backend).running:
        largest = max(largest, logged(backend))
    assert 0 < largest <= bound
    assert logged(backend) <= bound
    assert backend.tail("u1", 10).endswith("done\n")


def test_output_gives_its_space_back_when_the_disk_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        backend, more, pause = ProcessBackend(disk / "processes", BOOT), tmp_path / "more", tmp_path / "pause"
        more.touch()
        pause.touch()
        script = f"yes | head -c 100000000; echo burst; while [ -e {more} ]; do [ -e {pause} ] || echo x; done"
        backend.start(command("/bin/sh", "-c", f"{script}; echo done"))
        until(lambda: backend.tail("u1", 6) == "burst\n", "the end of the burst")
        assert 500_000 < logged(backend) <= 1024 * 1024
        free = os.statvfs(disk)
        (disk / "others").write_bytes(b"x" * (free.f_bfree * free.f_frsize - 100_000))
        assert State(disk).full() is not None
        pause.unlink()
        until(lambda: State(disk).full() is None, "space for the records of the agent", 60)
        assert seen(backend).running
        more.unlink()
        assert wait_end(backend).exit_code == 0


def test_a_process_that_was_started_under_another_name_of_the_device_is_seen_as_such(tmp_path: Path) -> None:
    backend = ProcessBackend(tmp_path, BOOT, device="leaf-1")
    backend.start(command("/bin/true"))
    wait_end(backend)
    renamed = ProcessBackend(tmp_path, BOOT, device="leaf-2")
    assert (seen(backend).renamed, seen(renamed).renamed, seen(renamed).unknown) == (False, True, False)
    (backend.place("u1") / "device").unlink()  # of an older agent
    assert not seen(renamed).renamed


def test_an_incomplete_record_is_ignored(backend: ProcessBackend) -> None:
    backend.place("u1").mkdir(parents=True)
    (backend.place("u1") / "run").write_text("u1\nv1\nboot")
    assert backend.observe() == {}


def test_a_directory_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="cannot be read"):
        ProcessBackend(tmp_path / "file", BOOT).observe()
    with pytest.raises(StartError, match="cannot be written"):
        ProcessBackend(tmp_path / "file", BOOT).start(command("/bin/true"))


def test_a_user_that_does_not_exist_is_reported(backend: ProcessBackend) -> None:
    with pytest.raises(StartError, match="no user 'no-such-user'"):
        backend.start(command("/bin/true", user="no-such-user"))


def test_ones_own_user_needs_no_change(backend: ProcessBackend) -> None:
    backend.start(command("/bin/true", user=str(os.geteuid())))
    assert wait_end(backend).exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change users")
def test_root_runs_a_process_as_its_user(backend: ProcessBackend) -> None:
    account = pwd.getpwnam("nobody")
    backend.start(command("/bin/sleep", "1000", user="nobody"))
    status = Path(f"/proc/{seen(backend).pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(lines["Uid"].split()) == {str(account.pw_uid)}
    assert set(lines["Gid"].split()) == {str(account.pw_gid)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may change users")
def test_without_root_another_user_is_refused(backend: ProcessBackend) -> None:
    with pytest.raises(StartError, match="must run as root"):
        backend.start(command("/bin/true", user="root"))


def test_a_relative_program_is_found_in_the_artifact_and_cannot_leave_it(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    (root / "fw").touch()
    (tmp_path / "outside").touch()
    assert resolve(("fw", "x"), "/bin", root) == (str(root / "fw"), "x")
    assert resolve(("./fw",), "/bin", root) == (str(root / "fw"),)
    with pytest.raises(StartError, match="not found in the artifact or on PATH"):
        resolve(("../outside",), "/bin", root)


def test_a_program_without_a_path_is_found_on_path() -> None:
    assert resolve(("sh", "-c"), "/no/such:/bin", None) == ("/bin/sh", "-c")
    assert resolve(("/bin/x",), "", None) == ("/bin/x",)
    for words in ((), ("",), ("no-such-program",), ("./sh",)):
        with pytest.raises(StartError):
            resolve(words, "/bin", None)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"#!/bin/sh\r\n:\r\n", 0o755, "Windows line ends"),
        (b"#! /usr/bin/env sh\r\n:\r\n", 0o755, "Windows line ends"),
        (b"#!/no/such/python3\t-u\n", 0o755, "needs the interpreter '/no/such/python3'"),
        (b"#!/bin/sh\n", 0o644, "is not executable; run: chmod \\+x"),
        (b"#! /bin/sh -e\n", 0o755, None),
        (b"#!/bin/sh -e\r\n", 0o755, None),  # up to the interpreter: Perl's takes it
        (b"#!\n", 0o755, None),
        (b"\x7fELF\0\r\n", 0o755, None),
        (b"", 0o711, None),
    ],
)
def test_a_program_that_the_kernel_would_refuse_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, mode: int, words: str | None
) -> None:
    (tmp_path / "fw").write_bytes(content)
    (tmp_path / "fw").chmod(mode)
    body = {"deviceName": "leaf-1", "items": [item("fw", process_spec(f"{tmp_path}/fw"))]}
    (wanted,) = read_desired(body).items
    with nullcontext() if words is None else pytest.raises(StartError, match=words):
        assert command_of(Revision(item=wanted)).argv == (f"{tmp_path}/fw",)


@pytest.mark.parametrize("backend", ["process", "container"])
def test_variables_expand_where_the_spec_says_so_and_nowhere_in_a_probe(tmp_path: Path, backend: str) -> None:
    (tmp_path / "tool").write_bytes(b"\x7fELF")
    (tmp_path / "tool").chmod(0o755)
    spec = process_spec("$(DIR)/tool", "--url=$(URL)", "$$(URL)", "$(GONE)", backend=backend) | {
        "artifact": {"type": "oci", "url": "r/x@sha256:" + 64 * "0"},
        "healthCheck": {"exec": {"command": ["/bin/echo", "$(URL)"]}},
    }
    spec["execution"] |= {
        "env": [{"name": "DIR", "value": str(tmp_path)}, {"name": "URL", "value": "file://$(DIR)"}],
        "expandVariables": True,
    }
    (wanted,) = read_desired({"items": [item("fw", spec)], "deviceName": "leaf-1"}).items
    revision = Revision(item=wanted, artifact_path=str(tmp_path / "tool"))
    command = command_of(revision)
    assert command.argv == (f"{tmp_path}/tool", f"--url=file://{tmp_path}", "$(URL)", "$(GONE)")
    assert command.env["URL"] == f"file://{tmp_path}"
    assert wanted.spec.health_check is not None
    probe = probe_of(revision, wanted.spec.health_check)
    assert (probe.argv, probe.env["URL"]) == (("/bin/echo", "$(URL)"), f"file://{tmp_path}")


def test_an_expansion_without_end_is_no_start_and_names_the_field() -> None:
    spec = process_spec("/bin/true")
    doubled = [{"name": f"V{n}", "value": f"$(V{n - 1})" * 2 if n else "xx"} for n in range(200)]
    spec["execution"] |= {"env": doubled, "expandVariables": True}
    (wanted,) = read_desired({"items": [item("fw", spec)], "deviceName": "leaf-1"}).items
    with pytest.raises(StartError, match=r"spec\.execution\.env\[16\]\.value: is longer than 131071 characters"):
        command_of(Revision(item=wanted))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            "env -i setsid sleep 1001 & echo $! >{pid}.new; mv {pid}.new {pid}; exec sleep 1002", id="session"
        ),
        pytest.param(
            "setsid env -i sh -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1001' &\n"
            "while [ ! -e {pid} ]; do :; done",
            id="daemon",
        ),
    ],
)
def test_what_left_session_and_environment_of_a_process_ends_with_it(
    backend: ProcessBackend, tmp_path: Path, script: str, force: bool
) -> None:
    file = tmp_path / "child"
    backend.start(command("/bin/sh", "-c", script.format(pid=file)))
    until(file.exists, "the child")
    child = int(file.read_text())
    backend.stop("u1", grace_seconds=5, force=force)
    wait_end(backend)
    backend.remove("u1")
    until(lambda: procfs.start_ticks(child) is None, "the child to end", 30)


def test_only_what_carries_our_markers_is_ever_killed(backend: ProcessBackend, tmp_path: Path) -> None:
    with suppress(StartError):
        backend.start(command("/bin/sleep", "1000", uid="uid-2"))
    other = ProcessBackend(tmp_path / "another agent", BOOT)
    other.stop("uid-2", grace_seconds=0, force=True)
    backend.stop("u1", grace_seconds=0, force=True)
    assert seen(backend, "uid-2").running


def test_a_process_starts_with_default_handlers_for_the_signals_that_python_ignores(backend: ProcessBackend) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as the launcher does where init runs it by a script
    try:
        backend.start(command("/bin/grep", "SigIgn", "/proc/self/status"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert wait_end(backend).exit_code == 0
    ignored = int(backend.tail("u1", 100).split()[1], 16)
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored >> (number - 1) & 1, number
