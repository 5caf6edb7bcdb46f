# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt: exponential, capped, jittered. Pure."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Backoff"]

_MAX_EXPONENT = 64  # beyond it every cap is reached, and a float overflows some time


@frozen
class Backoff:
    """Delays of ``base × factor^attempt`` seconds, at most *cap*; chance may take off the share *jitter* (0 to 1)."""

    base: float
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 1.0

    def delay(self, attempt: int, random01: float) -> float:
        """Return the seconds to wait before retry number *attempt* (from 0); *random01* is chance in [0, 1)."""
        full: float = min(self.cap, self.base * self.factor ** min(attempt, _MAX_EXPONENT))
        return full * (1.0 - self.jitter * random01)
