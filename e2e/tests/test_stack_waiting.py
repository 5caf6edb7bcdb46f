# SPDX-License-Identifier: Apache-2.0
"""Waiting ends as soon as the state is there; a wait that times out reports the last state."""

from __future__ import annotations

import pytest
import requests

from e2e.stack.waiting import eventually, steadily


def test_the_state_that_was_waited_for_is_returned() -> None:
    states = iter([1, 2, 3])
    assert eventually(lambda: next(states), lambda state: state == 2, what="two") == 2


def test_a_wait_that_times_out_reports_the_last_state() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: the phase is Running; last seen:\n'Pending'"):
        eventually(lambda: "Pending", lambda phase: phase == "Running", what="the phase is Running", within_s=0)


def test_an_apiserver_that_does_not_answer_is_not_yet_there() -> None:
    answers = iter([False, True])

    def observe() -> str:
        if next(answers):
            return "there"
        raise requests.ConnectionError("refused")

    assert eventually(observe, what="it is there") == "there"


def test_a_field_that_is_not_there_is_not_yet_there() -> None:
    objects = iter([{}, {"status": "Running"}])
    assert eventually(lambda: next(objects)["status"], what="it has a status") == "Running"


def test_any_other_error_is_raised_at_once() -> None:
    def observe() -> str:
        raise ValueError("no number")

    with pytest.raises(ValueError, match="no number"):
        eventually(observe, what="it is there")


def test_steadily_fails_at_the_first_check_that_fails() -> None:
    states = iter([1, 1, 2, 1])
    with pytest.raises(AssertionError, match="no longer so: it is one"):
        steadily(lambda: next(states), lambda state: state == 1, what="it is one", for_s=30)
    assert next(states) == 1
