"""Which backends this device has, and why not the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from praetor_agent.backends import initd, systemd
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.backends.protocol import Backend
from praetor_agent.settings import container_runtime_of
from praetor_api.spec import Backend as BackendName


def backends_of(
    device: str | None, state_dir: Path, boot_id: str, runtime: Sequence[str] | None = None, options: Sequence[str] = ()
) -> tuple[Mapping[BackendName, Backend], Mapping[BackendName, str]]:
    """Return the backends of *device*, and for each that cannot be used the reason."""
    backends: dict[BackendName, Backend] = {BackendName.PROCESS: ProcessBackend(state_dir / "processes", boot_id)}
    unavailable: dict[BackendName, str] = {}
    why_not = systemd.unavailable()
    if why_not is None and device is not None:
        backends[BackendName.SYSTEMD] = systemd.SystemdBackend(device, state_dir / "systemd")
    else:
        unavailable[BackendName.SYSTEMD] = why_not or "the device has no name yet"
    why_not = initd.unavailable()
    if why_not is None and device is not None:
        backends[BackendName.INITD] = initd.InitdBackend(device, state_dir / "initd", boot_id)
    else:
        unavailable[BackendName.INITD] = why_not or "the device has no name yet"
    runtime = runtime or container_runtime_of(os.environ.get("PRAETOR_AGENT_CONTAINER_RUNTIME"))
    if runtime is None or device is None:
        unavailable[BackendName.CONTAINER] = "none of docker, podman and nerdctl is found on PATH"
    else:  # loaded only where there are containers
        from praetor_agent.backends.container import ContainerBackend, Runtime

        backends[BackendName.CONTAINER] = ContainerBackend(device, state_dir / "containers", Runtime(runtime), options)
    return backends, unavailable
