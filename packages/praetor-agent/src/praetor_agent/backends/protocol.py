"""What the loop asks of a backend, and what all of them share. A backend only ever touches what carries our marker.

What backends write on a device is named by one scheme, so that what is ours is known by its name, too.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from praetor_agent.launch import Launch
from praetor_agent.records import Observed


class Backend(Protocol):
    """Runs processes; none of the methods waits for a process to end."""

    def observe(self) -> Mapping[str, Observed]:
        """Return by uid every process of ours that runs or left its exit status. BackendError when unknown."""
        ...

    def start(self, launch: Launch) -> None:
        """Start a process that does not run; StartError with the reason when it cannot be."""
        ...

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        """Ask a process to end, or end it by force with all that it started."""
        ...

    def remove(self, uid: str) -> None:
        """Take away what is left of a process that ended."""
        ...


@runtime_checkable
class KeepsOutput(Protocol):
    """A backend that can tell what a process wrote."""

    def tail(self, uid: str, limit: int) -> str:
        """Return the end of what the latest run wrote, about *limit* bytes of it; empty when there is nothing.

        BackendError when it cannot be told; the report then goes without.
        """
        ...


@runtime_checkable
class KeepsDefinition(Protocol):
    """A backend that writes a definition of each process (a unit, a script), which somebody may edit.

    It tells so by `Observed.edited`, and only while it is so.
    """

    def repair(self, launch: Launch) -> None:
        """Write the definition again as it was; the process that runs is not touched. BackendError when impossible."""
        ...


PREFIX = "praetor-"

_READABLE_LENGTH = 60
_UNSAFE = re.compile(r"[^a-z0-9-]+")


def own_name(name: str, uid: str) -> str:
    """Return our prefix, the readable part of *name*, and a hash of *uid*, which alone is unique."""
    return f"{PREFIX}{readable(name).strip('-')}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def readable(name: str) -> str:
    """Return what a file's name or a log's identifier can hold of *name*."""
    return _UNSAFE.sub("-", name.lower())[:_READABLE_LENGTH]


def signal_name(number: int) -> str:
    """Return the name of the signal *number*, such as SIGKILL; the number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
