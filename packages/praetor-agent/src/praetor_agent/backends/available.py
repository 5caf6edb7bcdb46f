"""Which backends this device has, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from praetor_agent.backends import initd, systemd
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.backends.protocol import Backend
from praetor_agent.host import NOT_BUILT_IN
from praetor_api.spec import Backend as BackendName


def backends_of(
    device: str | None, state_dir: Path, boot_id: str
) -> tuple[Mapping[BackendName, Backend], Mapping[BackendName, str]]:
    """Return the backends of *device*, and for each that cannot be used the reason."""
    backends: dict[BackendName, Backend] = {BackendName.PROCESS: ProcessBackend(state_dir / "processes", boot_id)}
    unavailable = dict(NOT_BUILT_IN)
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
    return backends, unavailable
