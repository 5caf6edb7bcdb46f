# SPDX-License-Identifier: Apache-2.0
"""The shim between the agent and a process: it outlives the agent, waits for the process and writes how it ended.

Run as a file by `python -I -S`, it imports little, because one waits for every
process. It reads its job from standard input: its length, then strings, each
ended by NUL. It answers `ok` or an error; `ok` also for a process that runs
already, because init and the agent may both start it.

The process writes to a FIFO, from which the shim fills two files of bounded
size. The process has it open for reading, too: so it is not killed by SIGPIPE
if its shim is, and another shim can take over (`shim.py DIRECTORY LOG_LIMIT`).

The shim inherits what the process leaves running, and ends it with the process.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]  # what `signal` wraps in enumerations, for a megabyte
import os
import select
import sys
import time

CHUNK_BYTES = 65536
MAX_DRAINED_BYTES = 1024 * 1024
"""How much of the output is still copied after the process ended; a pipe holds no more."""

RESERVE_BYTES = 512 * 1024
"""With less free space the output is dropped, oldest first: twice what the agent needs to store its records."""

CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: orphans below this process become its children."""

ORPHAN_SECONDS = 5.0
"""How long the end of what was killed is awaited; longer only where the kernel does not let it go."""

BLIND_WAIT_MS = 1000
"""How often to check a process that is not our child where the kernel has no pidfd."""


def main() -> None:
    """Start the process, answer the agent, and wait in the background."""
    if sys.argv[1:]:
        _take_over(os.fsencode(sys.argv[1]), int(sys.argv[2]))
    length, _, job = sys.stdin.buffer.read().partition(b"\0")
    if not length.isdigit() or int(length) != len(job):  # the agent was killed while it wrote
        os.write(1, b"the job is not complete")
        os._exit(1)
    words = job.split(b"\0")
    directory, log_limit, uid, gid, groups, cwd, head, limits, count = words[:9]
    argv, env = words[9 : 9 + int(count)], words[9 + int(count) : -1]
    identity = (int(uid), int(gid), [int(group) for group in groups.split()]) if uid else None
    lock = os.open(directory + b"/lock", os.O_WRONLY | os.O_CREAT, 0o600)
    os.lockf(lock, os.F_LOCK, 0)  # held until we have answered; children do not inherit it
    head += b"" if head.rpartition(b"\n")[2] else _read(b"/proc/sys/kernel/random/boot_id").strip()
    if _is_running(_read(directory + b"/run").split(b"\n"), head.rpartition(b"\n")[2]):
        os.write(1, b"ok")
        os._exit(0)
    answer, say = os.pipe()
    if os.fork():
        os.close(say)
        os.write(1, os.read(answer, 4096) or b"the supervising shim ended early")
        os._exit(0)
    os.setsid()
    _detach(directory)
    for stale in (b"exit", b"run", b"output"):
        if os.access(stale, os.F_OK):
            os.unlink(stale)
    os.mkfifo(b"output", 0o600)
    _inherit_orphans()
    _supervise(int(log_limit), identity, cwd, head, limits.split(b"\n"), argv, env, say)


def _detach(directory: bytes) -> None:
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(directory)
    os.umask(0o022)


def _inherit_orphans() -> None:
    ask = (CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        import _ctypes  # without the rest of ctypes, which is a quarter of a megabyte

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is the C library of this program
        _ctypes.call_function(_ctypes.dlsym(library, "prctl"), ask)
    except AttributeError:
        import ctypes

        ctypes.CDLL(None).prctl(*ask)
    except ImportError:
        pass  # an interpreter without it; the agent still finds what carries its marker


def _take_over(directory: bytes, log_limit: int) -> None:
    """Copy the output of a process whose shim was killed until it ends; how it ends stays unknown."""
    os.chdir(directory)
    lock = os.open(b"lock", os.O_WRONLY | os.O_CREAT, 0o600)
    os.lockf(lock, os.F_LOCK, 0)
    lines = _read(b"run").split(b"\n")
    pid, ticks = map(int, lines[3].split())
    shim, shim_ticks = map(int, lines[4].split())
    if _ticks(pid) != ticks or _ticks(shim) == shim_ticks:
        os._exit(0)
    answer, say = os.pipe()
    if os.fork():
        os.close(say)
        os.read(answer, 1)
        os._exit(0)
    os.setsid()
    _detach(directory)
    output = _Output(log_limit)
    me = os.getpid()
    lines[4] = b"%d %d" % (me, _ticks(me))
    _write(b"run", b"\n".join(lines))
    os.close(say)
    waiter, pause = select.poll(), None
    waiter.register(output.source, select.POLLIN)
    try:
        waiter.register(os.pidfd_open(pid), select.POLLIN)
    except OSError:
        pause = BLIND_WAIT_MS
    while _ticks(pid) == ticks:
        waiter.poll(pause)
        output.copy()
    output.drain()
    os._exit(0)


def _supervise(
    log_limit: int,
    identity: tuple[int, int, list[int]] | None,
    cwd: bytes,
    head: bytes,
    limits: list[bytes],
    argv: list[bytes],
    env: list[bytes],
    say: int,
) -> None:
    groups, unlimited = _limit(limits)
    output = _Output(log_limit)
    go_read, go_write = os.pipe()
    failed_read, failed_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go_write)
            os.setsid()
            sink = os.open(b"output", os.O_RDWR)
            if identity is not None:
                os.fchown(sink, identity[0], identity[1])  # so that it may open /dev/stdout
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            if not os.read(go_read, 1):
                os._exit(127)
            for group in groups:
                _put(group + b"/cgroup.procs", b"0")
            if identity is not None:
                os.setgroups(identity[2])
                os.setgid(identity[1])
                os.setuid(identity[0])
            os.chdir(cwd)
            for ignored in (signals.SIGHUP, signals.SIGPIPE, signals.SIGXFSZ):  # by what started us, and by Python
                signals.signal(ignored, signals.SIG_DFL)
            os.execve(argv[0], argv, dict(entry.split(b"=", 1) for entry in env))  # noqa: S606 - no shell is meant
        except OSError as e:
            os.write(failed_write, str(e.strerror).encode())
        finally:
            os._exit(127)
    os.close(go_read)
    os.close(failed_write)
    # The record is on disk before the process runs, so without a record it never ran.
    shim = os.getpid()
    record = head + b"\n%d %d\n%d %d\n" % (child, _ticks(child), shim, _ticks(shim))
    problem = b""
    try:
        _write(b"run", record + b" ".join(unlimited) + b"\n")
        _write(b"pid", b"%d\n" % child, flush=False)  # for people and tools, void after a power cut
        os.write(go_write, b"x")
    except OSError as e:
        problem = str(e.strerror).encode()
    never = bool(problem)
    os.close(go_write)
    problem = os.read(failed_read, 4096) or problem
    os.close(failed_read)
    if problem:
        os.waitpid(child, 0)
        if never:
            if os.access(b"run", os.F_OK):
                os.unlink(b"run")
        else:
            _write(b"exit", b"error " + problem)
        os.write(say, problem)
        os._exit(0)
    os.write(say, b"ok")
    os.close(say)
    _wait(child, output, groups)


def _limit(limits: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Create the control groups; return those to join, and the resources that remain without a limit.

    Each line is a resource, a file and its value; a resource alone cannot be limited on this device.
    """
    groups: list[bytes] = []
    unlimited: list[bytes] = []
    for line in filter(None, limits):
        resource, *setting = line.split(b" ", 2)
        try:
            path, value = setting
            group, _, name = path.rpartition(b"/")
            for place in (group.rpartition(b"/")[0], group):
                if not os.access(place, os.F_OK):
                    os.mkdir(place, 0o755)
            _put(path, value)
            if name != b"cgroup.subtree_control" and group not in groups:
                groups.append(group)
        except (OSError, ValueError):
            unlimited.append(resource)
    return groups, unlimited


def _was_out_of_memory(groups: list[bytes]) -> bool:
    events = b"".join(_read(group + name) for group in groups for name in (b"/memory.events", b"/memory.oom_control"))
    return b"oom_kill " in events and b"oom_kill 0" not in events


def _wait(child: int, output: _Output, groups: list[bytes]) -> None:
    """Copy the output until the process ends; end what it left running, and write how it ended."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signals.signal(signals.SIGCHLD, lambda *_: None)
    signals.set_wakeup_fd(wake, warn_on_full_buffer=False)
    waiter = select.poll()
    waiter.register(output.source, select.POLLIN)
    waiter.register(woken, select.POLLIN)
    while (status := _reap(child)) is None:
        waiter.poll()
        _read_some(woken)
        output.copy()
    _end_orphans()
    output.drain()
    code = os.waitstatus_to_exitcode(status)
    oom = code < 0 and _was_out_of_memory(groups)
    ending = b"%s %d" % (b"oom" if oom else b"signal", -code) if code < 0 else b"code %d" % code
    try:
        _write(b"exit", ending)
    except OSError:
        output.shed()  # the disk is full
        _write(b"exit", ending)
    for group in groups:
        try:  # noqa: SIM105 - contextlib is not loaded here
            os.rmdir(group)
        except OSError:
            pass  # something of it still runs
    os._exit(0)


def _reap(child: int) -> int | None:
    """Collect what ended; return the status of *child* if that is among it."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return ended[1]
    except ChildProcessError:
        pass
    return None


def _end_orphans() -> None:
    """Kill what the process left running, which are our children by now."""
    me, deadline = os.getpid(), time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for entry in os.listdir(b"/proc"):
            fields = _read(b"/proc/%s/stat" % entry).rpartition(b")")[2].split() if entry.isdigit() else []
            if fields and int(fields[1]) == me:
                os.kill(int(entry), signals.SIGKILL)  # not reaped yet, so the pid is still its own
        time.sleep(0.01)


class _Output:
    """Copies the FIFO to `log`, and keeps what was before in `log.1`: together at most *limit* bytes."""

    def __init__(self, limit: int) -> None:
        self.source = os.open(b"output", os.O_RDWR | os.O_NONBLOCK)
        self._half = limit // 2
        self._log = -1
        self._size = 0
        try:  # noqa: SIM105 - contextlib is not loaded here
            self._open()
        except OSError:
            pass  # a full or read-only disk must not keep the process from starting

    def copy(self) -> int:
        """Copy what can be read at once, at most a chunk, and return its size."""
        chunk = _read_some(self.source)
        done = 0
        try:
            while done < len(chunk) and self._has_space():
                if self._log < 0 or self._size >= self._half:
                    self._open()
                written = os.write(self._log, chunk[done : done + self._half - self._size])
                self._size += written
                done += written
        except OSError:
            self.shed()
        return len(chunk)

    def drain(self) -> None:
        """Copy what is left after the process ended."""
        drained = 0
        while drained < MAX_DRAINED_BYTES and (size := self.copy()):
            drained += size

    def shed(self) -> None:
        """Give the space of the files back."""
        try:
            if self._log >= 0:
                os.ftruncate(self._log, 0)
                self._size = 0
            os.unlink(b"log.1")
        except OSError:
            pass

    def _has_space(self) -> bool:
        disk = os.statvfs(b".")
        if disk.f_bfree * disk.f_frsize >= RESERVE_BYTES:
            return True
        self.shed()
        return False

    def _open(self) -> None:
        """Open `log`; if it is full, let it be `log.1` and begin another."""
        for name in (b"log", b"log.1"):  # of an older agent, or from before a smaller limit
            if os.access(name, os.F_OK) and os.stat(name).st_size > self._half:
                _keep_end(name, self._half)
        if os.access(b"log", os.F_OK) and os.stat(b"log").st_size >= self._half:
            os.rename(b"log", b"log.1")
        if self._log >= 0:
            os.close(self._log)
        self._log = os.open(b"log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._log).st_size


def _keep_end(name: bytes, size: int) -> None:
    """Shorten a file to its last *size* bytes in place, because the disk may be full."""
    file = os.open(name, os.O_RDWR)
    try:
        at, to = os.fstat(file).st_size - size, 0
        while chunk := os.pread(file, CHUNK_BYTES, at):
            to += os.pwrite(file, chunk, to)
            at += len(chunk)
        os.ftruncate(file, to)
    finally:
        os.close(file)


def _read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, CHUNK_BYTES)
    except BlockingIOError:
        return b""


def _write(name: bytes, content: bytes, flush: bool = True) -> None:
    fresh = os.open(name + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fresh, content)
    if flush:
        os.fsync(fresh)
    os.close(fresh)
    os.rename(name + b".new", name)
    if not flush:
        return
    here = os.open(b".", os.O_RDONLY)
    os.fsync(here)
    os.close(here)


def _put(path: bytes, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def _read(path: bytes) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    content = os.read(file, 65536)
    os.close(file)
    return content


def _is_running(run: list[bytes], boot_id: bytes) -> bool:
    if len(run) < 5 or run[2] != boot_id:
        return False
    pid, ticks = map(int, run[3].split())
    return _ticks(pid) == ticks


def _ticks(pid: int) -> int:
    """Return when *pid* started; 0 when there is none, or only its zombie."""
    fields = _read(b"/proc/%d/stat" % pid).rpartition(b")")[2].split()
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else 0


if __name__ == "__main__":
    main()
