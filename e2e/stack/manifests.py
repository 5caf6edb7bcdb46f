# SPDX-License-Identifier: Apache-2.0
"""Manifests as people write them, with only what a test wants to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from e2e.stack.kube import GROUP_VERSION, Object


def network_switch(name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """Return a NetworkSwitch."""
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": GROUP_VERSION, "kind": "NetworkSwitch", "metadata": metadata, "spec": spec}


def device(kind: str, name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """Return a device of *kind*."""
    return network_switch(name, labels, **spec) | {"kind": kind}


def process_spec(
    command: Sequence[str], *, backend: str = "process", execution: Mapping[str, Any] | None = None, **spec: Any
) -> Object:
    """Return the spec of a process; further fields of it, and of its *execution*, are taken as they are."""
    return {"execution": {"backend": backend, "command": list(command), **(execution or {})}, **spec}


def deployment(
    name: str,
    spec: Mapping[str, Any],
    *,
    match: Mapping[str, str] | None = None,
    max_unavailable: int | str | None = None,
    labels: Mapping[str, str] | None = None,
    **fields: Any,
) -> Object:
    """Return a deployment of the process *spec* to the devices whose labels *match*, all devices by default."""
    body: Object = {
        "selector": {"matchLabels": dict(match)} if match else {},
        "template": {"metadata": {"labels": dict(labels or {"app": name})}, "spec": dict(spec)},
        **fields,
    }
    if max_unavailable is not None:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max_unavailable}}
        body["updateStrategy"] = strategy
    kind = "DeviceProcessDeployment"
    return {"apiVersion": GROUP_VERSION, "kind": kind, "metadata": {"name": name}, "spec": body}


def device_process(name: str, device: str, spec: Mapping[str, Any], kind: str = "NetworkSwitch") -> Object:
    """Return a DeviceProcess written by hand, without a deployment."""
    body = {"deviceRef": {"kind": kind, "name": device}, **spec}
    return {"apiVersion": GROUP_VERSION, "kind": "DeviceProcess", "metadata": {"name": name}, "spec": body}
