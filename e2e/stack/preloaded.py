# SPDX-License-Identifier: Apache-2.0
"""A Python program that is restarted often: its imports, most of the cost of a start, are done once."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from typing import Any

from e2e.stack import forks
from e2e.stack.errors import StackError
from e2e.stack.program import GRACE_S, Program


class Preloaded(Program):
    """What *program* is, run as a fork of a process that has imported *main*, which is `module:function`."""

    def __init__(self, program: Program, main: str) -> None:
        super().__init__(program.name, program.argv, workdir=program.workdir, env=program.env)
        self._main = main
        self._parent: subprocess.Popen[str] | None = None
        self._exit: int | None = None  # a file that is readable when the process has ended
        self._status: int | None = None

    @property
    def running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._exit is not None and not self._ends(within_s=0)

    @property
    def exit_status(self) -> int | None:
        """How the program ended, as in `Program`."""
        return None if self.running else self._status

    def start(self) -> None:
        """Run the program; returns when its process exists."""
        if self.running:
            raise StackError(f"{self.name} runs already")
        if self._parent is None:
            command = [sys.executable, "-P", forks.__file__, self._main]
            self._parent = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
            )
        self._pid, self._status = self._ask({"start": self.argv, "log": str(self.log)}), None
        self._exit = os.pidfd_open(self._pid)

    def _wait(self, within_s: float) -> int:
        if self._exit is not None and not self._ends(within_s):
            raise StackError(f"{self.name} has not ended after {within_s:g} s; log:\n{self.tail()}")
        if self._status is None:
            raise StackError(f"{self.name} was not started")
        return self._status

    def _release(self) -> None:
        """End what still runs, and the process that it is a fork of."""
        if self._exit is not None and not self._ends(GRACE_S):
            self.kill()
        if self._parent is not None:
            self._parent.communicate()
            self._parent = None

    def _ends(self, within_s: float) -> bool:
        """Return whether the process has ended, or does so in time; record its status."""
        if self._exit is None:
            return True
        if not select.select([self._exit], [], [], within_s)[0]:
            return False
        os.close(self._exit)
        self._exit = None
        status = self._ask({"wait": self._pid})
        self._status = status if status >= 0 else 128 - status
        return True

    def _ask(self, question: dict[str, Any]) -> int:
        parent = self._parent
        if parent is None or parent.stdin is None or parent.stdout is None:
            raise StackError(f"{self.name} has no process to be a fork of")
        parent.stdin.write(json.dumps(question) + "\n")
        parent.stdin.flush()
        answer = parent.stdout.readline()
        if not answer:
            raise StackError(f"{self._main} cannot be run; what it is a fork of ended with {parent.wait()}")
        return int(answer)
