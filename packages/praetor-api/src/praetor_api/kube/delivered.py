# SPDX-License-Identifier: Apache-2.0
"""What processes may be given of a ConfigMap or a Secret: the same for the gateway and for `praetorctl`. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from praetor_api.annotations import DELIVER_LABEL
from praetor_api.files import MAX_CONTENT
from praetor_api.kube.client.resource import CONFIG_MAPS, SECRETS, Resource
from praetor_api.values import CONFIG_MAP, SECRET, Unusable, Value

__all__ = ["DELIVERED", "DELIVERED_SELECTOR", "KINDS", "is_delivered", "published_digests"]

DELIVERED_SELECTOR = f"{DELIVER_LABEL}=true"
"""Selects the objects that processes may refer to."""


def is_delivered(obj: Mapping[str, Any]) -> bool:
    """Return whether an object has the label without which the gateway does not see it."""
    return (obj["metadata"].get("labels") or {}).get(DELIVER_LABEL) == "true"


def _of_config_map(obj: Mapping[str, Any]) -> dict[str, Value]:
    values = {name: _decoded(text) for name, text in (obj.get("binaryData") or {}).items()}
    return values | {name: _kept(text) for name, text in (obj.get("data") or {}).items()}


def _of_secret(obj: Mapping[str, Any]) -> dict[str, Value]:
    return {name: _decoded(text) for name, text in (obj.get("data") or {}).items()}


def _decoded(text: object) -> Value:
    """Return what *text* in base64 stands for, as text if it is any."""
    try:
        content = base64.b64decode(str(text), validate=True)
        return _kept(content.decode())
    except binascii.Error:
        return Unusable("is not base64")
    except UnicodeDecodeError:
        return _kept(content)


def _kept(value: object) -> Value:
    """Return *value* unless neither a variable nor a file can hold it: it is not kept then."""
    if not isinstance(value, str | bytes):
        return Unusable("is no text")
    return Unusable(f"has more than {MAX_CONTENT} bytes") if len(value) > MAX_CONTENT else value


KINDS: Mapping[str, Resource] = {CONFIG_MAP: CONFIG_MAPS, SECRET: SECRETS}
"""Where the API keeps what references may name."""
DELIVERED: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Value]]] = {
    CONFIG_MAP: _of_config_map,
    SECRET: _of_secret,
}
"""Returns the values of an object by their keys."""


def published_digests(text: str | None) -> Mapping[str, str]:
    """Return digests by their sources as text, as gateways publish them for a namespace; {} of anything else."""
    try:
        found = json.loads(text or "{}")
    except ValueError:  # someone edited it
        return {}
    return (
        {name: digest for name, digest in found.items() if isinstance(digest, str)} if isinstance(found, dict) else {}
    )
