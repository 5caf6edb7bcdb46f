# SPDX-License-Identifier: Apache-2.0
"""The health of a process, from the results of its probe. Pure: the shell runs the probes.

Health is unknown until a first result counts. Until then the probe runs more
often than its period, so that a ready process is reported soon; failures still
count at most once per period, because thresholds are in periods.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Optional

from praetor_api.backports import dataclass
from praetor_api.spec import ONE_CHECK, HealthCheck

STARTUP_PERIOD_SECONDS = 2.0

RENEWED_SECONDS = 60.0
"""How long the words of a failing probe are kept before others take their place, each of which would be a report."""

_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The probe results of one instance of a process so far. *healthy* is None while unknown.

    *since* is when the instance was started, *said_at* when *message* was; times are in seconds since boot.
    """

    handle: str
    next_at: float
    healthy: Optional[bool] = None
    successes: int = 0
    failures: int = 0
    counted_at: Optional[float] = None
    message: Optional[str] = None
    since: float = 0.0
    said_at: float = 0.0


def fault(check: HealthCheck | None) -> str | None:
    """Return why *check* cannot be made; an API server before 1.25 lets it through."""
    if check is None or sum(each is not None for each in (check.exec, check.http_get, check.tcp_socket)) == 1:
        return None
    return f"healthCheck: {ONE_CHECK}"


def started(handle: str, now: float, *, since: float | None = None, healthy: bool | None = None) -> Health:
    """Return the health of an instance that runs since *since*, with a probe due at once."""
    return Health(handle=handle, next_at=now, healthy=healthy, since=now if since is None else since)


def probed(health: Health, check: HealthCheck, problem: str | None, now: float) -> Health:
    """Return the health after a probe; *problem* is why it failed, None for a success."""
    if problem is None or _is_news(problem, health, now):
        health = replace(health, message=problem, said_at=now)
    health = _failed(health, check, now) if problem is not None else _succeeded(health, check)
    pause = float(check.period_seconds)
    if health.healthy is None:
        pause = min(pause, STARTUP_PERIOD_SECONDS)
    return replace(health, next_at=now + pause)


def _is_news(problem: str, health: Health, now: float) -> bool:
    """Return whether *problem* is to be said: another kind of failure at once, other words of the probe after a while.

    Numbers alone, such as times, are no other words.
    """
    if health.message is None or _kind(problem) != _kind(health.message):
        return True
    waited = now >= health.said_at + RENEWED_SECONDS
    return waited and _DIGITS.sub("0", problem) != _DIGITS.sub("0", health.message)


def _kind(problem: str) -> str:
    """Return *problem* without what the probe itself said."""
    return problem.partition(": ")[0]


def _succeeded(health: Health, check: HealthCheck) -> Health:
    successes = health.successes + 1
    healthy = True if successes >= check.success_threshold else health.healthy
    return replace(health, successes=successes, failures=0, counted_at=None, healthy=healthy)


def _failed(health: Health, check: HealthCheck, now: float) -> Health:
    recent = health.counted_at is not None and now < health.counted_at + check.period_seconds
    early = now < health.since + (check.startup_grace_seconds or 0)
    if health.healthy is None and (recent or early):
        return replace(health, successes=0)
    failures = health.failures + 1
    healthy = False if failures >= check.failure_threshold else health.healthy
    return replace(health, successes=0, failures=failures, counted_at=now, healthy=healthy)
