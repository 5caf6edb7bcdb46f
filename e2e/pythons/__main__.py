# SPDX-License-Identifier: Apache-2.0
"""`hatch run pythons`: the tests of the agent and of the device half of praetor-api, on old and new Pythons.

What this machine has no interpreter for is named as not run. `--short` takes a part of the tests, and runs the single
file of dist/ if it was built.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from attrs import frozen

from e2e.pythons.interpreters import Interpreter, environment, find, make
from e2e.release.build import ROOT

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
AGENT = Path("packages", "praetor-agent", "tests")
API = Path("packages", "praetor-api", "tests")
HALF = tuple(
    str(API / f"test_{name}.py")
    for name in ("backports", "canonical", "files", "names", "protocol", "tokens", "values", "wire")
)
"""The tests of what praetor-api has for devices; those of praetor_api.kube need Python 3.11."""
CORE = tuple(str(AGENT / f"test_agent_{name}.py") for name in ("gateway", "store", "rollback", "systemd"))
ZIPAPP = ROOT / "dist" / "praetor-agent.pyz"
TESTS_S = 3600


@frozen(kw_only=True)
class Run:
    """A Python, and the packages that a lock of requirements/ names for it."""

    python: str
    lock: str


RUNS = (
    Run(python="3.9", lock="python39-debian11.txt"),
    Run(python="3.9", lock="python39.txt"),
    Run(python="3.13", lock="python313.txt"),
)


@click.command()
@click.option("--short", is_flag=True, help="A part of the tests: about a minute each.")
def main(short: bool) -> None:
    """Run the tests on each Python that is here; exit 1 if any failed."""
    failed = False
    found = {run.python: find(run.python) for run in RUNS}
    for run in RUNS:
        interpreter = found[run.python]
        if interpreter is None:
            click.echo(f"not run: there is no Python {run.python} on PATH, of pyenv, or made by e2e/lab/get-debian")
            continue
        began = time.monotonic()
        status = _tested(run, interpreter, short=short)
        click.echo(f"Python {run.python}, {run.lock}: {status} ({time.monotonic() - began:.0f} s)")
        failed = failed or status != "passed"
    if others := [version for version in PYTHONS if version not in found]:
        click.echo(f"not run by this command: {', '.join(others)}")
    sys.exit(failed)


def _tested(run: Run, interpreter: Interpreter, *, short: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="praetor-pythons-") as name:
        folder = Path(name)
        python = make(interpreter, ROOT / "requirements" / run.lock, folder / "env")
        tests = (*HALF, *CORE) if short else (*HALF, str(AGENT))
        # urllib3 1.26 leaves the connections of a session that a test does not close to the garbage collector
        options = (
            "-p",
            "no:cacheprovider",
            "-n",
            "3",
            f"--basetemp={folder / 'tests'}",
            "-W",
            "ignore::ResourceWarning",
        )
        started = interpreter.command(folder)
        commands = [(*started, str(python), "-m", "pytest", *options, *tests)]
        if short and ZIPAPP.exists():
            commands.append((*started, str(python), "-I", "-S", str(ZIPAPP), "--help"))
        for command in commands:
            done = subprocess.run(
                command, cwd=ROOT, env=environment(), timeout=TESTS_S, check=False, capture_output=True, text=True
            )
            if done.returncode:
                click.echo(done.stdout + done.stderr)
                return "failed"
    return "passed"


if __name__ == "__main__":
    main()
