# SPDX-License-Identifier: Apache-2.0
"""What a benchmark gets: a folder, a cluster on demand, and how long it may take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
from attrs import frozen

from e2e.clusters.cluster import Cluster
from e2e.clusters.launch import launch
from e2e.stack.stack import environment

ROOT = Path(__file__).resolve().parents[3]
POLL_S = 0.02
WITHIN_S = 120.0

T = TypeVar("T")


class BenchError(click.ClickException):
    """A benchmark could not be run to its end."""


@frozen(kw_only=True)
class Context:
    """*quick* asks for seconds instead of minutes."""

    workdir: Path
    cluster: str
    assets: Path | None
    quick: bool

    def size(self, full: T, quick: T) -> T:
        """Return *full*, or *quick* in a quick run."""
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """Return a new folder."""
        path = self.workdir / name
        path.mkdir(parents=True)
        return path

    @contextmanager
    def launched(self, folder: Path | None = None) -> Iterator[Cluster]:
        """Run a fresh cluster of the chosen kind around the block; its files go to *folder*."""
        with launch(self.cluster, (folder or self.workdir) / "cluster", assets=self.assets) as cluster:
            yield cluster


def progress(what: str) -> None:
    """Print *what* happens to standard error, for the user who waits."""
    click.echo(f"  {what}", err=True)


def until(done: Callable[[], bool], what: str, *, within_s: float = WITHIN_S, poll_s: float = POLL_S) -> float:
    """Return how many seconds it took until *done*; BenchError when it takes longer than *within_s*."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > within_s:
            raise BenchError(f"not within {within_s:g} s: {what}")
        time.sleep(poll_s)
    return time.monotonic() - began


def run_module(name: str, *arguments: str, text: str | None = None, within_s: float = 300.0) -> str:
    """Run a module as a process with *text* as its input, and return its output; BenchError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        input=text,
        env=own_environment(),
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{name} failed:\n{done.stderr}")
    return done.stdout


def own_environment() -> dict[str, str]:
    """Return the environment for modules of the benchmarks that run as processes of their own."""
    return {
        **environment(),
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
        "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
    }
