# SPDX-License-Identifier: Apache-2.0
"""What the clusters that run as our own processes on this machine share: users, files, address, counts."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from contract.rawapi import RawApi

from e2e.clusters.api import credentials
from e2e.clusters.api.counts import parse_counts
from e2e.clusters.api.credentials import ADMIN
from e2e.clusters.api.kubectl import find_kubectl
from e2e.clusters.api.readiness import wait_ready
from e2e.clusters.cluster import COMPONENTS, TENANT, Capability, Request
from e2e.clusters.errors import ClusterError, NotSupported
from e2e.clusters.programs.process import Process

ATTEMPTS = 3
READY_S = 60.0


class LocalCluster(ABC):
    """An apiserver among our child processes; subclasses say how it is run.

    A subclass passes `_start` what starts everything and, where there is more to end, extends `stop`.
    """

    name = "local"
    namespace = "default"
    disposable = True

    def __init__(
        self,
        workdir: Path,
        *,
        scheme: str,
        ca: Path | None = None,
        assets: Path | None = None,
        stored: str = "",
    ) -> None:
        self.workdir = workdir
        self._stored = stored
        workdir.mkdir(parents=True, exist_ok=True)
        self.kubectl = find_kubectl(assets)
        self.url = ""
        self.tokens = credentials.new_tokens((*COMPONENTS, TENANT))
        self.token_file = credentials.write_secret(workdir / "tokens.csv", credentials.token_file(self.tokens).encode())
        self._scheme = scheme
        self._ca = ca
        self._apiserver: Process | None = None
        self._admin: RawApi | None = None

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this cluster can do."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._kubeconfig_path(ADMIN)

    def kubeconfig_for(self, user: str) -> Path:
        """Return the kubeconfig of a user."""
        if user not in self.tokens:
            raise ClusterError(f"no user {user!r}; there are {', '.join(self.tokens)}")
        return self._kubeconfig_path(user)

    def stop_apiserver(self) -> None:
        """End the apiserver only."""
        if self._apiserver is not None:
            self._apiserver.stop()
            self._apiserver = None

    def start_apiserver(self) -> None:
        """Run the apiserver at the same address; return when it is ready."""
        if self._apiserver is None:
            self._apiserver = self._run_apiserver()
        self._wait_ready()

    def request_counts(self) -> Mapping[Request, int]:
        """Return the apiserver's own counts."""
        return parse_counts(self._api().get("/metrics", accept="text/plain").body)

    def audit_log(self) -> Path:
        """Return the apiserver's audit log."""
        return self.workdir / "audit.log"

    def compact(self) -> None:
        """Forget all history."""
        raise NotSupported(f"{self.name} cannot forget its history on demand")

    def save(self) -> None:
        """Keep a copy of the files that match *stored*."""
        self._with_store_stopped(lambda: self._copy_store(self.workdir, self.workdir / "backup"))

    def restore(self) -> None:
        """Put the copy in the place of what is stored."""
        self._with_store_stopped(lambda: self._copy_store(self.workdir / "backup", self.workdir))

    def _with_store_stopped(self, act: Callable[[], None]) -> None:
        self.stop_apiserver()
        self._swap_store(act)
        self.start_apiserver()

    def _swap_store(self, swap: Callable[[], None]) -> None:
        swap()

    def _copy_store(self, source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for old in target.glob(self._stored):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for path in source.glob(self._stored):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, target / path.name)

    def stop(self) -> None:
        """End the apiserver and forget the connections to it."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.stop_apiserver()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, launch: Callable[[], None]) -> None:
        """Call *launch* until the apiserver is ready, with other ports when another program took one of them."""
        for attempt in range(ATTEMPTS):
            try:
                launch()
                self._wait_ready()
                return
            except ClusterError:
                self.stop()
                if attempt == ATTEMPTS - 1 or not self._ports_clashed():
                    raise
            except BaseException:
                self.stop()
                raise

    def _ports_clashed(self) -> bool:
        return any("address already in use" in log.read_text(errors="replace") for log in self.workdir.glob("*.log"))

    def _address(self, port: int) -> None:
        self.url = f"{self._scheme}://127.0.0.1:{port}"
        for user, token in self.tokens.items():
            path = self._kubeconfig_path(user)
            credentials.write_kubeconfig(path, url=self.url, user=user, credentials={"token": token}, ca=self._ca)

    def _kubeconfig_path(self, user: str) -> Path:
        return self.workdir / f"{user}.kubeconfig"

    @abstractmethod
    def _run_apiserver(self) -> Process:
        """Start the apiserver at the address of before, or at a new one at first."""

    def _processes(self) -> Iterable[Process]:
        return () if self._apiserver is None else (self._apiserver,)

    def _api(self) -> RawApi:
        if self._admin is None or self._admin.url != self.url:
            self._admin = RawApi(self.url, token=self.tokens[ADMIN], verify=str(self._ca) if self._ca else True)
        return self._admin

    def _wait_ready(self) -> None:
        def check() -> None:
            for process in self._processes():
                process.check()

        wait_ready(self._api(), check=check, timeout_s=READY_S)
