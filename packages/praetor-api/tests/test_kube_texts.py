# SPDX-License-Identifier: Apache-2.0
"""Equal texts are kept once, as many as came last."""

from __future__ import annotations

import sys

from praetor_api.kube.texts import LONGEST, SIZE, kept


def fresh(text: str) -> str:
    """Return an equal text that is an object of its own."""
    return text.encode().decode()


def test_a_text_is_shared_as_long_as_it_comes_again_and_others_are_not_kept() -> None:
    often, once = kept(fresh("comes often")), kept(fresh("comes once"))
    for number in range(SIZE):
        assert kept(fresh("comes often")) is often
        kept(f"another {number}")
    again = kept(fresh("comes once"))
    assert again == once
    assert again is not once


def test_a_long_text_is_not_kept() -> None:
    kept("x" * (LONGEST + 1))
    again = "x" * (LONGEST + 1)
    assert kept(again) is again


def test_no_text_is_interned() -> None:
    text = kept(fresh("said by a device"))
    assert sys.intern(fresh("said by a device")) is not text
