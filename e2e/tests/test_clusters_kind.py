# SPDX-License-Identifier: Apache-2.0
"""The kind launcher against a stand-in for the kind program that records its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from e2e.clusters.api.credentials import write_kubeconfig
from e2e.clusters.envtest import ASSETS_VARIABLES
from e2e.clusters.kind import OF_KIND, Kind

PROJECT = Path(__file__).parents[2]
KIND = """#!/bin/sh
echo "$1 $2" >> {log}
for word; do case $word in --kubeconfig=*) cp -n {kubeconfig} "${{word#--kubeconfig=}}";; esac; done
"""


RECORDED = '#!/bin/sh\necho "$*" | sed "s|^|{name} |" >> {log}\n'


class Ready(BaseHTTPRequestHandler):
    """An apiserver that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")


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


def test_its_node_gets_images_is_reached_and_loses_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, programs = tmp_path / "log", tmp_path / "bin"
    programs.mkdir()
    for variable in ASSETS_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name in ("docker", "podman", "sudo", "ip"):
        stand_in(programs, name, RECORDED.format(name=name, log=log))
    stand_in(programs, "kubectl", "#!/bin/sh\necho 172.18.0.2\n")
    with HTTPServer(("127.0.0.1", 0), Ready) as apiserver:
        Thread(target=apiserver.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{apiserver.server_port}"
        made = write_kubeconfig(tmp_path / "made", url=url, user="me", credentials={"token": "t"})
        stand_in(programs, "kind", KIND.format(log=log, kubeconfig=made))
        with Kind(tmp_path / "work") as kind:
            kind.load(["localhost/one:1"])
            kind.load(["localhost/two:1"])
            kind.power_off()
            kind.power_on()
        apiserver.shutdown()
    asked = [line for line in log.read_text().splitlines() if not line.startswith("podman save ")]
    killed, started = (line for line in asked if line.startswith("docker "))
    assert killed.replace("kill", "start") == started
    assert killed.startswith("docker kill praetor-")
    ip = "ip" if os.geteuid() == 0 else "sudo --non-interactive ip"
    assert asked == [
        "create cluster",
        "load image-archive",
        *(f"{ip} route add {network} via 172.18.0.2" for network in OF_KIND),
        "load image-archive",
        killed,
        started,
        *(f"{ip} route del {network}" for network in OF_KIND),
        "delete cluster",
    ]
