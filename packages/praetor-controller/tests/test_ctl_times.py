# SPDX-License-Identifier: Apache-2.0
"""Durations as users read and write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from praetor_controller.ctl.times import age, format_duration, parse_duration

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (12.4, "12s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (90061, "1d1h"), (86460, "1d")],
)
def test_spans_have_the_two_greatest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("since", "text"), [("2026-01-01T23:59:00Z", "1m"), (None, ""), ("yesterday", ""), ("2026-01-01T00:00:00", "")]
)
def test_ages(since: str | None, text: str) -> None:
    assert age(since, NOW) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1d", 86400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10 m", "m", "1.5h", "-3s", "10x"])
def test_a_bad_duration_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s, 10m or 1h30m"):
        parse_duration(text)
