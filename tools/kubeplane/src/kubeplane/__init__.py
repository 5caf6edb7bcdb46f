# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes control plane in one process, for demos and tests."""

from __future__ import annotations

from kubeplane.access.authentication import User
from kubeplane.http.messages import Request, Response
from kubeplane.plane import ControlPlane

__all__ = ["ControlPlane", "Request", "Response", "User"]
