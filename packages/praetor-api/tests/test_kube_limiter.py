# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_testing import FakeClock
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.workqueue import TokenBucket


async def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    clock = FakeClock()
    bucket = TokenBucket(10, 5, clock)
    passed: list[float] = []

    async def take() -> None:
        await bucket.acquire()
        passed.append(round(clock.monotonic() - 1000.0, 3))

    tasks = [asyncio.create_task(take()) for _ in range(8)]
    await clock.advance(1)
    assert passed == [0.0] * 5 + [0.1, 0.2, 0.3]
    await asyncio.wait(tasks)


async def granted_at_once(bucket: TokenBucket, clock: FakeClock) -> bool:
    """Return whether a caller gets a token without waiting; one that would wait gives up."""
    caller = asyncio.create_task(bucket.acquire())
    await clock.settle()
    granted = caller.done()
    caller.cancel()
    await asyncio.wait({caller})
    return granted


async def test_a_cancelled_waiter_returns_its_token() -> None:
    clock = FakeClock()
    bucket = TokenBucket(1, 1, clock)
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await clock.settle()
    waiting.cancel()
    await asyncio.wait({waiting})
    await clock.advance(1)
    assert [await granted_at_once(bucket, clock) for _ in range(2)] == [True, False]


async def test_an_idle_bucket_holds_no_more_than_its_burst() -> None:
    clock = FakeClock()
    bucket = TokenBucket(100, 2, clock)
    await clock.advance(10)
    assert [await granted_at_once(bucket, clock) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_invalid_rates_and_bursts_are_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TokenBucket(rate, burst, FakeClock())


@given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_a_delay_is_never_longer_than_the_cap_nor_shorter_than_the_jitter_allows(
    attempt: int, random01: float, jitter: float
) -> None:
    backoff = Backoff(0.8, 2.0, 30.0, jitter)
    full = min(30.0, 0.8 * 2.0 ** min(attempt, 64))
    assert full * (1 - jitter) <= backoff.delay(attempt, random01) <= full
    assert backoff.delay(attempt, 0.0) == full
