# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON, spec hashes and entity tags.

The gateway computes them over what the apiserver stored; an agent echoes the
hash and never computes one, so both may know different fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

__all__ = ["ItemVersion", "canonical_json", "desired_etag", "etag_matches", "spec_hash"]

ItemVersion = tuple[str, str, str, int, str]
"""uid, namespace, name, generation and spec hash of one desired item."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_ETAG = re.compile(r'(?:W/)?"([^"\x00-\x20]*)"')


def canonical_json(value: object) -> bytes:
    """Return *value* as UTF-8 JSON with sorted keys and no white space; ValueError for NaN and infinities."""
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def spec_hash(spec: object) -> str:
    """Return `sha256:` and 64 hexadecimal digits over the canonical JSON of *spec*, a decoded JSON object."""
    return "sha256:" + hashlib.sha256(canonical_json(spec)).hexdigest()


def desired_etag(items: Iterable[ItemVersion]) -> str:
    """Return the strong, quoted ETag over every item's identity, generation and hash; order does not matter."""
    digest = hashlib.sha256(canonical_json(sorted(items)))
    return f'"{digest.hexdigest()[:32]}"'


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names *etag*: a list, weak forms or `*` (RFC 9110 §13.1.2)."""
    if not if_none_match:
        return False
    if if_none_match == etag:  # what agents send
        return True
    if if_none_match.strip() == "*":
        return True
    return etag.strip('"') in _ETAG.findall(if_none_match)
