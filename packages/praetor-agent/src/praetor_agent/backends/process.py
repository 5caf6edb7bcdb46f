# SPDX-License-Identifier: Apache-2.0
"""The backend `process`: a supervisor of our own that needs no init system and no root.

Each process has a directory that its shim writes to: `run` (its identity), then
`exit` (how it ended), and `log`. What runs is read from there and from /proc,
so that neither the agent nor its memory is needed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from praetor_agent.backends import procfs, resources
from praetor_agent.backends.command import Command, Identity, identity_of, shown
from praetor_agent.backends.protocol import unseen
from praetor_agent.core.masking import ending
from praetor_agent.core.model import Observed, TerminationReason
from praetor_agent.core.restart import START_ERROR_EXIT_CODE, reason_of
from praetor_agent.errors import BackendError, StartError
from praetor_agent.state import read_text, replace_file
from praetor_api.backports import dataclass
from praetor_api.spec import Backend

log = logging.getLogger(__name__)

SHIM = Path(__file__).with_name("shim.py")
START_TIMEOUT_SECONDS = 20
LOG_BYTES = 10 * 1024 * 1024
FOLLOW_SECONDS = 0.25
LEAST_LOG_BYTES = 64 * 1024
LOGS_OF_A_DISK = 64
"""How many logs of full length fill the disk; on a small one each is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The file `run`: the spec, the boot, and the process and its shim, each by pid and start ticks."""

    uid: str
    spec_hash: str
    boot_id: str
    process: tuple[int, int]
    shim: tuple[int, int]
    unlimited: tuple[str, ...] = ()


class ProcessBackend:
    """Runs processes in sessions of their own, below *directory*."""

    name = Backend.PROCESS

    def __init__(self, directory: Path, boot_id: str, *, device: str = "", log_bytes: int = LOG_BYTES) -> None:
        self._directory = directory.absolute()
        self._device = device
        self._boot_id = boot_id
        self._log_bytes = log_bytes

    def observe(self) -> Mapping[str, Observed]:
        found = {}
        for place, run in self._runs():
            try:
                found[run.uid] = self._seen(place, run)
            except Exception as e:  # it must not hide the other processes
                found[run.uid] = unseen(run.uid, self.name, e)
        return found

    def start(self, command: Command) -> None:
        identity = identity_of(command.user)
        place = self.place(command.uid)
        self._kill_leftovers(command.uid)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            (place / "run").unlink(missing_ok=True)
            (place / "exit").unlink(missing_ok=True)
            replace_file(place / "device", self._device.encode(), flush=False)
        except OSError as e:
            raise StartError(f"{place} cannot be written: {e.strerror}") from e
        answer = self._launch_shim(command, place, self._job(command, place, identity))
        if answer != "ok":
            raise StartError(f"cannot execute {shown(command.argv[0])} in {shown(command.working_dir)}: {answer}")

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        """Ask the process group to end, or kill every process that carries the marker."""
        run = _read_run(self.place(uid))
        if run is not None and self._is_alive(run):
            with suppress(ProcessLookupError):
                os.killpg(run.process[0], signal.SIGKILL if force else signal.SIGTERM)
        if force:
            self._kill_leftovers(uid)

    def signal(self, uid: str, number: signal.Signals) -> None:
        run = _read_run(self.place(uid))
        if run is not None and self._is_alive(run):
            with suppress(ProcessLookupError):
                os.kill(run.process[0], number)

    def remove(self, uid: str) -> None:
        """Remove the directory of a process that ended, and kill what it left running."""
        self._kill_leftovers(uid)
        shutil.rmtree(self.place(uid), ignore_errors=True)

    def place(self, uid: str) -> Path:
        """Return the directory of the process *uid*."""
        return self._directory / hashlib.sha256(uid.encode()).hexdigest()[:32]

    def tail(self, uid: str, limit: int) -> str:
        end = b""
        for name in ("log", "log.1"):
            try:
                with (self.place(uid) / name).open("rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - limit + len(end)))
                    end = file.read(limit - len(end)) + end
            except FileNotFoundError:
                continue
            except OSError as e:
                raise BackendError(f"the log cannot be read: {e.strerror}") from e
        return end.decode(errors="replace")

    def show(self, uid: str, lines: int | None, follow: Callable[[], bool] | None) -> None:
        """Write the two files of the log, and with *follow* what the shim adds to them."""
        place = self.place(uid)
        log = _opened(place / "log")
        older = _opened(place / "log.1")
        if older is not None and log and os.path.samestat(os.fstat(older.fileno()), os.fstat(log.fileno())):
            older.close()
            older = None
        left = _skipped(log, lines)
        if older is not None:
            _skipped(older, left)
            _pass_on(older, None)
        while True:
            if log is not None:
                _pass_on(log, place / "log" if follow else None)
            if follow is None or not (place.exists() and follow()):
                return
            time.sleep(FOLLOW_SECONDS)
            log = _opened(place / "log")

    def _launch_shim(self, command: Command, place: Path, job: bytes) -> str:
        """Start the shim with *job* and return its answer."""
        shim = (sys.executable, "-I", "-S", str(self._shim()))
        env = procfs.markers(command.uid, place)
        try:
            done = subprocess.run(
                shim, input=job, capture_output=True, env=env, timeout=START_TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StartError(f"the supervising shim cannot be started: {e}") from e
        return done.stdout.decode(errors="replace") or ending(done.stderr.decode(errors="replace"), 500)

    def _job(self, command: Command, place: Path, identity: Identity | None) -> bytes:
        head = "\n".join((command.uid, command.spec_hash, self._boot_of_job()))
        limits = "\n".join(resources.limits(command.resources, place)) if command.resources else ""
        env = dict(command.env) | procfs.markers(command.uid, place)
        changed = (str(identity.uid), str(identity.gid), " ".join(map(str, identity.groups))) if identity else ("",) * 3
        words = (
            str(place), str(self._log_limit(place)), *changed, command.working_dir, head, limits,
            str(len(command.argv)),
            *command.argv, *(f"{name}={value}" for name, value in env.items()),
        )  # fmt: skip
        job = b"".join(os.fsencode(word) + b"\0" for word in words)
        return b"%d\0" % len(job) + job  # a pipe may be cut anywhere, even between two words

    def _log_limit(self, place: Path) -> int:
        disk = os.statvfs(place)
        return min(self._log_bytes, max(LEAST_LOG_BYTES, disk.f_blocks * disk.f_frsize // LOGS_OF_A_DISK))

    def _take_over(self, place: Path) -> None:
        """Start another shim for a process whose own was killed, so that its output does not block it."""
        words = (sys.executable, "-I", "-S", str(self._shim()), str(place), str(self._log_limit(place)))
        try:
            subprocess.run(words, capture_output=True, timeout=START_TIMEOUT_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError, StartError) as e:
            log.warning("cannot take over the output of a process place=%s reason=%s", place, e)

    def _shim(self) -> Path:
        """Return the path of the shim. From a zipapp it is written to a file that Python can run."""
        if SHIM.is_file():
            return SHIM
        from pkgutil import get_data

        unpacked, program = self._directory.with_name("shim.py"), get_data(__package__, SHIM.name) or b""
        try:
            if not unpacked.is_file() or unpacked.read_bytes() != program:
                replace_file(unpacked, program)
        except OSError as e:
            raise StartError(f"{unpacked} cannot be written: {e.strerror}") from e
        return unpacked

    def _boot_of_job(self) -> str:
        return self._boot_id

    def _runs(self) -> list[tuple[Path, Run]]:
        try:
            places = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as e:
            raise BackendError(f"{self._directory} cannot be read: {e.strerror}") from e
        return [(place, run) for place in places if (run := _read_run(place)) is not None]

    def _seen(self, place: Path, run: Run) -> Observed:
        supervised = run.boot_id == self._boot_id and procfs.is_running(*run.shim)
        alive = run.boot_id == self._boot_id and procfs.is_running(*run.process)
        if alive and not supervised and (place / "output").is_fifo():
            self._take_over(place)
        word, _, rest = read_text(place / "exit").partition(" ")
        alive = alive or (supervised and not word)  # it ended, and its shim is about to write how
        code, reason, error = None, None, None
        if not alive:
            code, reason, error = _ending(word, rest)
        return Observed(
            uid=run.uid,
            backend=self.name,
            spec_hash=run.spec_hash,
            running=alive,
            handle=f"{run.boot_id}/{run.process[0]}/{run.process[1]}",
            pid=run.process[0] if alive else None,
            watch=(run.shim if supervised else run.process)[0] if alive else None,
            exit_code=code,
            termination_reason=reason,
            error=error,
            unlimited=run.unlimited,
            renamed=bool(self._device) and read_text(place / "device") not in ("", self._device),
            mark=f"process {run.process[0]} in {place}",
        )

    def _is_alive(self, run: Run) -> bool:
        return run.boot_id == self._boot_id and procfs.is_running(*run.process)

    def _kill_leftovers(self, uid: str) -> None:
        """Kill what carries the marker of *uid* except its shim: descendants that left the process group."""
        place = self.place(uid)
        run = _read_run(place)
        shim = run.shim[0] if run is not None and procfs.is_running(*run.shim) else None
        for pid in procfs.marked(uid, place):
            if pid not in (shim, os.getpid()):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise BackendError(f"the log cannot be read: {e.strerror}") from e


def _skipped(file: IO[bytes] | None, lines: int | None) -> int | None:
    """Leave *file* where its last *lines* begin; return how many of them it does not have (None: all are shown)."""
    if file is None or lines is None:
        return lines
    content = file.read()
    at = len(content.removesuffix(b"\n")) if lines else len(content) - 1
    for number in range(lines if content else 0):
        at = content.rfind(b"\n", 0, at)
        if at < 0:
            file.seek(0)
            return lines - number - 1
    file.seek(at + 1)
    return 0 if content else lines


def _pass_on(file: IO[bytes], path: Path | None) -> None:
    """Write *file* to standard output; then what is added to it, as long as it is the one at *path*."""
    with file:
        while True:
            seen = os.fstat(file.fileno())
            there = path is not None and path.exists() and os.path.samestat(path.stat(), seen)
            if seen.st_size < file.tell():  # emptied, because the disk is full
                file.seek(0)
            while chunk := file.read(65536):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if not there:
                return
            time.sleep(FOLLOW_SECONDS)


def _read_run(place: Path) -> Run | None:
    lines = read_text(place / "run").split("\n")
    try:
        uid, spec_hash, boot_id, process, shim, *rest = lines
        pid, ticks = map(int, process.split())
        shim_pid, shim_ticks = map(int, shim.split())
    except ValueError:  # missing or incomplete
        return None
    return Run(
        uid=uid,
        spec_hash=spec_hash,
        boot_id=boot_id,
        process=(pid, ticks),
        shim=(shim_pid, shim_ticks),
        unlimited=tuple(rest[0].split()) if rest else (),
    )


def _ending(word: str, rest: str) -> tuple[int | None, str, str | None]:
    """Return exit code, reason and error of a process that ended, from what its shim wrote."""
    if word == "error":
        return START_ERROR_EXIT_CODE, TerminationReason.START_ERROR, f"cannot be executed: {rest}"
    said = rest.split()[:1]  # a newer shim may say more
    if word not in ("code", "signal", "oom") or not said or re.fullmatch("[0-9]{1,9}", said[0]) is None:
        return None, TerminationReason.LOST, None
    number = int(said[0])
    code = number if word == "code" else 128 + number
    return code, reason_of(code, signalled=word != "code", out_of_memory=word == "oom"), None
