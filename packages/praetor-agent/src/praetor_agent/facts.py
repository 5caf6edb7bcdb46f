"""What the device is: a few short words for the inventory."""

from __future__ import annotations

import platform
import socket
from pathlib import Path


def facts() -> dict[str, str]:
    """Return os, kernel, arch, hostname and python, as far as they can be read."""
    found = {
        "os": _os_name(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
    }
    return {key: value[:256] for key, value in found.items() if value}


def _os_name() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip().strip("\"'")
    return platform.system()
