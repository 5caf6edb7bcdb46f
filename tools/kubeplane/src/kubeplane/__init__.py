"""A Kubernetes control plane in one process, for demos and tests."""

from __future__ import annotations

from kubeplane.access.authentication import User
from kubeplane.plane import ControlPlane

__all__ = ["ControlPlane", "User"]
