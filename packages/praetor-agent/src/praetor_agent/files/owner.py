# SPDX-License-Identifier: Apache-2.0
"""Owners of files, by name or number."""

from __future__ import annotations

import grp
import os
import pwd

from praetor_agent.errors import FileError
from praetor_api.backports import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group, by number."""

    uid: int
    gid: int


def resolved(field: str, owner: str | None) -> Owner:
    """Return who *owner* in *field* is, the agent's own user if None; FileError if there is none, or it cannot be."""
    mine = Owner(os.geteuid(), os.getegid())
    if owner is None:
        return mine
    user, _, group = owner.partition(":")
    uid, gid = _user(field, user, mine.gid)
    wanted = Owner(uid, _group(field, group) if group else gid)
    if mine.uid != 0 and wanted != mine and (wanted.uid != mine.uid or wanted.gid not in os.getgroups()):
        raise FileError(f"{field}: the agent must run as root to give a file to {owner!r}")
    return wanted


def _user(field: str, user: str, group: int) -> tuple[int, int]:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if user.isdigit() and int(user) < 2**32 - 1:  # of a container, most often
            return int(user), group
        raise FileError(f"{field}: there is no user {user!r} on this device; write one that is there") from None
    return entry.pw_uid, entry.pw_gid


def _group(field: str, group: str) -> int:
    if group.isdigit() and int(group) < 2**32 - 1:
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OverflowError):
        raise FileError(f"{field}: there is no group {group!r} on this device; write one that is there") from None
