# SPDX-License-Identifier: Apache-2.0
"""Equal texts of a fleet, kept once.

`sys.intern` will not do: Python 3.12.0 to 3.12.6 never frees what is interned, and the texts of devices and users are
not bounded in number.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["LONGEST", "SIZE", "kept"]

SIZE = 16_384
"""Texts that are shared, those that came last: models, versions, racks and times of a fleet come again and again."""
LONGEST = 256
"""Characters of the longest one, a fact's value: all of them together take 6 MiB at most, or 18 in other scripts."""


def kept(text: str) -> str:
    """Return the text that is kept of all that equal *text*."""
    return _last(text) if len(text) <= LONGEST else text


@lru_cache(maxsize=SIZE)
def _last(text: str) -> str:
    return text
