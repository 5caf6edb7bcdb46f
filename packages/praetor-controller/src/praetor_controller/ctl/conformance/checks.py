# SPDX-License-Identifier: Apache-2.0
"""Checks of an implementation of the device protocol: each holds one sentence of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from attrs import frozen

T = TypeVar("T")


class Broken(Exception):
    """The implementation does not do what the sentence says; the message is what it did."""


class Skipped(Exception):
    """The check cannot be made here; the message says why."""


@frozen
class Check(Generic[T]):
    """One *sentence* of the protocol's page, word for word but for quotes, and what holds it.

    *run* raises Broken with what was seen instead, or Skipped.
    """

    name: str
    sentence: str
    run: Callable[[T], None]


@frozen
class Outcome:
    """What became of a check: *word* is ok, FAIL or skip, *seen* what was seen instead or why it was skipped."""

    word: str
    name: str
    sentence: str
    seen: str = ""

    def __str__(self) -> str:
        lines = [f"{self.word:4} {self.name}: {self.sentence}", *self.seen.splitlines()]
        return "\n     ".join(lines)


def outcome(check: Check[T], subject: T) -> Outcome:
    """Run *check* on *subject*."""
    try:
        check.run(subject)
    except Broken as e:
        return Outcome("FAIL", check.name, check.sentence, str(e))
    except Skipped as e:
        return Outcome("skip", check.name, check.sentence, str(e))
    return Outcome("ok", check.name, check.sentence)


def outcomes(checks: Sequence[Check[T]], run: Callable[[Check[T]], Outcome], at_once: int = 1) -> Iterator[Outcome]:
    """Yield what *run* says of each of *checks*, in their order; *at_once* run at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield from pool.map(run, checks)
        finally:
            pool.shutdown(cancel_futures=True)


def expect(holds: object, seen: str) -> None:
    """Raise Broken with *seen* unless *holds*."""
    if not holds:
        raise Broken(seen)
