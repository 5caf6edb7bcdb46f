"""The Kubernetes client."""

from __future__ import annotations

from praetor_api.kube.api import KubeApi, PatchType, WatchEvent, WatchType

__all__ = ["KubeApi", "PatchType", "WatchEvent", "WatchType"]
