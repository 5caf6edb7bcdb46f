# SPDX-License-Identifier: Apache-2.0
"""The audit log of an apiserver: who wrote what, in the order of the resourceVersions that the writes got."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def write_policy(path: Path) -> Path:
    """Write the policy that records accepted and refused writes of our kinds, with what was stored."""
    ours = {
        "level": "RequestResponse",
        "verbs": list(WRITES),
        "resources": [{"group": group} for group in GROUPS],
        "omitStages": ["RequestReceived"],
    }
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [ours, {"level": "None"}]}
    path.write_text(yaml.safe_dump(policy))
    return path


def accepted_writes(log: Path, namespace: str) -> list[Write]:
    """Return the writes to *namespace* that changed something, in the order in which they were stored."""
    return sorted(set(_writes(log, namespace)))


def _writes(log: Path, namespace: str) -> Iterator[Write]:
    ours = json.dumps(namespace)
    for line in log.read_text().splitlines():
        if ours not in line:  # most of a long log is about others, and decoding it is slow
            continue
        event = _decoded(line)
        about = event.get("objectRef", {})
        metadata = (event.get("responseObject") or {}).get("metadata") or {}
        accepted = event.get("verb") in WRITES and event.get("responseStatus", {}).get("code", 500) < 300
        if accepted and about.get("namespace") == namespace and metadata.get("resourceVersion"):
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            agent, version = event.get("userAgent", ""), int(metadata["resourceVersion"])
            yield Write(version, agent, namespace, resource, metadata.get("name", ""))


def _decoded(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
        return event
    except ValueError:  # the last line, half written
        return {}
