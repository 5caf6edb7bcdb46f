"""The two spellings of a moment in the Kubernetes API: Time with whole seconds, MicroTime with six digits. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def time(moment: datetime) -> str:
    """Return *moment* as metav1.Time writes it: ``2026-01-01T00:00:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(moment: datetime) -> str:
    """Return *moment* as metav1.MicroTime writes it: ``2026-01-01T00:00:00.000000Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
