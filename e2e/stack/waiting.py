# SPDX-License-Identifier: Apache-2.0
"""Wait for a state of the system, and report the last state seen when it does not come."""

from __future__ import annotations

import pprint
import time
from collections.abc import Callable
from typing import TypeVar

import requests

from e2e.stack.errors import Refused

POLL_S = 0.05
WITHIN_S = 300.0  # ten times what a slow step takes, so that a busy machine fails nothing

T = TypeVar("T")


def eventually(
    observe: Callable[[], T],
    happened: Callable[[T], object] = bool,
    *,
    what: str,
    within_s: float = WITHIN_S,
) -> T:
    """Return what *observe* returns as soon as *happened* is true of it.

    An apiserver that does not answer and a field that is not there count as "not yet". AssertionError, with the last
    state, when time is up.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            state = observe()
            if happened(state):
                return state
            last = pprint.pformat(state, width=140, sort_dicts=False)
        except (requests.RequestException, Refused, KeyError) as error:
            last = repr(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}; last seen:\n{last}")
        time.sleep(POLL_S)


def steadily(observe: Callable[[], T], holds: Callable[[T], object], *, what: str, for_s: float) -> None:
    """Return when *holds* was true at every check for *for_s* seconds; AssertionError at the first when it is not."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        state = observe()
        if not holds(state):
            raise AssertionError(f"no longer so: {what}; seen:\n{pprint.pformat(state, width=140, sort_dicts=False)}")
        time.sleep(POLL_S)
