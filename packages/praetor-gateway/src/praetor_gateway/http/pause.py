# SPDX-License-Identifier: Apache-2.0
"""Requests without a task: the server steps an application's coroutine itself, in the callback that has the news.

A task costs more than a poll does: the loop calls it later, when what the request touches is no longer in the
processor's cache, a timeout needs a timer and a cancellation for each, and all of it is kept while the poll waits.

A server offers this to an application whose ``needs_task`` is False: it can run where there is no current task, so it
makes no asyncio.timeout() and no task group. While PAUSES is in the scope, the application may wait for a Pause, too.
What it waits for else has the server make a task for the rest.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, Protocol, TypeVar, cast

PAUSES = "praetor.pauses"
"""Set in the scope of a request while it may wait for a Pause."""

_T = TypeVar("_T")


class Stepper(Protocol):
    """Runs a coroutine."""

    def step(self, value: object) -> None:
        """Run the coroutine on from its Pause, which returns *value*."""


class Pause:
    """Suspends the coroutine that awaits it until resume() is called; awaited once."""

    __slots__ = ("stepper",)

    def __init__(self) -> None:
        self.stepper: Stepper | None = None

    def __await__(self) -> Generator[Pause, Any, Any]:
        return (yield self)

    def resume(self, value: object = None) -> None:
        """Run on what waits, before this returns; *value* is what it gets, None where the client went away.

        Only the first call counts.
        """
        stepper, self.stepper = self.stepper, None
        if stepper is not None:
            stepper.step(value)


@types.coroutine
def resumed(begun: Coroutine[Any, Any, _T], waits_for: Any) -> Generator[Any, Any, _T]:
    """Return what *begun* does, which waits for the future *waits_for*, the one that its first step has yielded."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as e:
            step = partial(begun.throw, e)
        else:
            step = partial(begun.send, sent)
        try:
            waits_for = step()
        except StopIteration as e:
            return cast(_T, e.value)
