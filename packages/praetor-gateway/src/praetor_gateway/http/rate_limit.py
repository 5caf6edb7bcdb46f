# SPDX-License-Identifier: Apache-2.0
"""How often a device may ask, and an address may be refused. Values and `now` (monotonic seconds) in, values out."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

BURST_S = 10.0
"""What the rate allows in so many seconds may come at once: a device reports each step of a start at once."""
MAX_KEYS = 65_536
"""Keys that are remembered; a key is forgotten when its bucket is full again, half a second after a request of 2/s."""
_SWEEP_AT = 1024


class RateLimit:
    """A token bucket for each key, kept as the one time at which it is full again (GCRA)."""

    def __init__(self, rate_per_s: float, max_keys: int = MAX_KEYS) -> None:
        self._interval_s = 1.0 / rate_per_s
        self._ahead_s = self._interval_s * (max(1.0, rate_per_s * BURST_S) - 1.0)
        self._max_keys = max_keys
        self._full_at: dict[str, float] = {}
        self._sweep_at = min(_SWEEP_AT, max_keys)

    def __len__(self) -> int:
        return len(self._full_at)

    def spend(self, key: str, now: float) -> float:
        """Take one of what *key* may send; return 0, or the seconds after which to try again."""
        full_at = max(self._full_at.get(key, now), now)
        wait_s = full_at - now - self._ahead_s
        if wait_s > 1e-6:  # a float's rounding, in seconds
            return wait_s
        if len(self._full_at) >= self._sweep_at:
            self._sweep(now)
        self._full_at[key] = full_at + self._interval_s
        return 0.0

    def _sweep(self, now: float) -> None:
        """Forget full buckets, and the oldest ones when too many are left."""
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        for key in tuple(self._full_at)[: max(0, len(self._full_at) - self._max_keys + 1)]:
            del self._full_at[key]
        self._sweep_at = min(max(_SWEEP_AT, 2 * len(self._full_at)), self._max_keys)


def network_of(address: str) -> str:
    """Return what one client can send from: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has none
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped is not None else f"{int(parsed) >> 64:x}"
