# SPDX-License-Identifier: Apache-2.0
"""How long a poll asks to be held, and what a way that cuts held polls teaches. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from praetor_agent.core.backoff import full_jitter
from praetor_api.backports import dataclass
from praetor_api.protocol import HEARTBEAT_JITTER, MAX_WAIT_SECONDS

QUIET_WAIT_SECONDS = 25
"""How long a poll that is a heartbeat is held at most, unless configured or asked for less often: many middleboxes cut
after 30 seconds."""
LONG_WAIT_SECONDS = 50
"""How long any other poll is, and one whose gateway asks for fewer: a way that cuts it is known after two."""
FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 2.0, 60.0
FIRST_RETRY_SHARE = 0.25
"""Of the interval of heartbeats, within which a poll that failed is tried again first: a gateway that is lost had many
devices, which all come to the others, and a fleet that is asked to be heard less often is a large one."""
CUT_SECONDS = 10.0
"""A poll that fails earlier says nothing of the way, and none is asked to be shorter, for that overloads a gateway."""
CUT_SHARE = 0.8
"""What to ask for after two polls in a row were cut, as a share of how long the last one was held."""
CUT_SPREAD = 0.1
"""How much two such times may differ, as a share: a middlebox is exact, a gateway that struggles is not."""
CUT_MEMORY_SECONDS = 600.0
"""How long that is remembered; then the way is tried again."""


def poll_wait(interval: float, fraction: float, *, quiet: bool, configured: int | None, most: float) -> int:
    """Return the whole seconds for which to ask the gateway to hold a poll.

    Args:
        interval: seconds between heartbeats; a *quiet* poll, which is one, comes back by then.
        fraction: random in [0, 1), so that a fleet does not poll in step.
        configured: the longest wait that the operator wants, None for the default.
        most: the longest wait that the way lets through.
    """
    often = quiet and interval <= QUIET_WAIT_SECONDS
    wait = float(configured or (QUIET_WAIT_SECONDS if often else LONG_WAIT_SECONDS))
    if quiet:
        wait = min(wait, interval * (1.0 - HEARTBEAT_JITTER * fraction))
    return max(1, math.ceil(min(wait, most, MAX_WAIT_SECONDS)))


def poll_retry(failures: int, interval: float, fraction: float) -> float:
    """Return the seconds to wait after so many *failures* of polls in a row.

    Args:
        interval: seconds between heartbeats.
        fraction: random in [0, 1).
    """
    first = min(max(FIRST_RETRY_SECONDS, interval * FIRST_RETRY_SHARE), MOST_RETRY_SECONDS)
    return full_jitter(failures, fraction, first=first, cap=MOST_RETRY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPath:
    """What is known of the way to the gateway: *most* seconds until *until* of a held poll get through it.

    *cut* is how many seconds the latest poll was held if it was cut, else 0. Times are in seconds since boot.
    """

    cut: float = 0.0
    most: float = MAX_WAIT_SECONDS
    until: float = math.inf

    def answered(self, now: float) -> PollPath:
        """Return what is known after an answer."""
        if now >= self.until:
            return PollPath()
        return replace(self, cut=0.0)

    def failed(self, asked: int, took: float, now: float) -> PollPath:
        """Return what is known after a poll that *asked* to be held so long failed after *took* seconds."""
        if not CUT_SECONDS <= took < asked:
            return replace(self, cut=0.0)
        if abs(took - self.cut) > CUT_SPREAD * took:
            return replace(self, cut=took)
        most = max(CUT_SECONDS, math.floor(CUT_SHARE * took))
        return PollPath(most=most, until=now + CUT_MEMORY_SECONDS)
