# SPDX-License-Identifier: Apache-2.0
"""One program under test as a process of its own, which can be asked to end, killed, frozen and started again.

It runs under the reaper of e2e.clusters: however this process ends, the program ends, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from e2e.clusters.programs import reaper
from e2e.stack.errors import StackError

POLL_S = 0.02
STARTED_S = 120.0
STOPPED_S = 120.0
GRACE_S = 5.0  # for its own cleanup before it is killed
TAIL_LINES = 40
# the shell writes its own process id and then becomes the program
EXEC = 'echo $$ >"$0.new" && /bin/mv "$0.new" "$0" && exec "$@"'


class Program:
    """A program that can be started many times; its output is appended to *log*."""

    def __init__(self, name: str, argv: Sequence[str], *, workdir: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.workdir = workdir
        self.log = workdir / f"{name}.log"
        self.env = env
        self._pid_file = workdir / f"{name}.pid"
        self._reaper: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def pid(self) -> int:
        """Process id of the program; StackError when it does not run."""
        if not self.running:
            raise StackError(f"{self.name} does not run; {self.log} ends:\n{self.tail()}")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._reaper is not None and self._reaper.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How the program ended: its status, or 128 plus the signal; None while it runs or before it ran."""
        return None if self._reaper is None else self._reaper.poll()

    def start(self) -> None:
        """Run the program; returns when its process exists."""
        if self.running:
            raise StackError(f"{self.name} runs already")
        self._release()
        self._pid_file.unlink(missing_ok=True)
        command = ["/bin/sh", "-c", EXEC, str(self._pid_file), *self.argv]
        with self.log.open("ab") as output:
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__, str(GRACE_S), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
            )
        self._pid = self._read_pid()

    def terminate(self, *, within_s: float = STOPPED_S) -> int:
        """Ask the program to end and return its exit status; StackError when it does not in time."""
        self.signal(signal.SIGTERM)
        return self._wait(within_s)

    def kill(self) -> None:
        """End the program with SIGKILL."""
        self.signal(signal.SIGKILL)
        self._wait(STOPPED_S)

    def restart(self, *, kill: bool = False) -> None:
        """End the program, gracefully or by SIGKILL, and start it again."""
        if kill:
            self.kill()
        else:
            self.terminate()
        self.start()

    def use(self, scripts: Path) -> None:
        """Run the program of the same name in the folder *scripts* from the next start on."""
        self.argv = (str(scripts / Path(self.argv[0]).name), *self.argv[1:])

    def freeze(self) -> None:
        """Suspend the program: it keeps its connections and does nothing."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a suspended program."""
        self.signal(signal.SIGCONT)

    def signal(self, sign: signal.Signals) -> None:
        """Send *sign* to the program alone."""
        os.kill(self.pid, sign)

    def stop(self) -> None:
        """End the program, by force if need be; a second call does nothing."""
        self.begin_stop()
        self._release()

    def begin_stop(self) -> None:
        """Ask the program to end without waiting, so that several end at the same time; `stop` waits."""
        if self.running:
            with suppress(ProcessLookupError, StackError):  # it ended a moment ago
                self.signal(signal.SIGTERM)
                self.thaw()

    def tail(self, *, since: int = 0, lines: int = TAIL_LINES) -> str:
        """Return the last lines of the log from byte *since* on."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_bytes()[since:].decode(errors="replace").splitlines()[-lines:])

    def _release(self) -> None:
        """Release the reaper, which ends what still runs."""
        if self._reaper is not None:
            if self._reaper.stdin is not None:
                self._reaper.stdin.close()
            self._reaper.wait()

    def _wait(self, within_s: float) -> int:
        if self._reaper is None:
            raise StackError(f"{self.name} was not started")
        try:
            return self._reaper.wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{self.name} has not ended after {within_s:g} s; log:\n{self.tail()}") from error

    def _read_pid(self) -> int:
        deadline = time.monotonic() + STARTED_S
        while not self._pid_file.exists():
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise StackError(f"{self.name} did not start; {self.log} ends:\n{self.tail()}")
            time.sleep(POLL_S)
        return int(self._pid_file.read_text())
