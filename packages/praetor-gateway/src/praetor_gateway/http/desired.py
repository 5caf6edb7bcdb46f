# SPDX-License-Identifier: Apache-2.0
"""The desired state as a device receives it, rendered from rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from praetor_api.canonical import canonical_json
from praetor_api.protocol import IncompatibleItem
from praetor_api.values import Resolved
from praetor_api.wire import write
from praetor_gateway.fleet.rows import CachedProcess


def render(
    device: str,
    heartbeat_s: int,
    rows: Iterable[CachedProcess],
    features: Set[str] = frozenset(),
    resolved: Callable[[CachedProcess], Resolved] | None = None,
) -> bytes:
    """Return the body of a 200: the items in the order of *rows*, each spec as it is stored.

    What needs more than the *features* that the agent knows, or a value that the device lacks or is refused, has no
    spec: an agent keeps what it has for an item that it cannot read. *resolved* returns the values of a row that has
    references.
    """
    items = b",".join([_item(row, features, resolved) for row in rows])
    head = canonical_json({"deviceName": device, "heartbeatIntervalSeconds": heartbeat_s, "pollIsHeartbeat": True})
    return b'%b,"items":[%b]}' % (head[:-1], items)


def _item(row: CachedProcess, features: Set[str], resolved: Callable[[CachedProcess], Resolved] | None) -> bytes:
    shared = row.shared
    if not shared.features <= features:
        return _incompatible(row, features=tuple(sorted(shared.features - features)))
    spec = row.spec
    identity: dict[str, object] = {
        "uid": row.uid,
        "namespace": row.key.namespace,
        "name": row.key.name,
        "generation": row.generation,
        "specHash": row.spec_hash,
    }
    if row.confirmed:
        identity["confirmedSpecHash"] = row.confirmed
    if shared.min_ready_seconds:
        identity["minReadySeconds"] = shared.min_ready_seconds
    if row.traceparent:
        identity["traceparent"] = row.traceparent
    if shared.references and resolved is not None:
        found = resolved(row)
        if found.held:
            return _incompatible(row, missing=found.missing, refused=found.refused)
        identity["valuesHash"] = found.digest
        if found.values or found.files is None:
            identity["values"] = found.values
        if found.kept:
            identity["keptFiles"] = found.kept
        if found.files is not None:
            return b'%b,"fileValues":%b,"spec":%b}' % (canonical_json(identity)[:-1], found.files.json, spec)
    return b'%b,"spec":%b}' % (canonical_json(identity)[:-1], spec)


def _incompatible(
    row: CachedProcess, features: tuple[str, ...] = (), missing: tuple[str, ...] = (), refused: str = ""
) -> bytes:
    item = IncompatibleItem(
        uid=row.uid,
        namespace=row.key.namespace,
        name=row.key.name,
        generation=row.generation,
        features=features,
        missing=missing,
        refused=refused or None,
    )
    return canonical_json(write(item))
