# SPDX-License-Identifier: Apache-2.0
"""The kind launcher against a stand-in for the kind program that records its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from e2e.clusters.api.credentials import write_kubeconfig

PROJECT = Path(__file__).parents[2]
KIND = """#!/bin/sh
echo "$1 $2" >> {log}
for word; do case $word in --kubeconfig=*) cp -n {kubeconfig} "${{word#--kubeconfig=}}";; esac; done
"""


def stand_in(folder: Path, name: str, text: str) -> None:
    """Put a program *name* into *folder*."""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_a_kind_cluster_is_made_and_deleted(tmp_path: Path) -> None:
    made = write_kubeconfig(tmp_path / "made", url="http://127.0.0.1:1", user="me", credentials={"token": "t"})
    log = tmp_path / "log"
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in(programs, "kind", KIND.format(log=log, kubeconfig=made))
    for name in ("docker", "kubectl"):
        stand_in(programs, name, "#!/bin/sh\n")
    argv = [sys.executable, "-m", "e2e.clusters", "up", "kind", "--workdir", str(tmp_path / "work")]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment) as running:
        assert running.stdout is not None
        kubeconfig = Path(running.stdout.readline().strip())
        assert kubeconfig.read_text() == made.read_text()
        assert log.read_text().splitlines() == ["create cluster"]
        running.send_signal(signal.SIGTERM)
    assert running.returncode == 0
    assert log.read_text().splitlines() == ["create cluster", "delete cluster"]
