# SPDX-License-Identifier: Apache-2.0
"""Discovery documents: which groups, versions and resources are served."""

from __future__ import annotations

from kubeplane.errors import Obj
from kubeplane.kinds.resources import Catalog, Resource

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0+kubeplane", "platform": "linux/amd64"}
VERSION |= {"gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "CPython"}
_AGGREGATED = ("apidiscovery.k8s.io/v2", "apidiscovery.k8s.io/v2beta1")
# reviews are answered, not stored
REVIEWS = (
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
)


def core_versions(address: str) -> Obj:
    cidrs = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": cidrs}


def _groups(catalog: Catalog) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for resource in catalog:
        if resource.group and resource.version not in groups.setdefault(resource.group, []):
            groups[resource.group].append(resource.version)
    return groups | {group: ["v1"] for group, _, _ in REVIEWS}


def group_list(catalog: Catalog) -> Obj:
    groups = [_group(name, versions) for name, versions in _groups(catalog).items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _group(name: str, versions: list[str]) -> Obj:
    offered = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": offered, "preferredVersion": offered[0]}


def group(catalog: Catalog, name: str) -> Obj | None:
    versions = _groups(catalog).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions) if versions else None


def resource_list(catalog: Catalog, name: str, version: str) -> Obj | None:
    found = [r for r in catalog if (r.group, r.version) == (name, version)]
    entries = [entry for resource in found for entry in _entries(resource)]
    entries += [_review(plural, kind) for at, plural, kind in REVIEWS if (at, "v1") == (name, version)]
    if not entries:
        return None
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def _entries(resource: Resource) -> list[Obj]:
    entry: Obj = {"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced}
    entry |= {"kind": resource.kind, "verbs": list(resource.verbs)}
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    entry["storageVersionHash"] = ""
    if not resource.status:
        return [entry]
    status = {"name": f"{resource.plural}/status", "singularName": "", "namespaced": resource.namespaced}
    return [entry, status | {"kind": resource.kind, "verbs": ["get", "patch", "update"]}]


def _review(plural: str, kind: str) -> Obj:
    return {"name": plural, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["create"]}


def aggregated(catalog: Catalog, accept: str, *, core: bool) -> tuple[Obj, str] | None:
    """Return everything in one document and its content type, for clients that ask for that; None for the others."""
    for version in _AGGREGATED:
        short = version.rpartition("/")[2]
        if f"v={short};" in accept.replace(" ", "") and "as=APIGroupDiscoveryList" in accept:
            groups = {"": ["v1"]} if core else _groups(catalog)
            items = [_discovered(catalog, name, versions) for name, versions in groups.items()]
            document = {"kind": "APIGroupDiscoveryList", "apiVersion": version, "metadata": {}, "items": items}
            return document, f"application/json;g=apidiscovery.k8s.io;v={short};as=APIGroupDiscoveryList"
    return None


def _discovered(catalog: Catalog, name: str, versions: list[str]) -> Obj:
    return {"metadata": {"name": name} if name else {}, "versions": [_version(catalog, name, v) for v in versions]}


def _version(catalog: Catalog, name: str, version: str) -> Obj:
    listed = resource_list(catalog, name, version) or {"resources": []}
    main = [entry for entry in listed["resources"] if "/" not in entry["name"]]
    parts = {entry["name"].partition("/")[0]: entry for entry in listed["resources"] if "/" in entry["name"]}
    resources = [_discovered_resource(entry, parts.get(entry["name"]), name, version) for entry in main]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _discovered_resource(entry: Obj, status: Obj | None, group: str, version: str) -> Obj:
    kind = {"group": group, "version": version, "kind": entry["kind"]}
    found = {
        "resource": entry["name"],
        "responseKind": kind,
        "scope": "Namespaced" if entry["namespaced"] else "Cluster",
        "singularResource": entry["singularName"],
        "verbs": entry["verbs"],
    }
    found |= {key: entry[key] for key in ("shortNames", "categories") if key in entry}
    if status:
        found["subresources"] = [{"subresource": "status", "responseKind": kind, "verbs": status["verbs"]}]
    return found
