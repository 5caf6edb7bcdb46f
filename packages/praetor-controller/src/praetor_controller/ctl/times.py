# SPDX-License-Identifier: Apache-2.0
"""Durations as users read and write them. Pure."""

from __future__ import annotations

import re
from datetime import datetime

import click

from praetor_api.kube.codec import parse_time

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_PART = re.compile(r"(\d+)([dhms])")


def age(since: str | None, now: datetime) -> str:
    """Return how long ago *since* (as the API writes times) was; empty when it cannot be read."""
    try:
        return format_duration((now - parse_time(since or "")).total_seconds())
    except ValueError:
        return ""


def format_duration(seconds: float) -> str:
    """Return *seconds* in the two greatest units that matter: `3d4h`, `5m`, `12s`."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(left, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}" if count else "")
            left = rest
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"


def parse_duration(text: str) -> float:
    """Return the seconds of *text*, such as `90`, `90s`, `10m` or `1h30m`; ValueError for anything else."""
    if text.isdecimal():
        return float(text)
    if not text or _PART.sub("", text):
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m or 1h30m")
    return float(sum(int(count) * dict(_UNITS)[unit] for count, unit in _PART.findall(text)))


def duration_option(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """Return the seconds of *text*, the value of the option *parameter*; click calls it."""
    try:
        return parse_duration(text)
    except ValueError as e:
        raise click.BadParameter(str(e), context, parameter) from e
