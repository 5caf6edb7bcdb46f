# SPDX-License-Identifier: Apache-2.0
"""Labels and annotations that the controller puts on the processes it makes. Keys of others are never touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from praetor_api.annotations import (
    MANAGED_ANNOTATION,
    MIN_READY_ANNOTATION,
    OFFERED_AT_ANNOTATION,
    REVISION_ANNOTATION,
    TRACEPARENT_ANNOTATION,
    WAVE_ANNOTATION,
)

OWN_ANNOTATIONS = frozenset(
    {
        REVISION_ANNOTATION,
        OFFERED_AT_ANNOTATION,
        MANAGED_ANNOTATION,
        MIN_READY_ANNOTATION,
        WAVE_ANNOTATION,
        TRACEPARENT_ANNOTATION,
    }
)
"""Annotations of a process that the controller alone writes; all others are left as they are."""

_MAX_LABEL = 63
_HASH_LENGTH = 10


class ManagedKeys(NamedTuple):
    """Keys that came from the template and leave with it."""

    labels: frozenset[str] = frozenset()
    annotations: frozenset[str] = frozenset()


def deployment_label(name: str) -> str:
    """Return the value of the deployment label: the name, or what fits of it and a hash."""
    if len(name) <= _MAX_LABEL:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{name[: _MAX_LABEL - _HASH_LENGTH - 1].rstrip('-.')}-{digest}"


def managed_keys(labels: Iterable[str], annotations: Iterable[str]) -> str:
    """Return the annotation by which a later update knows which keys it may remove."""
    return json.dumps({"annotations": sorted(annotations), "labels": sorted(labels)}, separators=(",", ":"))


def parse_managed_keys(annotation: str) -> ManagedKeys:
    """Return the keys that managed_keys() recorded; none when the annotation was edited and cannot be read."""
    try:
        recorded = json.loads(annotation or "{}")
        return ManagedKeys(
            frozenset(map(str, recorded.get("labels", ()))), frozenset(map(str, recorded.get("annotations", ())))
        )
    except (ValueError, TypeError, AttributeError):
        return ManagedKeys()
