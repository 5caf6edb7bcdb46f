"""The manifests of deploy/ as objects: what kustomize prints for them, without needing kubectl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from e2e.build import ROOT
from e2e.clusters.rawapi import RawApi

BASE = ROOT / "deploy" / "base"
SYSTEM_NAMESPACE = "praetor-system"
KUSTOMIZATIONS = ("kustomization.yaml", "Kustomization")
FIELD_MANAGER = "e2e"
UNDERSTOOD = {"apiVersion", "kind", "resources"}

Object = dict[str, Any]


class ManifestError(ValueError):
    """A kustomization says more than is understood here, or a cluster refused an object."""


def read(folder: Path) -> tuple[Object, ...]:
    """Return the objects of a kustomization, in its order; one that transforms its resources is a ManifestError."""
    file = next(folder / name for name in KUSTOMIZATIONS if (folder / name).is_file())
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    if foreign := kustomization.keys() - UNDERSTOOD:
        raise ManifestError(f"{file} has {', '.join(sorted(foreign))}: render it with kubectl kustomize")
    return tuple(_objects(folder / path for path in kustomization["resources"]))


def rbac_for_users(users: Iterable[str], lease_namespace: str = SYSTEM_NAMESPACE) -> tuple[Object, ...]:
    """Return the roles of deploy/base, and bindings of them to the plain *users* that are named like the programs.

    In a cluster the programs are service accounts; a control plane without nodes knows them as users. The roles of
    their Leases go to *lease_namespace*.
    """
    roles = [item for item in read(BASE) if item["kind"] in ("ClusterRole", "Role")]
    for role in roles:
        if role["kind"] == "Role":
            role["metadata"]["namespace"] = lease_namespace
    return (*roles, *(_binding(role, user) for role in roles for user in users if _is_of(role, user)))


def install_rbac_for_users(api: RawApi, users: Iterable[str], lease_namespace: str = SYSTEM_NAMESPACE) -> None:
    """Apply `rbac_for_users` as the administrator; the namespace of the Leases must exist."""
    for item in rbac_for_users(users, lease_namespace):
        metadata = item["metadata"]
        place = f"namespaces/{metadata['namespace']}/" if "namespace" in metadata else ""
        plural = f"{item['kind'].lower()}s"
        path = f"/apis/{item['apiVersion']}/{place}{plural}/{metadata['name']}"
        answer = api.apply(path, item, FIELD_MANAGER, force="true")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ManifestError(f"{item['kind']} {metadata['name']} is refused: {answer.status} {answer.message}")


def _objects(paths: Iterable[Path]) -> Iterator[Object]:
    for path in paths:
        if path.is_dir():
            yield from read(path)
        else:
            yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def _is_of(role: Mapping[str, Any], user: str) -> bool:
    labels: Mapping[str, str] = role["metadata"]["labels"]
    return labels.get("app.kubernetes.io/name") == user


def _binding(role: Mapping[str, Any], user: str) -> Object:
    group, name = "rbac.authorization.k8s.io", role["metadata"]["name"]
    place = {"namespace": role["metadata"]["namespace"]} if role["kind"] == "Role" else {}
    return {
        "apiVersion": role["apiVersion"],
        "kind": f"{role['kind']}Binding",
        "metadata": {"name": name, **place},
        "roleRef": {"apiGroup": group, "kind": role["kind"], "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
