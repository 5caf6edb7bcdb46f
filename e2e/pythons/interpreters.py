# SPDX-License-Identifier: Apache-2.0
"""Interpreters of this machine, and environments of theirs that hold the agent's tests and what those need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from e2e.lab import debian
from e2e.release.build import ROOT

INSTALL_S = 600
SOURCES = (
    ".",
    "packages/praetor-api/src",
    "packages/praetor-api/tests",
    "packages/praetor-agent/src",
    "packages/praetor-agent/tests",
)
FROM_DEBIAN = {"3.9": "bullseye", "3.13": "trixie"}


@frozen(kw_only=True)
class Interpreter:
    """A Python of this machine, or that of a Debian release in its root file system."""

    version: str
    program: str
    root: Path | None = None

    def command(self, *binds: Path) -> tuple[str, ...]:
        """Return what begins a command that may use the folders *binds*, and this repository."""
        if self.root is None:
            return ()
        shared = (f"--bind={path}" for path in (ROOT, *binds))
        options = ("-q", "--register=no", "--keep-unit", "--volatile=overlay", "-D", str(self.root), f"--chdir={ROOT}")
        return ("systemd-nspawn", *options, *shared, "--")


def find(version: str) -> Interpreter | None:
    """Return an interpreter of *version*, such as 3.9: one on PATH, of pyenv, or of a Debian root file system."""
    for program in _programs(version):
        asked = subprocess.run(
            [program, "-c", "import sys, ssl, zlib, ctypes; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if asked.stdout.strip() == version:
            return Interpreter(version=version, program=program)
    suite = FROM_DEBIAN.get(version)
    if suite is not None and debian.why_unavailable(suite) is None:
        return Interpreter(version=version, program=f"/usr/bin/python{version}", root=debian.rootfs(suite))
    return None


def make(interpreter: Interpreter, lock: Path, folder: Path) -> Path:
    """Make an environment in *folder* with what *lock* names and the sources of the agent; return its Python."""
    command = interpreter.command(folder.parent)
    _run(*command, interpreter.program, "-m", "venv", "--without-pip", "--clear", str(folder))
    packages = folder / "lib" / f"python{interpreter.version}" / "site-packages"
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--python-version", interpreter.version, "--require-hashes"),
        *("--target", str(packages), "-r", str(lock)),
    )
    (packages / "sources.pth").write_text("".join(f"{ROOT / source}\n" for source in SOURCES))
    return folder / "bin" / "python"


def _programs(version: str) -> Iterator[str]:
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    installed = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    yield from (str(path) for path in sorted(installed.glob(f"{version}.*/bin/python{version}")))


def environment() -> dict[str, str]:
    """Return this process's environment without the modules that are for the Python that runs it."""
    return {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _run(*argv: str) -> None:
    subprocess.run(argv, env=environment(), timeout=INSTALL_S, check=True)
