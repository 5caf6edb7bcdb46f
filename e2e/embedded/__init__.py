"""A control plane in one process, for trying Praetor and for its tests."""

from __future__ import annotations

from e2e.embedded.authentication import User
from e2e.embedded.plane import EmbeddedControlPlane

__all__ = ["EmbeddedControlPlane", "User"]
