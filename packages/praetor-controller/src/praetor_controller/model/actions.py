# SPDX-License-Identifier: Apache-2.0
"""The writes that a plan asks for: small frozen classes, one write each."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from praetor_controller.model.rows import ProcessRow, Template


@frozen
class Create:
    """Create a process *name* of *template* for *device*; *wave* is recorded on it, and is empty without waves."""

    device: str
    name: str
    template: Template
    wave: str = ""


@frozen
class Update:
    """Give *process* the *template*; *spec* is False when only labels or annotations differ; *wave* as for Create."""

    process: ProcessRow
    template: Template
    spec: bool = True
    wave: str = ""


@frozen
class Delete:
    """Delete *process*; *why* is for logs and events."""

    process: ProcessRow
    why: str


Action: TypeAlias = Create | Update | Delete


@frozen
class Adopt:
    """Make the deployment the owner of *process*, which has none; nothing else of it is written."""

    process: ProcessRow


Write: TypeAlias = Action | Adopt
