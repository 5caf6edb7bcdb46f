# SPDX-License-Identifier: Apache-2.0
"""The desired state as a device receives it, rendered from rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set

from praetor_api.canonical import canonical_json
from praetor_api.protocol import IncompatibleItem
from praetor_api.wire import write
from praetor_gateway.fleet.rows import CachedProcess


def render(device: str, heartbeat_s: int, rows: Iterable[CachedProcess], features: Set[str] = frozenset()) -> bytes:
    """Return the body of a 200: the items in the order of *rows*, each spec as it is stored.

    What needs more than the *features* that the agent knows has no spec: an agent keeps what it has for an item that
    it cannot read.
    """
    head = canonical_json({"deviceName": device, "heartbeatIntervalSeconds": heartbeat_s, "pollIsHeartbeat": True})
    return b"%b,%b%b]}" % (head[:-1], b'"items":[', b",".join(_item(row, features) for row in rows))


def _item(row: CachedProcess, features: Set[str]) -> bytes:
    if not row.features <= features:
        incompatible = IncompatibleItem(
            uid=row.uid,
            namespace=row.key.namespace,
            name=row.key.name,
            generation=row.generation,
            features=tuple(sorted(row.features - features)),
        )
        return canonical_json(write(incompatible))
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
    if row.traceparent:
        identity["traceparent"] = row.traceparent
    return b'%b,"spec":%b}' % (canonical_json(identity)[:-1], row.spec)
