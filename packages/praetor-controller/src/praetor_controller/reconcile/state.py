"""What the controller remembers of a deployment between passes. Losing it costs time, never safety."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import field, frozen, mutable

from praetor_controller.rollout.incremental import Account

REFUSED_FOR_S = 300.0
"""After so long a write that the API refused is tried again: its schema or its webhooks may have been mended."""


@frozen
class Refusal:
    """A write that the API will not take: *revision* is the hash of the template, labels and annotations included,
    that it was made for."""

    revision: str
    message: str
    until: float


@mutable(kw_only=True)
class Memory:
    """One deployment's. *unknown* are the names of processes, by device, whose last write had no known outcome.

    *account* is there while the devices are at rest, and *audit_at* is when a pass over all is to confirm it.
    """

    refusals: dict[str, Refusal] = field(factory=dict)
    stored_as: dict[str, set[str]] = field(factory=dict)
    unknown: dict[str, str] = field(factory=dict)
    status_due_at: float | None = None
    account: Account | None = None
    audit_at: float = 0.0

    def refused(self, revisions: Collection[str], now: float) -> Mapping[str, str]:
        """Return the devices that one of *revisions* was refused for, and why; and what must be kept()."""
        self.refusals = {
            device: refusal
            for device, refusal in self.refusals.items()
            if refusal.revision in revisions and now < refusal.until
        }
        return {device: refusal.message for device, refusal in self.refusals.items()}

    def retry_at(self) -> float | None:
        """Return when the first of the refused writes may be tried again."""
        return min((refusal.until for refusal in self.refusals.values()), default=None)
