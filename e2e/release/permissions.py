# SPDX-License-Identifier: Apache-2.0
"""What each program may do with the API, written down apart from the roles that grant it: both are held to this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

from e2e.clusters.cluster import COMPONENTS, CONTROLLER, GATEWAY, SYSTEM_NAMESPACE
from praetor_api.names import DEVICE_BINDINGS, FILE_DIGESTS

OURS = "azure.com"
APPS = "apps"
EVENTS = "events.k8s.io"
LEASES = "coordination.k8s.io"
CONFIG_MAPS = "configmaps"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
READ = ("get", "list", "watch")
DEVICES = ("networkswitches", "bmcs", "dpus", "servers", "socs")
DEVICES_NAMESPACE = "default"


class AccessRequest(NamedTuple):
    """A request as the apiserver authorizes it; *resource* is `plural` or `plural/subresource`."""

    program: str
    verb: str
    group: str
    resource: str
    namespace: str = DEVICES_NAMESPACE
    name: str = ""


def _requests(program: str, verbs: Iterable[str], group: str, *resources: str) -> Iterator[AccessRequest]:
    return (AccessRequest(program, verb, group, resource) for verb, resource in product(verbs, resources))


def _of_lease(program: str, name: str) -> Iterator[AccessRequest]:
    yield AccessRequest(program, "create", LEASES, "leases", SYSTEM_NAMESPACE)
    for verb in ("get", "patch"):
        yield AccessRequest(program, verb, LEASES, "leases", SYSTEM_NAMESPACE, name)


def _of_shared(program: str, *names: str) -> Iterator[AccessRequest]:
    yield AccessRequest(program, "create", "", CONFIG_MAPS, SYSTEM_NAMESPACE)
    for verb, name in product((*READ, "patch"), names):
        yield AccessRequest(program, verb, "", CONFIG_MAPS, SYSTEM_NAMESPACE, name)


ALLOWED = frozenset(
    (
        *_requests(CONTROLLER, READ, OURS, *DEVICES, "deviceprocessdeployments", "deviceprocesses"),
        *_requests(CONTROLLER, ("create", "patch", "delete"), OURS, "deviceprocesses"),
        *_requests(CONTROLLER, (*READ, "create", "patch", "delete"), APPS, "controllerrevisions"),
        *_requests(CONTROLLER, ("patch",), OURS, "deviceprocessdeployments/status"),
        *_requests(CONTROLLER, ("update",), OURS, "deviceprocessdeployments/finalizers"),
        *_requests(CONTROLLER, ("create", "patch"), EVENTS, "events"),
        *_requests(CONTROLLER, ("create", "patch"), "", "events"),
        *_of_lease(CONTROLLER, "praetor-controller"),
        AccessRequest(CONTROLLER, "get", LEASES, "leases", SYSTEM_NAMESPACE, "praetor-gateway-arbiter"),
        *(AccessRequest(CONTROLLER, verb, "", CONFIG_MAPS, SYSTEM_NAMESPACE, FILE_DIGESTS) for verb in READ),
        *_requests(GATEWAY, READ, OURS, *DEVICES, "deviceprocesses"),
        *_requests(GATEWAY, ("patch",), OURS, *(f"{plural}/status" for plural in (*DEVICES, "deviceprocesses"))),
        *_requests(GATEWAY, ("create", "patch"), EVENTS, "events"),
        *_requests(GATEWAY, ("create", "patch"), "", "events"),
        *_of_lease(GATEWAY, "praetor-gateway-arbiter"),
        *_of_shared(GATEWAY, DEVICE_BINDINGS, FILE_DIGESTS),
    )
)
"""All that a program may do; whatever else is refused."""

_TARGETS = (
    *product(
        (OURS,),
        (
            f"{plural}{part}"
            for plural in (*DEVICES, "deviceprocesses", "deviceprocessdeployments")
            for part in ("", "/status", "/finalizers", "/scale")
        ),
    ),
    *product((EVENTS, ""), ("events",)),
    *product(
        ("",),
        ("secrets", "pods", "pods/exec", "nodes", "namespaces", "serviceaccounts/token"),
    ),
    *product((APPS,), ("deployments", "controllerrevisions")),
    *product(("rbac.authorization.k8s.io",), ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
    *product(("apiextensions.k8s.io",), ("customresourcedefinitions",)),
)


def questions() -> Iterator[AccessRequest]:
    """Yield every verb on everything that matters, in both namespaces, by the names of both programs and others."""
    for program, verb in product(COMPONENTS, VERBS):
        for (group, resource), namespace in product(_TARGETS, (DEVICES_NAMESPACE, SYSTEM_NAMESPACE)):
            yield AccessRequest(program, verb, group, resource, namespace)
        for name, namespace in product(
            ("", "praetor-controller", "praetor-gateway-arbiter", "kube-scheduler"),
            (DEVICES_NAMESPACE, SYSTEM_NAMESPACE),
        ):
            yield AccessRequest(program, verb, LEASES, "leases", namespace, name)
        for name, namespace in product(
            ("", DEVICE_BINDINGS, FILE_DIGESTS, "kube-root-ca.crt"), (DEVICES_NAMESPACE, SYSTEM_NAMESPACE)
        ):
            yield AccessRequest(program, verb, "", CONFIG_MAPS, namespace, name)


def is_allowed(request: AccessRequest) -> bool:
    """Return what the answer must be: our kinds and events are in any namespace, and a create has no name yet."""
    if request.group == LEASES or request.resource == CONFIG_MAPS:
        return (request._replace(name="") if request.verb == "create" else request) in ALLOWED
    return request._replace(namespace=DEVICES_NAMESPACE) in ALLOWED
