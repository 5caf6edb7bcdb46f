# SPDX-License-Identifier: Apache-2.0
"""What processes may be given of a ConfigMap or a Secret: the same for the gateway and for `praetorctl`. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from praetor_api.annotations import DELIVER_LABEL
from praetor_api.kube.client.resource import CONFIG_MAPS, SECRETS, Resource
from praetor_api.values import CONFIG_MAP, MAX_VALUE, SECRET, Unusable

__all__ = ["DELIVERED", "DELIVERED_SELECTOR", "KINDS", "is_delivered"]

DELIVERED_SELECTOR = f"{DELIVER_LABEL}=true"
"""Selects the objects that processes may refer to."""


def is_delivered(obj: Mapping[str, Any]) -> bool:
    """Return whether an object has the label without which the gateway does not see it."""
    return (obj["metadata"].get("labels") or {}).get(DELIVER_LABEL) == "true"


def _of_config_map(obj: Mapping[str, Any]) -> dict[str, str | Unusable]:
    values: dict[str, str | Unusable] = {name: Unusable("is no text") for name in obj.get("binaryData") or ()}
    return values | {name: _usable(text) for name, text in (obj.get("data") or {}).items()}


def _of_secret(obj: Mapping[str, Any]) -> dict[str, str | Unusable]:
    return {name: _decoded(text) for name, text in (obj.get("data") or {}).items()}


def _decoded(text: object) -> str | Unusable:
    try:
        return _usable(base64.b64decode(str(text), validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        return Unusable("is no text")


def _usable(text: object) -> str | Unusable:
    if not isinstance(text, str) or "\0" in text:
        return Unusable("is no text")
    return Unusable(f"has more than {MAX_VALUE} characters") if len(text) > MAX_VALUE else text


KINDS: Mapping[str, Resource] = {CONFIG_MAP: CONFIG_MAPS, SECRET: SECRETS}
"""Where the API keeps what references may name."""
DELIVERED: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, str | Unusable]]] = {
    CONFIG_MAP: _of_config_map,
    SECRET: _of_secret,
}
"""Returns the values of an object by their keys."""
