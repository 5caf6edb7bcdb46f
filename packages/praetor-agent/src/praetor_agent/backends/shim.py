"""The stage between the agent and a process: it outlives the agent, waits for the process and writes how it ended.

Run as a file by `python -I -S`, it imports nothing beyond what the interpreter
has loaded anyway; one waits beside every process. It reads its job from
standard input: strings, each ended by NUL. It answers `ok`, or why not.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]  # what `signal` wraps in enumerations, for a megabyte
import os
import sys

LOG_CHECK_SECONDS = 20


def main() -> None:
    """Start the process, tell the agent, and wait in the background."""
    words = sys.stdin.buffer.read().split(b"\0")
    directory, log_limit, uid, gid, groups, cwd, head, count = words[:8]
    argv, env = words[8 : 8 + int(count)], words[8 + int(count) : -1]
    identity = (int(uid), int(gid), [int(group) for group in groups.split()]) if uid else None
    answer, say = os.pipe()
    if os.fork():
        os.close(say)
        os.write(1, os.read(answer, 4096) or b"the supervising stage ended early")
        os._exit(0)
    os.setsid()
    _detach(directory)
    with_log = (directory + b"/log", int(log_limit))
    _supervise(with_log, identity, cwd, head, argv, env, say)


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
    argv: list[bytes],
    env: list[bytes],
    say: int,
) -> None:
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
            if identity is not None:
                os.setgroups(identity[2])
                os.setgid(identity[1])
                os.setuid(identity[0])
            os.chdir(cwd)
            os.execve(argv[0], argv, dict(entry.split(b"=", 1) for entry in env))  # noqa: S606 - no shell is meant
        except OSError as e:
            os.write(failed_write, str(e.strerror).encode())
        finally:
            os._exit(127)
    os.close(go_read)
    os.close(failed_write)
    # The record is on disk before the process runs: whoever finds no record knows that it never did.
    stage = os.getpid()
    _write(b"run", head + b"\n%d %d\n%d %d\n" % (child, _ticks(child), stage, _ticks(stage)))
    os.write(go_write, b"x")
    problem = os.read(failed_read, 4096)
    os.close(go_write)
    os.close(failed_read)
    if problem:
        os.waitpid(child, 0)
        _write(b"exit", b"error " + problem)
        os.write(say, problem)
        os._exit(0)
    os.write(say, b"ok")
    os.close(say)
    _wait(child, log)


def _wait(child: int, log: tuple[bytes, int]) -> None:
    signals.signal(signals.SIGALRM, lambda *_: _bound_log(log))
    signals.setitimer(signals.ITIMER_REAL, LOG_CHECK_SECONDS, LOG_CHECK_SECONDS)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    _write(b"exit", b"signal %d" % -code if code < 0 else b"code %d" % code)
    _bound_log(log)
    os._exit(0)


def _bound_log(log: tuple[bytes, int]) -> None:
    """Move the last half of a log that is too long to log.1; the process goes on at the end of the emptied one."""
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


def _write(name: bytes, content: bytes) -> None:
    fresh = os.open(name + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fresh, content)
    os.fsync(fresh)
    os.close(fresh)
    os.rename(name + b".new", name)
    here = os.open(b".", os.O_RDONLY)
    os.fsync(here)
    os.close(here)


def _ticks(pid: int) -> int:
    stat = os.open(b"/proc/%d/stat" % pid, os.O_RDONLY)
    content = os.read(stat, 4096)
    os.close(stat)
    return int(content[content.rindex(b")") + 2 :].split()[19])


if __name__ == "__main__":
    main()
