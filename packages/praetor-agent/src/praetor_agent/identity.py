"""The user that a process runs as."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from praetor_agent.errors import StartError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user, its group and all its groups, by number."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity_of(user: str | None) -> Identity | None:
    """Return what to change to for *user*, or None when the agent's own user is meant; StartError when impossible."""
    if user is None:
        return None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise StartError(f"spec.execution.user: there is no user {user!r} on this device") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise StartError(f"spec.execution.user: the agent must run as root to run a process as {user!r}")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Identity(uid=entry.pw_uid, gid=entry.pw_gid, groups=tuple(groups))
