"""A control plane in one process, for trying Praetor and for its tests."""

from __future__ import annotations

from kubeplane.access.authentication import User
from kubeplane.plane import EmbeddedControlPlane

__all__ = ["EmbeddedControlPlane", "User"]
