"""What the controller remembers of a deployment between passes. Losing it costs time, never safety."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import field, frozen, mutable

from praetor_controller.rows import DeploymentRow

REFUSED_FOR_S = 300.0
"""After so long a write that the API refused is tried again: its schema or its webhooks may have been mended."""


@frozen
class Refusal:
    """A write that the API will not take: *template* is the hash of what it was to be."""

    template: str
    message: str
    until: float


@mutable(kw_only=True)
class Memory:
    """One deployment's. *unknown* are the names of processes, by device, whose last write had no known outcome."""

    rollout_since: datetime
    rollout: tuple[str, bool]
    refusals: dict[str, Refusal] = field(factory=dict)
    stored_as: dict[str, set[str]] = field(factory=dict)
    unknown: dict[str, str] = field(factory=dict)
    status_written_at: float | None = None
    status_due_at: float | None = None

    def follow(self, deployment: DeploymentRow, now: datetime) -> None:
        """Start the rollout's clock anew when the template changed or the pause ended."""
        rollout = (deployment.template.revision, deployment.policy.paused)
        if rollout != self.rollout:
            self.rollout, self.rollout_since = rollout, now

    def refused(self, template: str, now: float) -> Mapping[str, str]:
        """Return the devices that *template* was refused for, and why."""
        self.refusals = {
            device: refusal
            for device, refusal in self.refusals.items()
            if refusal.template == template and now < refusal.until
        }
        return {device: refusal.message for device, refusal in self.refusals.items()}

    def retry_at(self) -> float | None:
        """Return when the first of the refused writes may be tried again."""
        return min((refusal.until for refusal in self.refusals.values()), default=None)


def remember(deployment: DeploymentRow, now: datetime) -> Memory:
    """Return the memory of a deployment that was not known before."""
    return Memory(rollout=(deployment.template.revision, deployment.policy.paused), rollout_since=now)
