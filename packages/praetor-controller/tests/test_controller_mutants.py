# SPDX-License-Identifier: Apache-2.0
"""Each invariant of the random search names a fault of the real controller that breaks it, on a short trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from controller_simulation.invariants import NAMES
from controller_simulation.machine import replay
from controller_simulation.mutants import MUTANTS, Mutant


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.fault)
def test_an_invariant_names_the_mutant_that_breaks_it(mutant: Mutant) -> None:
    assert replay(mutant.trace, ends=mutant.ends) == ()
    with mutant.applied():
        assert mutant.invariant in replay(mutant.trace, ends=mutant.ends)


def test_every_invariant_has_a_mutant() -> None:
    assert {mutant.invariant for mutant in MUTANTS} == NAMES


def test_a_mutant_whose_source_has_changed_is_refused() -> None:
    mutant = Mutant(invariant="none", fault="none", changes=((replay, "no such", ""),), trace=[])
    with pytest.raises(ValueError, match="has 0 times: no such"), mutant.applied():
        pass
