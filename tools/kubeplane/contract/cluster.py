# SPDX-License-Identifier: Apache-2.0
"""What the contract needs of the cluster that it checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Cluster(Protocol):
    """A running Kubernetes API. Members beside the first three are used by tests that need that capability only."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        ...

    @property
    def kubectl(self) -> str | None:
        """The kubectl program that fits this cluster; without one its tests are skipped."""
        ...

    @property
    def disposable(self) -> bool:
        """Whether it ends with everything in it, so that nothing needs to be removed."""
        ...

    def kubeconfig_for(self, user: str) -> Path:
        """Return the kubeconfig of *user* (rbac)."""
        ...

    def stop_apiserver(self) -> None:
        """Break all connections; what is stored stays (outage)."""
        ...

    def start_apiserver(self) -> None:
        """End the outage (outage)."""
        ...

    def request_counts(self) -> Mapping[tuple[str, str], int]:
        """Return how many requests were answered by verb and `plural` or `plural/subresource` (counts)."""
        ...

    def compact(self) -> None:
        """Forget the history, so that older resourceVersions are 410 Gone (compact)."""
        ...
