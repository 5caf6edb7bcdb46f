# SPDX-License-Identifier: Apache-2.0
"""What the clusters that we reach only through a kubeconfig share."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from contract.rawapi import RawApi, UnsupportedCredentials

from e2e.clusters.api.counts import parse_counts
from e2e.clusters.api.kubectl import find_kubectl, output_of
from e2e.clusters.api.readiness import served
from e2e.clusters.cluster import COMPONENTS, Capability, Request
from e2e.clusters.errors import ClusterError, NotSupported

LOAD_S = 600.0


class RemoteCluster:
    """A complete cluster that runs elsewhere."""

    name = "remote"

    def __init__(self, workdir: Path, *, kubeconfig: Path) -> None:
        self.workdir = workdir
        self.kubeconfig = kubeconfig
        self.kubectl = find_kubectl()
        try:
            self._api = RawApi.from_kubeconfig(kubeconfig)
        except UnsupportedCredentials as error:
            raise ClusterError(str(error)) from error
        self.url = self._api.url

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What follows from the version; whole clusters collect garbage and count requests."""
        return self._served | {Capability.GC, Capability.COUNTS}

    @cached_property
    def _served(self) -> frozenset[Capability]:
        return served(self._api)

    def kubeconfig_for(self, user: str) -> Path:
        """Return the administrator's kubeconfig: users of such a cluster are not ours to make."""
        if user not in COMPONENTS:
            raise ClusterError(f"no user {user!r}; there are {', '.join(COMPONENTS)}")
        return self.kubeconfig

    def stop_apiserver(self) -> None:
        """The control plane is not ours to stop."""
        raise NotSupported(f"the apiserver of {self.name} cannot be stopped from here")

    def start_apiserver(self) -> None:
        """The control plane is not ours to start."""
        raise NotSupported(f"the apiserver of {self.name} cannot be started from here")

    def request_counts(self) -> Mapping[Request, int]:
        """Return the counts of the one apiserver that answers."""
        return parse_counts(self._api.get("/metrics", accept="text/plain").body)

    def audit_log(self) -> Path:
        """The apiserver's files are not ours to read."""
        raise NotSupported(f"the audit log of {self.name} cannot be read from here")

    def compact(self) -> None:
        """The storage is not ours."""
        raise NotSupported(f"the history of {self.name} cannot be compacted from here")

    def save(self) -> None:
        """The storage is not ours."""
        raise NotSupported(f"what {self.name} stores cannot be copied from here")

    restore = save

    def stop(self) -> None:
        """Forget the connections."""
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class PodCluster(RemoteCluster, ABC):
    """A cluster of one node that runs Pods of images that were built here; addresses of its Services are reached."""

    namespace = "default"
    disposable = True

    def load(self, images: Iterable[str]) -> None:
        """Copy images of the local storage, which buildah and podman share, to the node; layers in common go once."""
        with tempfile.TemporaryDirectory(prefix="praetor-load-") as folder:
            archive = str(Path(folder, "images.tar"))
            save = ["podman", "save", "--quiet", "--multi-image-archive", "--format=docker-archive"]
            output_of([*save, f"--output={archive}", *images], timeout_s=LOAD_S)
            self._load(archive)

    @abstractmethod
    def _load(self, archive: str) -> None:
        """Put the images in *archive* on the node."""

    @abstractmethod
    def power_off(self) -> None:
        """Kill the node's kubelet, control plane and Pods at once."""

    @abstractmethod
    def power_on(self) -> None:
        """Start the node again, with what is on its disk; returns when its apiserver answers."""
