"""What a plan asks the shell to do: small frozen classes, one write each."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from praetor_controller.rows import ProcessRow


@frozen
class Create:
    """Make a process of the current template for a device."""

    device: str
    name: str


@frozen
class Update:
    """Give a process the current template; *spec* is False when only labels or annotations differ."""

    process: ProcessRow
    spec: bool = True


@frozen
class Delete:
    """Remove a process: *why* is for logs and events."""

    process: ProcessRow
    why: str


Action: TypeAlias = Create | Update | Delete
