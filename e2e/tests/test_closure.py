# SPDX-License-Identifier: Apache-2.0
"""What the agent's wheel pulls: requests and its own four, and praetor-api, which pulls nothing."""

from __future__ import annotations

import re
from importlib.metadata import distribution, requires

import pytest

from e2e.release.closure import AGENT, PULLED, ClosureError, check_pulled, sizes_of

NAME = re.compile(r"[A-Za-z0-9._-]+")


def _closure(name: str) -> frozenset[str]:
    """Return what *name* needs, itself included, by what its metadata says without any extra."""
    pulled = {name}
    for line in requires(name) or ():
        requirement, _, marker = line.partition(";")
        found = NAME.match(requirement)
        if found and "extra" not in marker and found[0].lower().replace("_", "-") not in pulled:
            pulled |= _closure(found[0].lower().replace("_", "-"))
    return frozenset(pulled)


def test_the_metadata_asks_for_nothing_else() -> None:
    assert _closure(AGENT) == PULLED


def test_what_is_pulled_besides_and_what_is_missing_are_named() -> None:
    check_pulled(PULLED)
    with pytest.raises(ClosureError, match="attrs is pulled, too; idna is missing"):
        check_pulled((PULLED | {"attrs"}) - {"idna"})


def test_a_distribution_has_the_size_of_its_files() -> None:
    (size,) = sizes_of([distribution("charset-normalizer")])
    assert size.name == "charset-normalizer"
    assert size.installed > 10_000
