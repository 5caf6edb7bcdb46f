"""Labels and annotations that the controller puts on the processes it makes. Nobody else's keys are ever touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

DEPLOYMENT_LABEL = "azure.com/deployment"
REVISION_ANNOTATION = "azure.com/revision"
OFFERED_AT_ANNOTATION = "azure.com/offered-at"
MANAGED_ANNOTATION = "azure.com/template-keys"
WAVE_ANNOTATION = "azure.com/wave"
OWN_ANNOTATIONS = frozenset({REVISION_ANNOTATION, OFFERED_AT_ANNOTATION, MANAGED_ANNOTATION, WAVE_ANNOTATION})

STARTED_AT_ANNOTATION = "azure.com/rollout-started-at"
"""On a ControllerRevision: when its rollout began last."""
CHANGE_CAUSE_ANNOTATION = "kubernetes.io/change-cause"
"""On a deployment, and copied to the ControllerRevision that begins with it: why somebody changed the template."""
RESTARTED_AT_ANNOTATION = "azure.com/restarted-at"
"""On a template: raised to restart every process under the rollout's policy."""
APPROVED_WAVES_ANNOTATION = "azure.com/approved-waves"
"""On a deployment: `<revision>/<wave>[,…]`, so that an approval never carries over to another revision."""

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
    """Return the note that tells a later update which keys it may remove."""
    return json.dumps({"annotations": sorted(annotations), "labels": sorted(labels)}, separators=(",", ":"))


def parse_managed_keys(note: str) -> ManagedKeys:
    """Return what managed_keys() noted; nothing for a note that somebody broke."""
    try:
        noted = json.loads(note or "{}")
        return ManagedKeys(
            frozenset(map(str, noted.get("labels", ()))), frozenset(map(str, noted.get("annotations", ())))
        )
    except (ValueError, TypeError, AttributeError):
        return ManagedKeys()
