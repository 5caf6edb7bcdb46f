# SPDX-License-Identifier: Apache-2.0
"""Processes that the suite runs on devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2e.stack.kube import DEPLOYMENTS, Kube, Object
from e2e.stack.manifests import process_spec

GRACE_S = 5


def sleeping(revision: str = "1", *, execution: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    """Return a process that sleeps, ends at once when asked, and has its revision in its environment."""
    fields = {
        "args": ["infinity"],
        "env": [{"name": "REVISION", "value": revision}],
        "terminationGracePeriodSeconds": GRACE_S,
        **(execution or {}),
    }
    return process_spec(["/bin/sleep"], execution=fields, **spec)


def prompt(revision: str = "1", **spec: Any) -> Object:
    """Return a sleeper that is ready as soon as its probe succeeds; without a probe that takes two seconds."""
    return sleeping(revision, healthCheck={"exec": {"command": ["/bin/true"]}, "timeoutSeconds": 30}, **spec)


def shell(script: str, *arguments: str, **spec: Any) -> Object:
    """Return a process that runs *script* in a shell; *arguments* are $1 and so on."""
    fields = {"args": ["-c", script, "sh", *arguments], "terminationGracePeriodSeconds": GRACE_S}
    return process_spec(["/bin/sh"], execution=fields, **spec)


def probed(command: list[str], **fields: int) -> Object:
    """Return a health check that runs every second and trusts the first result, unless *fields* say otherwise.

    A busy machine has 30 s to run it.
    """
    return {"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 1, **fields}


def change_template(kube: Kube, deployment: str, spec: Mapping[str, Any]) -> None:
    """Give the deployment another process."""
    kube.patch(DEPLOYMENTS, deployment, {"spec": {"template": {"spec": dict(spec)}}})
