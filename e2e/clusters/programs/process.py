# SPDX-License-Identifier: Apache-2.0
"""A child process with a log file that ends with us, by itself or by the reaper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from e2e.clusters.errors import ClusterError
from e2e.clusters.programs import reaper

TAIL_LINES = 15


class Process:
    """One running program; its output goes to *log* (appended, so that a restart keeps the history).

    When it is stopped it has *grace_s* to end by itself.
    """

    def __init__(self, argv: list[str], *, log: Path, cwd: Path, grace_s: float = 5.0) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as output:
            # the reaper is run by path, not as a module, so that it imports nothing of ours
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__, str(grace_s), *argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._reaper.poll() is None

    def check(self) -> None:
        """Raise ClusterError with the end of the log when the program is gone."""
        if not self.running:
            raise ClusterError(
                f"{self.name} ended with status {self._reaper.returncode}; {self.log} ends:\n{self.tail()}"
            )

    def tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def stop(self) -> None:
        """End the program and everything it started; a second call does nothing."""
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
        self._reaper.wait()
