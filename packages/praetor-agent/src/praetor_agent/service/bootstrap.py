# SPDX-License-Identifier: Apache-2.0
"""Starts the installed agent, and rolls back to the old version if a new one fails.

Run as a file by `python -I -S`, it needs nothing of the agent, which may be broken. `current` is the version that
works. `trial` is there while a new one is on trial: the kernel ends it (SIGALRM) unless the gateway has answered it in
time, upon which it renames `trial` to `current` and calls the alarm off. Ended too often, it is rejected.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TRIAL_SECONDS = 120
ATTEMPTS = 3
MAX_PAUSE_SECONDS = 60
MAX_LOG_BYTES = 10 * 1024 * 1024
LOG_CHECK_SECONDS = 20
ROOT = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Become the agent; with `respawn LOG`, be its parent and restart it, for init systems that do not."""
    if sys.argv[1:2] == ["respawn"]:
        respawn(sys.argv[2])
    launch()


def launch() -> None:
    """Become the version on trial, or else the current one."""
    left = trial_seconds_left()
    os.environ["PRAETOR_AGENT_ROOT"] = ROOT
    os.environ.pop("PRAETOR_AGENT_ON_TRIAL", None)
    if left:
        os.environ["PRAETOR_AGENT_ON_TRIAL"] = ROOT
        signal.alarm(left)  # outlives the exec
    # the name changes with the end of the trial, and modules are loaded from it later, too
    version = os.path.realpath(place("trial" if left else "current"))
    for line in read("agent.env").splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            os.environ[name] = value
    os.execv(sys.executable, (sys.executable, "-I", version, "run"))  # noqa: S606 - no shell is meant


def trial_seconds_left() -> int:
    """Count a start of the version on trial; return its seconds left, 0 if there is none or it is rejected."""
    if not os.path.islink(place("trial")):
        return 0
    boot, now = read("/proc/sys/kernel/random/boot_id").strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    stored = read("attempts").split()
    count, began = (int(stored[0]), float(stored[2])) if len(stored) == 3 else (0, now)
    if len(stored) != 3 or stored[1] != boot:
        began = now  # the device was off meanwhile, which is not the version's fault
    left = int(began + TRIAL_SECONDS - now)
    if left <= 0:
        return reject(f"the gateway did not answer it within {TRIAL_SECONDS} s")
    if count >= ATTEMPTS:
        return reject(f"it ended {count} times before the gateway had answered it")
    write("attempts", f"{count + 1} {boot} {began}")
    return left


def reject(why: str) -> int:
    """Reject the version on trial and store why."""
    write("rejected", f"{os.path.basename(os.path.realpath(place('trial')))}: {why}")
    os.unlink(place("trial"))
    return 0


def respawn(log: str) -> None:
    """Keep the agent running: start it whenever it ended, with pauses, until SIGTERM."""
    child = 0
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            os.kill(child, signal.SIGTERM)
        else:
            sys.exit(0)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: bound(log))
    signal.setitimer(signal.ITIMER_REAL, LOG_CHECK_SECONDS, LOG_CHECK_SECONDS)  # the agent's own begins at none
    pause = 1
    while not stopping:
        began = time.monotonic()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            output(log)
            launch()
        os.waitpid(child, 0)
        child = 0
        if not stopping:
            pause = 1 if time.monotonic() - began > MAX_PAUSE_SECONDS else min(2 * pause, MAX_PAUSE_SECONDS)
            time.sleep(pause)
    sys.exit(0)


def output(log: str) -> None:
    """Redirect output to *log*."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def bound(log: str) -> None:
    """Move the last half of a log that is too long to `<log>.1`; the agent goes on at the start of the emptied file."""
    try:
        if os.stat(log).st_size <= MAX_LOG_BYTES:
            return
        with open(log, "r+b") as file:
            file.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
            with open(log + ".1", "wb") as older:
                older.write(file.read())
            file.truncate(0)
    except OSError as e:  # as a full disk, which must not end the agent
        sys.stderr.write(f"praetor-agent launcher: {log} cannot be shortened: {e.strerror}\n")


def place(name: str) -> str:
    """Return the path of *name* in the installation."""
    return os.path.join(ROOT, name)


def read(name: str) -> str:
    """Return the text of a file, "" if there is none."""
    try:
        with open(place(name), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def write(name: str, text: str) -> None:
    """Write a file; a full disk must not keep the agent from starting."""
    try:
        with open(place(name), "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        sys.stderr.write(f"praetor-agent launcher: {place(name)} cannot be written: {e.strerror}\n")


if __name__ == "__main__":
    main()
