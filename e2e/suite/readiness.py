# SPDX-License-Identifier: Apache-2.0
"""What the contract calls ready, read from objects by rules that share no code with the programs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from e2e.stack.kube import Kube, Object, condition
from e2e.stack.waiting import WITHIN_S, eventually

READY_CONDITIONS = ("AgentConnected", "SpecObserved", "Healthy")


def phase(process: Mapping[str, Any]) -> str:
    """Return the phase, or "" when there is none."""
    return str((process.get("status") or {}).get("phase", ""))


def is_ready(process: Mapping[str, Any]) -> bool:
    """Return whether the process runs (or has run to its end) as its current spec says."""
    status = process.get("status") or {}
    current = status.get("observedGeneration", 0) >= process["metadata"]["generation"]
    good = all(condition(process, kind) == "True" for kind in READY_CONDITIONS)
    return current and good and phase(process) in ("Running", "Succeeded")


def revision(process: Mapping[str, Any]) -> str:
    """Return the value of the variable REVISION in the process's spec."""
    env = process["spec"]["execution"].get("env", ())
    return next((entry.get("value", "") for entry in env if entry["name"] == "REVISION"), "")


def await_ready(kube: Kube, devices: Collection[str], *, within_s: float = WITHIN_S) -> dict[str, Object]:
    """Return the processes by device once exactly *devices* have one each, all of them ready."""
    return eventually(
        kube.processes,
        lambda found: set(found) == set(devices) and all(map(is_ready, found.values())),
        what=f"the processes of {', '.join(devices)} are ready, and there are no others",
        within_s=within_s,
    )


def await_revision(kube: Kube, devices: Collection[str], wanted: str) -> None:
    """Return when exactly *devices* have a process each that is ready with the revision *wanted*."""
    eventually(
        kube.processes,
        lambda found: (
            set(found) == set(devices) and all(revision(item) == wanted and is_ready(item) for item in found.values())
        ),
        what=f"all run revision {wanted}",
    )


def await_process(kube: Kube, device: str, happened: Callable[[Object], object], what: str) -> Object:
    """Return the one process of *device* once *happened* is true of it."""
    found = eventually(
        kube.processes, lambda processes: device in processes and happened(processes[device]), what=f"{device}: {what}"
    )
    return found[device]


def await_phase(kube: Kube, device: str, wanted: str) -> Object:
    """Return the process of *device* once its phase is *wanted* and is about its current spec."""

    def reached(process: Object) -> bool:
        return phase(process) == wanted and process["status"]["observedGeneration"] >= process["metadata"]["generation"]

    return await_process(kube, device, reached, f"phase {wanted}")
