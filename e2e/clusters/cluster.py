# SPDX-License-Identifier: Apache-2.0
"""What every kind of cluster offers to the suite, the demo and the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

CONTROLLER = "praetor-controller"
GATEWAY = "praetor-gateway"
COMPONENTS = (CONTROLLER, GATEWAY)
SYSTEM_NAMESPACE = "praetor-system"
TENANT = "praetor-tenant"
"""A user without any rights but those that a test grants."""


def account(program: str) -> str:
    """Return the user that a program of COMPONENTS is to the apiserver: its service account of deploy/base."""
    return f"system:serviceaccount:{SYSTEM_NAMESPACE}:{program}"


class Capability(StrEnum):
    """Something that only some clusters do."""

    CEL = "cel"  # x-kubernetes-validations of a CRD are enforced
    SELECTABLE_FIELDS = "selectable_fields"  # of a CRD, for field selectors
    POLICIES = "policies"  # ValidatingAdmissionPolicies are enforced
    GC = "gc"  # owner references are garbage collected
    RBAC = "rbac"  # a component's user may do only what it was granted
    PROGRAMS = "programs"  # controller and gateways are processes of this machine, which a test may end
    OUTAGE = "outage"  # stop_apiserver, start_apiserver
    COUNTS = "counts"  # request_counts
    COMPACT = "compact"  # compact
    AUDIT = "audit"  # audit_log
    RESTORE = "restore"  # save, restore


class Request(NamedTuple):
    """What the apiserver counts requests by; *resource* is `plural` or `plural/subresource`."""

    verb: str
    resource: str


class Cluster(Protocol):
    """A running Kubernetes API; leaving the context ends or cleans what was started or made."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig file."""
        ...

    @property
    def kubectl(self) -> str | None:
        """The kubectl program that fits this cluster, if one was found."""
        ...

    @property
    def namespace(self) -> str:
        """The namespace that is the caller's to fill; on a cluster of others it is made and removed by us."""
        ...

    @property
    def disposable(self) -> bool:
        """Whether it ends with everything in it, so that nothing needs to be removed first."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...
    def kubeconfig_for(self, user: str) -> Path:
        """Return the kubeconfig of a user, one of COMPONENTS or, where there is RBAC, TENANT."""
        ...

    def stop_apiserver(self) -> None:
        """Simulate an outage; connections break, nothing stored is lost."""
        ...

    def start_apiserver(self) -> None:
        """End the outage; returns when the apiserver is ready at the same address."""
        ...

    def request_counts(self) -> Mapping[Request, int]:
        """Return how many requests the apiserver answered since it started (a watch counts when it ends)."""
        ...

    def audit_log(self) -> Path:
        """Return the file that records each write of our kinds, an audit.k8s.io/v1 Event on each line."""
        ...

    def compact(self) -> None:
        """Forget all history, so that older resourceVersions are 410 Gone."""
        ...

    def save(self) -> None:
        """Keep a copy of all that is stored; the apiserver ends meanwhile."""
        ...

    def restore(self) -> None:
        """Go back to what `save` kept, as from a backup; the apiserver ends meanwhile."""
        ...

    def stop(self) -> None:
        """End it; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
