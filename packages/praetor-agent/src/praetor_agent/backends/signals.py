"""Names of signals, for people."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return the name of the signal *number*, such as SIGKILL; the number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
