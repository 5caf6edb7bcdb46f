# SPDX-License-Identifier: Apache-2.0
"""A cluster of one node that runs real Pods, started by the program that PRAETOR_LAB_NODE_UP names.

That program starts the cluster with `node-up FOLDER`, which prints the path of the administrator's kubeconfig, puts
images on the node with `node-up --load FOLDER ARCHIVE…`, and ends it with `node-up --down FOLDER`. Where it is called
again for a FOLDER whose programs were killed, it starts them with what they have stored. The node is the network
namespace praetor-lab, and each of its Pods one whose name begins with cni-; FOLDER/netns.before lists those of others.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml

from e2e.clusters.api.credentials import write_secret
from e2e.clusters.api.kubectl import find_kubectl, output_of
from e2e.clusters.errors import ClusterError
from e2e.clusters.programs.process import Process
from e2e.clusters.remote import LOAD_S, PodCluster

VARIABLE = "PRAETOR_LAB_NODE_UP"
KEEP_NODE = Path(__file__).parent / "programs" / "keep-node"
AUTHORITY = ("get", "configmap", "kube-root-ca.crt", "--namespace=default", r"-o=jsonpath={.data.ca\.crt}")
START_S = 600.0  # it takes half a minute on two cores
DOWN_S = 300.0
POLL_S = 0.2


def missing_parts() -> list[str]:
    """Return what this machine lacks for a node, in words."""
    missing = [] if os.geteuid() == 0 else ["root"]
    named = os.environ.get(VARIABLE)
    if not named or not os.access(named, os.X_OK):
        missing.append(f"{VARIABLE}, the path of a program that starts a one-node cluster (see e2e/clusters/node.py)")
    missing += [program for program in ("buildah", "podman", "flock") if not shutil.which(program)]
    return missing if find_kubectl() else [*missing, "kubectl"]


class Node(PodCluster):
    """A kubelet, its scheduler and its proxy beside a real apiserver; all of it ends with us, even if we are killed."""

    name = "node"

    def __init__(self, workdir: Path) -> None:
        if missing := missing_parts():
            raise ClusterError(f"node needs {', '.join(missing)}; provide it or use --cluster embedded")
        workdir.mkdir(parents=True, exist_ok=True)
        self._node_up = os.environ[VARIABLE]
        # a short path: sockets are in it; and not the caller's folder, for images are large
        self._folder = Path(tempfile.mkdtemp(prefix="praetor-node-"))
        ready = workdir / "ready"
        argv = ["bash", str(KEEP_NODE), self._node_up, str(self._folder), str(workdir), str(ready)]
        self._ready = ready
        self._keeper = Process(argv, log=workdir / "node-up.log", cwd=workdir, grace_s=DOWN_S)
        try:
            self._await_power(on=True)
            admin = Path(ready.read_text().strip())
            super().__init__(workdir, kubeconfig=_with_authority(admin, workdir / "admin.kubeconfig"))
        except BaseException:
            self._end()
            raise

    def _load(self, archive: str) -> None:
        output_of([self._node_up, "--load", str(self._folder), archive], timeout_s=LOAD_S)

    def power_off(self) -> None:
        """Kill the node's kubelet, control plane and Pods at once; no connection is ended in order."""
        self._send(signal.SIGUSR1)
        self._await_power(on=False)

    def power_on(self) -> None:
        """Start the node again, with what is on its disk; returns when its apiserver answers."""
        self._send(signal.SIGUSR2)
        self._await_power(on=True)

    def stop(self) -> None:
        """End the cluster and remove its files; its logs stay in the work directory."""
        super().stop()
        self._end()

    def _end(self) -> None:
        self._keeper.stop()
        with suppress(OSError):  # keep-node removes it, unless it refused to start
            self._folder.rmdir()

    def _send(self, sign: signal.Signals) -> None:
        os.kill(int(Path(f"{self._ready}.pid").read_text()), sign)

    def _await_power(self, *, on: bool) -> None:
        deadline = time.monotonic() + START_S
        while self._ready.exists() != on:
            self._keeper.check()
            if time.monotonic() > deadline:
                word = "ready" if on else "off"
                raise ClusterError(f"the node is not {word} after {START_S:g} s; see {self._keeper.log}")
            time.sleep(POLL_S)


def _with_authority(admin: Path, path: Path) -> Path:
    """Write a copy of *admin* that verifies the apiserver with the authority that the cluster gives its Pods."""
    deadline = time.monotonic() + START_S
    kubectl = [str(find_kubectl()), f"--kubeconfig={admin}"]
    while True:
        try:
            authority = output_of([*kubectl, *AUTHORITY])
            break
        except ClusterError:  # its controller has not written it yet
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
    config = yaml.safe_load(admin.read_text())
    ca = write_secret(path.with_suffix(".ca"), authority.encode())
    for entry in config["clusters"]:
        del entry["cluster"]["insecure-skip-tls-verify"]
        entry["cluster"]["certificate-authority"] = str(ca)
    return write_secret(path, yaml.safe_dump(config, sort_keys=False).encode())
