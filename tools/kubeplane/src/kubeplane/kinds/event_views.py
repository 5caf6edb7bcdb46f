# SPDX-License-Identifier: Apache-2.0
"""One event object under two groups: core v1, as it is stored, and events.k8s.io/v1."""

from __future__ import annotations

from kubeplane.errors import Obj

_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_BACK = {new: old for old, new in _NAMES.items()}


def to_events_v1(event: Obj) -> Obj:
    return {_NAMES.get(key, key): value for key, value in event.items()} | {"apiVersion": "events.k8s.io/v1"}


def to_core_v1(event: Obj) -> Obj:
    return {_BACK.get(key, key): value for key, value in event.items()} | {"apiVersion": "v1"}
