"""Names of what backends write on a device: one scheme, so that what is ours is known by its name, too. Pure."""

from __future__ import annotations

import hashlib
import re

PREFIX = "praetor-"

_READABLE_LENGTH = 60
_UNSAFE = re.compile(r"[^a-z0-9-]+")


def own_name(name: str, uid: str) -> str:
    """Return our prefix, the readable part of *name*, and a hash of *uid*, which alone is unique."""
    return f"{PREFIX}{readable(name).strip('-')}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def readable(name: str) -> str:
    """Return what a file's name or a log's identifier can hold of *name*."""
    return _UNSAFE.sub("-", name.lower())[:_READABLE_LENGTH]
