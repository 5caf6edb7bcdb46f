# SPDX-License-Identifier: Apache-2.0
"""The shim between the agent and a process: it outlives the agent, waits for the process and writes how it ended.

Run as a file by `python -I -S`, it imports only what the interpreter has loaded
anyway, because one waits for every process. It reads its job from standard
input: its length, then strings, each ended by NUL. It answers `ok` or an error;
`ok` also for a process that runs already, because init and the agent may both
start it.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]  # what `signal` wraps in enumerations, for a megabyte
import os
import sys

LOG_CHECK_SECONDS = 20


def main() -> None:
    """Start the process, answer the agent, and wait in the background."""
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
    for stale in (b"exit", b"run"):
        if os.access(stale, os.F_OK):
            os.unlink(stale)
    with_log = (directory + b"/log", int(log_limit))
    _supervise(with_log, identity, cwd, head, limits.split(b"\n"), argv, env, say)


def _detach(directory: bytes) -> None:
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(directory)
    os.umask(0o022)


def _supervise(
    log: tuple[bytes, int],
    identity: tuple[int, int, list[int]] | None,
    cwd: bytes,
    head: bytes,
    limits: list[bytes],
    argv: list[bytes],
    env: list[bytes],
    say: int,
) -> None:
    groups, unlimited = _limit(limits)
    go_read, go_write = os.pipe()
    failed_read, failed_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go_write)
            os.setsid()
            output = os.open(log[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
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
    _wait(child, log, groups)


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


def _wait(child: int, log: tuple[bytes, int], groups: list[bytes]) -> None:
    signals.signal(signals.SIGALRM, lambda *_: _bound_log(log))
    signals.setitimer(signals.ITIMER_REAL, LOG_CHECK_SECONDS, LOG_CHECK_SECONDS)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    oom = code < 0 and _was_out_of_memory(groups)
    _write(b"exit", b"%s %d" % (b"oom" if oom else b"signal", -code) if code < 0 else b"code %d" % code)
    for group in groups:
        try:  # noqa: SIM105 - contextlib is not loaded here
            os.rmdir(group)
        except OSError:
            pass  # something of it still runs
    _bound_log(log)
    os._exit(0)


def _bound_log(log: tuple[bytes, int]) -> None:
    """Move the last half of a log that is too long to log.1; the process then appends to the emptied file."""
    path, limit = log
    try:
        size = os.stat(path).st_size
        if size <= limit:
            return
        source = os.open(path, os.O_RDWR)
        target = os.open(path + b".1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.lseek(source, size - limit // 2, 0)
        while chunk := os.read(source, 65536):
            os.write(target, chunk)
        os.ftruncate(source, 0)
        os.close(source)
        os.close(target)
    except OSError:
        pass  # a full disk must not end the supervision


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
