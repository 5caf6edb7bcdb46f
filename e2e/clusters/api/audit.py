# SPDX-License-Identifier: Apache-2.0
"""The audit log of an apiserver: who wrote what, in the order of the resourceVersions that the writes got."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

WRITES = ("create", "update", "patch", "delete")
GROUPS = ("azure.com", "apps")


class Write(NamedTuple):
    """A write that the apiserver accepted; *agent* is the User-Agent of the request."""

    version: int
    agent: str
    namespace: str
    resource: str
    name: str


Policy = Mapping[str, Any]
"""A rule of what is recorded."""
EVERYTHING: Policy = {
    "level": "RequestResponse",
    "verbs": list(WRITES),
    "resources": [{"group": group} for group in GROUPS],
    "omitStages": ["RequestReceived"],
}
"""Accepted and refused writes of our kinds, with what was stored."""
SPECS: Policy = {
    "level": "Metadata",
    "verbs": ["patch", "update"],
    "resources": [{"group": "azure.com", "resources": ["deviceprocesses"]}],
    "omitStages": ["RequestReceived"],
}
"""Changes of the specs of processes, and nothing of what was stored."""


def write_policy(path: Path, ours: Policy = EVERYTHING) -> Path:
    """Write the policy that records *ours*."""
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [ours, {"level": "None"}]}
    path.write_text(yaml.safe_dump(policy))
    return path


def spec_changes(log: Path) -> dict[str, float]:
    """Return when the apiserver answered the last accepted change of the spec of each process, in seconds since 1970.

    Nothing from the embedded control plane, whose log has no times.
    """
    found: dict[str, float] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        event = _decoded_line(line)
        about, at = event.get("objectRef", {}), event.get("stageTimestamp")
        accepted = event.get("responseStatus", {}).get("code", 500) < 300
        if at and accepted and about.get("resource") == "deviceprocesses" and not about.get("subresource"):
            found[about["name"]] = datetime.fromisoformat(at).timestamp()
    return found


def accepted_writes(log: Path, namespace: str) -> list[Write]:
    """Return the writes to *namespace* that changed something, in the order in which they were stored."""
    return sorted(set(_writes(log, namespace)))


def _writes(log: Path, namespace: str) -> Iterator[Write]:
    ours = json.dumps(namespace)
    for line in log.read_text().splitlines():
        if ours not in line:  # most of a long log is about others, and decoding it is slow
            continue
        event = _decoded_line(line)
        about = event.get("objectRef", {})
        metadata = (event.get("responseObject") or {}).get("metadata") or {}
        accepted = event.get("verb") in WRITES and event.get("responseStatus", {}).get("code", 500) < 300
        if accepted and about.get("namespace") == namespace and metadata.get("resourceVersion"):
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            agent, version = event.get("userAgent", ""), int(metadata["resourceVersion"])
            yield Write(version, agent, namespace, resource, metadata.get("name", ""))


def _decoded_line(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
        return event
    except ValueError:  # the last line, half written
        return {}
