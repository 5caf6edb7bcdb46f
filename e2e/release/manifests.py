# SPDX-License-Identifier: Apache-2.0
"""The manifests of deploy/ as objects: what kustomize prints for them, without needing kubectl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonpatch
import yaml
from contract.rawapi import Answer, RawApi

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.release.build import ROOT

BASE = ROOT / "deploy" / "base"
RBAC = "rbac.authorization.k8s.io/"
COMPONENTS = ROOT / "deploy" / "components"
POLICIES = ("deletionguard", "gatewaypin", "tenancy")
KUSTOMIZATIONS = ("kustomization.yaml", "Kustomization")
UNDERSTOOD = {"apiVersion", "kind", "resources"}

Object = dict[str, Any]


class ManifestError(ValueError):
    """A kustomization has fields that are not understood here, or a cluster refused an object."""


def read(folder: Path) -> tuple[Object, ...]:
    """Return the objects of a kustomization, in its order; one that transforms its resources is a ManifestError."""
    file = next(folder / name for name in KUSTOMIZATIONS if (folder / name).is_file())
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    if foreign := kustomization.keys() - UNDERSTOOD:
        raise ManifestError(f"{file} has {', '.join(sorted(foreign))}: render it with kubectl kustomize")
    return tuple(_objects(folder / path for path in kustomization["resources"]))


def with_component(objects: Iterable[Object], folder: Path) -> tuple[Object, ...]:
    """Return *objects* with the JSON patches of the kustomize component in *folder*, each made to its target."""
    component = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    patched = list(objects)
    for patch in component["patches"]:
        operations = yaml.safe_load((folder / patch["path"]).read_text(encoding="utf-8"))
        target = (patch["target"]["kind"], patch["target"]["name"])
        [place] = [n for n, item in enumerate(patched) if (item["kind"], item["metadata"]["name"]) == target]
        patched[place] = jsonpatch.apply_patch(patched[place], operations)
    return tuple(patched)


def rbac(lease_namespace: str = SYSTEM_NAMESPACE, base: Path = BASE) -> tuple[Object, ...]:
    """Return the roles and bindings of *base*; those of the programs' Leases go to *lease_namespace*."""
    objects = tuple(item for item in read(base) if item["apiVersion"].startswith(RBAC))
    for item in objects:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = lease_namespace
    return objects


def policies() -> tuple[Object, ...]:
    """Return what the components of deploy/ add that hold the apiserver to our rules, or its load in bounds."""
    files = (path for name in ("flowcontrol", *POLICIES) for path in sorted((COMPONENTS / name).glob("*.yaml")))
    return tuple(_objects(path for path in files if path.name not in KUSTOMIZATIONS))


def install(api: RawApi, objects: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Create or merge *objects* as the administrator; return the kinds that this cluster is too old for.

    Server-side apply would be the natural way, but a Kubernetes of before 1.25 answers 500 to fields of a CRD that it
    does not know, where it drops them from a plain request.
    """
    unknown = []
    for item in objects:
        answer = _create_or_merge(api, item)
        if answer.status == HTTPStatus.NOT_FOUND and not _names_an_object(answer):
            unknown.append(f"{item['kind']} ({item['apiVersion']})")
        elif answer.status >= HTTPStatus.BAD_REQUEST:
            raise ManifestError(f"{item['kind']} {item['metadata']['name']}: {answer.status} {answer.message}")
    return tuple(unknown)


def collection_of(item: Mapping[str, Any]) -> str:
    """Return where the API keeps an object's kind; those of deploy/ form their plurals with an s, es or ies."""
    version, metadata = item["apiVersion"], item["metadata"]
    root = "/apis" if "/" in version else "/api"
    place = f"namespaces/{metadata['namespace']}/" if "namespace" in metadata else ""
    kind = item["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}es" if kind.endswith(("s", "ch")) else f"{kind}s"
    return f"{root}/{version}/{place}{plural}"


def _create_or_merge(api: RawApi, item: Mapping[str, Any]) -> Answer:
    path = collection_of(item)
    answer = api.post(path, item)
    if answer.status == HTTPStatus.CONFLICT and answer.reason == "AlreadyExists":
        return api.patch(f"{path}/{item['metadata']['name']}", item)
    return answer


def _objects(paths: Iterable[Path]) -> Iterator[Object]:
    for path in paths:
        if path.is_dir():
            yield from read(path)
        else:
            yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def _names_an_object(answer: Answer) -> bool:
    """Return whether a 404 is about an object, such as a missing namespace; else the path is not served."""
    return isinstance(answer.body, dict) and bool(answer.body.get("details"))
