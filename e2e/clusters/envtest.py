# SPDX-License-Identifier: Apache-2.0
"""A real etcd, kube-apiserver and kube-controller-manager out of KUBEBUILDER_ASSETS, without nodes."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any

import requests

from e2e.clusters.api import audit, credentials
from e2e.clusters.api.kubectl import output_of
from e2e.clusters.api.readiness import served
from e2e.clusters.cluster import Capability
from e2e.clusters.errors import ClusterError
from e2e.clusters.local import LocalCluster
from e2e.clusters.programs.ports import free_ports
from e2e.clusters.programs.process import Process

ASSETS_VARIABLES = ("KUBEBUILDER_ASSETS", "PRAETOR_ASSETS")
GRACE_S = 0.5  # the apiserver would wait a minute for its watches; etcd holds all that matters
MAX_OPERATIONS = 100
"""Puts in one transaction; etcd takes 128."""
CONTROLLERS = "garbagecollector,namespace,serviceaccount"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def find_assets(folder: Path | None = None) -> Path:
    """Return the folder of the control plane's programs: *folder*, else what the environment names."""
    named = folder or next((Path(os.environ[name]) for name in ASSETS_VARIABLES if os.environ.get(name)), None)
    if named is None:
        raise ClusterError(
            "envtest needs a folder with etcd and kube-apiserver: set KUBEBUILDER_ASSETS or give --assets"
        )
    missing = [program for program in ("etcd", "kube-apiserver") if not os.access(named / program, os.X_OK)]
    if missing:
        raise ClusterError(f"{named} has no {' and no '.join(missing)}; point KUBEBUILDER_ASSETS at a complete folder")
    return named


class Envtest(LocalCluster):
    """Real etcd and kube-apiserver; the controller-manager, where there is one, collects garbage and namespaces.

    Without *controllers* it does not run: it follows all objects of all kinds, too.
    """

    name = "envtest"

    def __init__(
        self,
        workdir: Path,
        *,
        assets: Path | None = None,
        policy: audit.Policy = audit.EVERYTHING,
        controllers: bool = True,
    ) -> None:
        self._assets = find_assets(assets)
        self._has_controllers = controllers and os.access(self._assets / "kube-controller-manager", os.X_OK)
        self._policy = policy
        self._cert_dir = workdir / "certs"
        self._cert_dir.mkdir(parents=True, exist_ok=True)
        # the apiserver signs its own certificate on the first start, and that file holds its issuer, too
        ca = self._cert_dir / "apiserver.crt"
        super().__init__(workdir, scheme="https", ca=ca, assets=self._assets, stored="etcd")
        self._key, self._public_key = credentials.service_account_keys(workdir)
        self._etcd: Process | None = None
        self._controllers: Process | None = None
        self._etcd_url = self._peer_url = ""
        self._start(self._launch)
        self._controllers = self._run_controllers()

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """What the apiserver's version and the programs at hand allow."""
        own = {Capability.RBAC, Capability.OUTAGE, Capability.COUNTS, Capability.COMPACT, Capability.AUDIT}
        own |= {Capability.RESTORE, Capability.PROGRAMS}
        if self._controllers is not None:
            own.add(Capability.GC)
        return served(self._api()) | own

    def compact(self) -> None:
        """Have etcd forget everything before the newest revision, through its JSON gateway.

        Like an apiserver that compacts, it notes the revision where all apiservers see it: since 1.34 each keeps old
        lists in its memory until it does, which takes up to 15 s.
        """
        newest = self._etcd_call("kv/range", {"key": _encoded("\0")})["header"]["revision"]
        self._etcd_call("kv/put", {"key": _encoded("compact_rev_key"), "value": _encoded(newest)})
        self._etcd_call("kv/compaction", {"revision": newest, "physical": True})

    def restore(self) -> None:
        """Put the copy in the place of what is stored; controllers restart, for they follow no cluster back."""
        if self._controllers is not None:
            self._controllers.stop()
        super().restore()
        self._controllers = self._run_controllers()

    def stored(self, prefix: str) -> dict[str, str]:
        """Return what etcd has under *prefix*, as the apiserver wrote it."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer: Any = self._etcd_call("kv/range", {"key": _encoded(prefix), "range_end": _encoded(end)})
        return {_decoded(each["key"]): _decoded(each["value"]) for each in answer.get("kvs", ())}

    def store(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Put *pairs* into etcd past the apiserver, which notices them as if another one had written them."""
        left = iter(pairs)
        while some := list(islice(left, MAX_OPERATIONS)):
            puts = [{"requestPut": {"key": _encoded(key), "value": _encoded(value)}} for key, value in some]
            self._etcd_call("kv/txn", {"success": puts})

    def stop(self) -> None:
        """End all programs, the ones that write first."""
        if self._controllers is not None:
            self._controllers.stop()
        super().stop()
        if self._etcd is not None:
            self._etcd.stop()

    def _launch(self) -> None:
        secure, client, peer = free_ports(3)
        self._address(secure)
        self._etcd_url = f"http://127.0.0.1:{client}"
        self._peer_url = f"http://127.0.0.1:{peer}"
        self._etcd = self._run_etcd()
        self._apiserver = self._run_apiserver()  # it waits for etcd by itself

    def _swap_store(self, swap: Callable[[], None]) -> None:
        if self._etcd is not None:
            self._etcd.stop()
        swap()
        self._etcd = self._run_etcd()

    def _run_etcd(self) -> Process:
        return self._run(
            "etcd",
            f"--data-dir={self.workdir / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={self._peer_url}",
            "--unsafe-no-fsync",  # it need not outlive a power cut
            "--quota-backend-bytes=8589934592",  # 100,000 devices are more than the 2 GiB of the default
            "--snapshot-count=10000",  # it keeps as many requests in memory, 100,000 unless told
        )

    def _run_apiserver(self) -> Process:
        return self._run(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--secure-port={self.url.rpartition(':')[2]}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self._cert_dir}",
            f"--service-account-key-file={self._public_key}",
            f"--service-account-signing-key-file={self._key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self.token_file}",
            "--authorization-mode=RBAC",
            f"--audit-policy-file={audit.write_policy(self.workdir / 'audit-policy.yaml', self._policy)}",
            f"--audit-log-path={self.audit_log()}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",  # nothing makes service accounts' tokens here
        )

    def _run_controllers(self) -> Process | None:
        if not self._has_controllers:
            return None
        return self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self._key}",
            f"--controllers={CONTROLLERS}",
            "--leader-elect=false",  # it would end itself in an outage of the apiserver
            "--secure-port=0",
            *(("--port=0",) if self._knows("kube-controller-manager", "--port") else ()),  # before 1.24
        )

    def _knows(self, program: str, flag: str) -> bool:
        """Return whether *program* takes *flag*, which a newer or older one may not."""
        return f" {flag} " in output_of([str(self._assets / program), "--help"])

    def _run(self, program: str, *flags: str) -> Process:
        argv = [str(self._assets / program), *flags]
        return Process(argv, log=self.workdir / f"{program}.log", cwd=self.workdir, grace_s=GRACE_S)

    def _processes(self) -> Iterable[Process]:
        return (*(() if self._etcd is None else (self._etcd,)), *super()._processes())

    def _etcd_call(self, method: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        response = requests.post(f"{self._etcd_url}/v3/{method}", json=body, timeout=10)
        if response.status_code != HTTPStatus.OK:
            raise ClusterError(f"etcd refused {method}: {response.text}")
        answer: dict[str, dict[str, str]] = response.json()
        return answer
