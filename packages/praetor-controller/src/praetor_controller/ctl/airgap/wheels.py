# SPDX-License-Identifier: Apache-2.0
"""What a release's requirements pin: packages, each with the digests of the files that may be installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

_PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@frozen
class Pinned:
    """A package in one version, and the SHA-256 of each of its files."""

    name: str
    version: str
    digests: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def pinned(text: str) -> Iterator[Pinned]:
    """Yield what a requirements file with hashes pins."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := _PINNED.match(line):
            yield Pinned(found[1], found[2], frozenset(_HASH.findall(line)))


def missing(wanted: Iterable[Pinned], digests: Iterable[str]) -> list[str]:
    """Return which of *wanted* have none of their files among those with *digests*."""
    have = set(digests)
    return sorted(str(each) for each in wanted if not each.digests & have)
