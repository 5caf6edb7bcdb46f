# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_agent.core import backoff, report

FRACTIONS = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(-1, 0), (0, 0), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (10_000, 300)],
)
def test_a_crash_doubles_the_delay_up_to_five_minutes(failures: int, seconds: float) -> None:
    assert backoff.crash_delay(failures) == seconds


@given(st.integers(1, 1000), FRACTIONS)
def test_full_jitter_stays_below_the_doubled_delay(failures: int, fraction: float) -> None:
    assert 0 <= backoff.full_jitter(failures, fraction, first=2, cap=60) <= min(60, 2**failures)


@given(st.integers(1, 86400), FRACTIONS)
def test_a_heartbeat_moves_by_a_tenth_at_most(interval: int, fraction: float) -> None:
    assert interval * 0.9 - 1e-6 <= report.heartbeat_delay(interval, fraction) <= interval * 1.1 + 1e-6


@pytest.mark.parametrize(("lost", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 15), (100, 15)])
def test_a_lost_heartbeat_is_sent_again_within_the_interval(lost: int, seconds: float) -> None:
    assert report.retry_delay(lost, 15, 0.5) == seconds


@given(st.integers(1, 10), st.integers(1, 3600), FRACTIONS)
def test_a_retry_never_waits_longer_than_a_heartbeat(lost: int, interval: int, fraction: float) -> None:
    assert 0 < report.retry_delay(lost, interval, fraction) <= interval * 1.1 + 1e-6
