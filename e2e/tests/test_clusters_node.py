# SPDX-License-Identifier: Apache-2.0
"""The launcher of a node against a stand-in for the program that starts it, which records its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.clusters.api.credentials import write_kubeconfig
from e2e.clusters.errors import ClusterError
from e2e.clusters.node import VARIABLE, Node
from e2e.stack.waiting import eventually

PROJECT = Path(__file__).parents[2]
NODE_UP = """#!/bin/sh
echo "$@" >> {log}
case $1 in --*) exit 0;; esac
[ ! -e {broken} ] || {{ echo "no kubelet here" >&2; exit 1; }}
echo ready > "$1/kubelet.log"
cp {admin} "$1/admin.kubeconfig"
echo "$1/admin.kubeconfig"
"""
KUBECTL = "#!/bin/sh\necho authority\n"
PODMAN = '#!/bin/sh\necho "podman $@" >> {log}\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-ins where the launcher finds them; return the file that records their calls."""
    log, programs = tmp_path / "log", tmp_path / "bin"
    programs.mkdir()
    admin = write_kubeconfig(tmp_path / "admin", url="https://127.0.0.1:1", user="me", credentials={"token": "t"})
    config = yaml.safe_load(admin.read_text())
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    admin.write_text(yaml.safe_dump(config))
    texts = {
        "node-up": NODE_UP.format(log=log, admin=admin, broken=tmp_path / "broken"),
        "kubectl": KUBECTL,
        "buildah": "#!/bin/sh\n",
        "podman": PODMAN.format(log=log),
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the lock is: a real node may run beside this test
    monkeypatch.setenv(VARIABLE, str(programs / "node-up"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("PRAETOR_ASSETS", raising=False)
    return log


@pytest.fixture
def node(log: Path, tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path / "work") as node:
        yield node


def asked(log: Path) -> list[str]:
    """Return the first word of each call of the stand-in for node-up; a folder is a start."""
    return [line.split()[0] for line in log.read_text().splitlines()]


def test_a_node_is_started_and_ended_and_only_its_logs_are_left(log: Path, node: Node, tmp_path: Path) -> None:
    [folder] = asked(log)
    assert Path(folder).is_dir()
    node.stop()
    assert log.read_text().splitlines() == [folder, f"--down {folder}"]
    assert not Path(folder).exists()
    assert (tmp_path / "work" / "kubelet.log").read_text() == "ready\n"


def test_the_apiserver_is_verified_with_the_authority_that_pods_get(node: Node) -> None:
    [entry] = yaml.safe_load(node.kubeconfig.read_text())["clusters"]
    assert Path(entry["cluster"]["certificate-authority"]).read_text() == "authority\n"
    assert "insecure-skip-tls-verify" not in entry["cluster"]


def test_images_are_put_on_the_node_in_one_archive(log: Path, node: Node) -> None:
    node.load(["localhost/one:1", "localhost/two:1"])
    started, saved, loaded = log.read_text().splitlines()
    archive = loaded.split()[-1]
    assert saved.startswith("podman save ")
    assert saved.endswith(
        f" --multi-image-archive --format=docker-archive --output={archive} localhost/one:1 localhost/two:1"
    )
    assert loaded == f"--load {started} {archive}"


def test_there_is_one_node_at_a_time(node: Node, log: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="runs on this machine already"):
        Node(tmp_path / "second")
    assert len(asked(log)) == 1, "the first one is left alone"


def test_a_node_that_does_not_start_is_ended_and_explained(log: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(ClusterError, match="no kubelet here"):
        Node(tmp_path / "work")
    started, ended = log.read_text().splitlines()
    assert ended == f"--down {started}"
    assert not Path(started).exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_node_does_not_outlive_its_starter(log: Path, tmp_path: Path, sign: signal.Signals) -> None:
    argv = [sys.executable, "-m", "e2e.clusters", "up", "node", "--workdir", str(tmp_path / "work")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == str(tmp_path / "work" / "admin.kubeconfig")
        running.send_signal(sign)
    folder = asked(log)[0]
    eventually(lambda: not Path(folder).exists(), what="its files are removed")
    assert log.read_text().splitlines() == [folder, f"--down {folder}"]


def test_a_machine_that_cannot_run_a_node_is_refused_by_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ClusterError, match=f"node needs .*{VARIABLE}, the path of a program"):
        Node(tmp_path)
