# SPDX-License-Identifier: Apache-2.0
"""The desired state as a device receives it, rendered from rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from praetor_api.canonical import canonical_json
from praetor_gateway.fleet.rows import CachedProcess


def render(device: str, heartbeat_s: int, rows: Iterable[CachedProcess]) -> bytes:
    """Return the body of a 200: the items in the order of *rows*, each spec as it is stored."""
    head = canonical_json({"deviceName": device, "heartbeatIntervalSeconds": heartbeat_s})
    return b"%b,%b%b]}" % (head[:-1], b'"items":[', b",".join(map(_item, rows)))


def _item(row: CachedProcess) -> bytes:
    identity: dict[str, object] = {
        "uid": row.uid,
        "namespace": row.key.namespace,
        "name": row.key.name,
        "generation": row.generation,
        "specHash": row.spec_hash,
    }
    if row.confirmed:
        identity["confirmedSpecHash"] = row.confirmed
    if row.min_ready_seconds:
        identity["minReadySeconds"] = row.min_ready_seconds
    return b'%b,"spec":%b}' % (canonical_json(identity)[:-1], row.spec)
