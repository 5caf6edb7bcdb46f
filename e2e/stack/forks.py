# SPDX-License-Identifier: Apache-2.0
"""Import a program's modules once, and run it as often as asked, each time as a fork of this process.

Kept to the standard library; the first argument names the function to run, as `module:function`. On standard input
each line asks for something, in JSON: to start the program, or to return how it ended. When it closes, they all end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1


def start(entry: Any, argv: list[str], log: str) -> int:
    """Return the process id of a run of *entry*; in that process there is no return."""
    pid = os.fork()
    if pid == 0:
        run(entry, argv, log)
    return pid


def run(entry: Any, argv: list[str], log: str) -> NoReturn:
    """Become the program: its output goes to the file *log*, and it dies with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(ours, theirs)
    sys.argv = argv
    sys.exit(entry())


def main() -> None:
    """Do what the lines of standard input ask for, and answer each with a number."""
    module, _, name = sys.argv[1].partition(":")
    # by name: the caller chooses what to preload, and this file is run by its path, so it imports nothing itself
    entry = getattr(import_module(module), name)
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            answer = start(entry, asked["start"], asked["log"])
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
