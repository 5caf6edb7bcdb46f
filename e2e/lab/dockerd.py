# SPDX-License-Identifier: Apache-2.0
"""Docker's daemon beside whatever else runs here: with a socket, a state and mounts of its own, and no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from e2e.lab.errors import LabError

UP_S = 300.0


def why_unavailable() -> str | None:
    """Return why no dockerd can be run here, or None."""
    if os.geteuid() != 0:
        return "dockerd is run by root only"
    missing = [
        program for program in ("dockerd", "containerd", "runc", "docker", "unshare") if shutil.which(program) is None
    ]
    return f"{', '.join(missing)} not installed; try the package docker.io" if missing else None


@contextmanager
def running() -> Iterator[str]:
    """Run a daemon that keeps everything in a folder of its own; yield what DOCKER_HOST has to be.

    The folder's name is short, for containerd's sockets are below it and their names are bounded.
    """
    with TemporaryDirectory(prefix="dkr-", ignore_cleanup_errors=True) as folder:
        yield from _running(Path(folder))


def _running(folder: Path) -> Iterator[str]:
    host = f"unix://{folder}/docker.sock"
    (folder / "daemon.json").write_text("{}")
    flags = {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
    command = [
        *("unshare", "--mount", "dockerd", "--host", host, "--storage-driver=vfs"),
        *("--iptables=false", "--ip6tables=false", "--bridge=none"),
        *(f"--{name}={folder}/{place}" for name, place in flags.items()),
    ]
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_answer(host, daemon, folder / "dockerd.log")
        yield host
    finally:
        daemon.terminate()
        daemon.wait(60)


def _await_answer(host: str, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_S
    asking = ("docker", "--host", host, "version")
    while subprocess.run(asking, capture_output=True, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"dockerd does not come up; its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
