# SPDX-License-Identifier: Apache-2.0
"""What a search for a secret value looks for: the value in the usual encodings, and the beginnings of its digests."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator

DIGITS = 16
"""How much of a digest is looked for: those that are shown are often cut."""
_KINDS = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_"))


def forms(value: bytes, *documents: bytes) -> frozenset[bytes]:
    """Return what could stand for *value*, or for one of the *documents* that hold it, such as `key=value` or JSON.

    Of digests with a key there is the one whose key is empty: anyone could make it.
    """
    found = {value, value.hex().encode(), *_base64(value)}
    for document in (value, *documents):
        for digest in _digests(document):
            found |= {digest.hex()[:DIGITS].encode(), base64.b64encode(digest)[:DIGITS]}
    return frozenset(found)


def shown_in(text: str | bytes, looked_for: Iterable[bytes]) -> list[bytes]:
    """Return which of the forms *looked_for* are in *text*."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    lower = raw.lower()
    return [form for form in looked_for if form in raw or form in lower]


def _base64(value: bytes) -> Iterator[bytes]:
    """Yield what *value* becomes in base64, wherever it stands in what is encoded."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + value)
        first, last = (8 * before + 5) // 6, 8 * (before + len(value)) // 6
        yield encoded[first:last]


def _digests(document: bytes) -> Iterator[bytes]:
    for name in _KINDS:
        yield hashlib.new(name, document, usedforsecurity=False).digest()
        yield hmac.new(b"", document, name).digest()
