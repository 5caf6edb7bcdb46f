"""The veto of whoever is at the device: while a file is there, nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path

from praetor_api.wire import clean_text

MAX_BYTES = 512


def read_hold(path: Path) -> str | None:
    """Return why nothing may be changed, in the words of the file *path*; None when it is not there.

    One that cannot be read holds as well.
    """
    if not os.path.lexists(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for its writer
        try:
            text = os.read(descriptor, MAX_BYTES).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError:
        text = ""
    words = " ".join(clean_text(text).split())
    return f"held by {path}" + (f": {words}" if words else "")
