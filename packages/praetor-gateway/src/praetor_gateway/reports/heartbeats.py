# SPDX-License-Identifier: Apache-2.0
"""A shortcut for what almost every report is: a heartbeat with nothing new. Pure.

It accepts only what the tolerant reader would read to the same Report, and leaves all the rest to it.
"""

from __future__ import annotations

from typing import TypeGuard

from praetor_api.protocol import Report
from praetor_api.wire import clean_text

_KNOWN = frozenset({"agentVersion", "timestamp", "heartbeat", "bootID", "seq", "revision", "reported", "observations"})


def read_heartbeat(data: object) -> Report | None:
    """Return the Report in *data*, decoded JSON, if it is a plain heartbeat."""
    if type(data) is not dict or not _KNOWN.issuperset(data) or data.get("observations", ()):
        return None
    version, timestamp, boot_id = data.get("agentVersion"), data.get("timestamp"), data.get("bootID")
    seq, heartbeat = data.get("seq"), data.get("heartbeat", True)
    if not (_is_short(version) and _is_short(timestamp) and _is_short(boot_id)):
        return None
    revision, reported = data.get("revision"), data.get("reported")
    if not (_is_count(seq) and _is_count(revision) and _is_count(reported)) or type(heartbeat) is not bool:
        return None
    if type(data.get("observations", [])) is not list:
        return None
    return Report(
        agent_version=clean_text(version),
        timestamp=timestamp,
        heartbeat=heartbeat,
        boot_id=boot_id,
        seq=seq,
        revision=revision,
        reported=reported,
    )


def _is_count(value: object) -> TypeGuard[int | None]:
    return value is None or (type(value) is int and 0 <= value < 2**63)


def _is_short(value: object) -> TypeGuard[str]:
    return type(value) is str and len(value) <= 64
