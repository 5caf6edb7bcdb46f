"""What the loop asks of a backend. A backend only ever touches what carries our marker."""

from __future__ import annotations

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
