"""What the loop asks of a backend. A backend only ever touches what carries our marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

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
