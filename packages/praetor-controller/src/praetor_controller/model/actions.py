"""What a plan asks the shell to do: small frozen classes, one write each."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from praetor_controller.model.rows import ProcessRow, Template


@frozen
class Create:
    """Make a process of *template* for a device; *wave* is noted on it when there are any."""

    device: str
    name: str
    template: Template
    wave: str = ""


@frozen
class Update:
    """Give a process *template*; *spec* is False when only labels or annotations differ."""

    process: ProcessRow
    template: Template
    spec: bool = True
    wave: str = ""


@frozen
class Delete:
    """Remove a process: *why* is for logs and events."""

    process: ProcessRow
    why: str


Action: TypeAlias = Create | Update | Delete
