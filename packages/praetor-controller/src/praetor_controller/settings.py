# SPDX-License-Identifier: Apache-2.0
"""The options as one frozen value, checked once."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from praetor_api.kube.options import BindAddress


@frozen(kw_only=True)
class Recording:
    """The file that decisions are recorded in, its maximum size, and the maximum number of such files."""

    path: Path
    max_bytes: int
    files: int


@frozen(kw_only=True)
class Settings:
    """The options of the command line and the environment."""

    kubeconfig: str | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    metrics: BindAddress | None
    probes: BindAddress | None
    leader_elect: bool = True
    leader_elect_namespace: str = "praetor-system"
    gateway_lease_namespace: str = "praetor-system"
    lease_duration_s: float = 15.0
    qps: float = 2000.0
    burst: int = 2000
    workers: int = 4
    recording: Recording | None = None
    tracing: bool = False
