# SPDX-License-Identifier: Apache-2.0
"""A token bucket, so that our own writes never overload the apiserver."""

from __future__ import annotations

from praetor_api.kube.runtime.clock import Clock

__all__ = ["TokenBucket"]


class TokenBucket:
    """Grants *burst* tokens at once and *rate_per_s* per second after that, in the order of the callers."""

    def __init__(self, rate_per_s: float, burst: int, clock: Clock) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError("rate_per_s must be positive and burst at least 1")
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)  # negative: that many callers are waiting
        self._filled_at = clock.monotonic()

    async def acquire(self) -> None:
        """Wait for a token and take it."""
        self._refill()
        self._tokens -= 1.0
        if self._tokens < 0.0:
            await self._wait(-self._tokens / self._rate_per_s)

    async def _wait(self, seconds: float) -> None:
        granted = False
        try:
            await self._clock.sleep(seconds)
            granted = True
        finally:
            if not granted:  # cancelled: its turn goes to those who come later
                self._tokens += 1.0

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now
