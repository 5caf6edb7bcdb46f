# SPDX-License-Identifier: Apache-2.0
"""The embedded control plane as a cluster: one child process, a SQLite file, TLS on loopback."""

from __future__ import annotations

import sys
from http import HTTPStatus
from pathlib import Path

from e2e.clusters.cluster import Capability
from e2e.clusters.errors import ClusterError
from e2e.clusters.local import LocalCluster
from e2e.clusters.programs.ports import free_ports
from e2e.clusters.programs.process import Process

PROJECT = Path(__file__).resolve().parents[2]


class Embedded(LocalCluster):
    """`python -m kubeplane`; its objects outlive an outage of the process."""

    name = "embedded"
    capabilities = frozenset(
        {
            Capability.CEL,
            Capability.SELECTABLE_FIELDS,
            Capability.GC,
            Capability.RBAC,
            Capability.PROGRAMS,
            Capability.OUTAGE,
            Capability.COUNTS,
            Capability.COMPACT,
            Capability.AUDIT,
            Capability.RESTORE,
        }
    )

    def __init__(self, workdir: Path) -> None:
        self._cert_dir = workdir / "certs"
        # kubectl sends its token over TLS only
        super().__init__(workdir, scheme="https", ca=self._cert_dir / "apiserver.crt", stored="embedded.db*")
        self._start(self._launch)

    def compact(self) -> None:
        """Forget all history."""
        answer = self._api().post("/-/compact", None)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ClusterError(f"cannot compact: {answer.status} {answer.message}")

    def _launch(self) -> None:
        (port,) = free_ports(1)
        self._address(port)
        self._apiserver = self._run_apiserver()

    def _run_apiserver(self) -> Process:
        argv = [
            sys.executable,
            "-m",
            "kubeplane",
            f"--port={self.url.rpartition(':')[2]}",
            f"--kubeconfig-out={self.workdir / 'embedded.kubeconfig'}",
            f"--cert-dir={self._cert_dir}",
            f"--data={self.workdir / 'embedded.db'}",
            f"--token-auth-file={self.token_file}",
            "--authorization-mode=RBAC",
            f"--audit-log-path={self.audit_log()}",
        ]
        return Process(argv, log=self.workdir / "embedded.log", cwd=PROJECT)
