"""What the device is: a few short words for the inventory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def facts() -> dict[str, str]:
    """Return os, kernel, arch, hostname and python, as far as they can be read."""
    kernel = os.uname()
    found = {
        "os": _os_name(),
        "kernel": kernel.release,
        "arch": kernel.machine,
        "hostname": kernel.nodename,
        "python": sys.version.split()[0],
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
    return os.uname().sysname
