# SPDX-License-Identifier: Apache-2.0
"""What most requests are: polls that are heartbeats, and reports with nothing new. Pure.

The shortcut for reports accepts only what the tolerant reader would read to the same Report, and leaves all the rest to
it.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from praetor_api.protocol import Report
from praetor_api.wire import clean_text
from praetor_gateway.fleet.order import Poll

_KNOWN = frozenset({"agentVersion", "timestamp", "heartbeat", "bootID", "seq", "revision", "reported", "observations"})
_POLL = re.compile(rb"([!-.0-~]{1,64})/([0-9]{1,19})")
_REPORTED = re.compile(rb"([!-.0-~]{1,64})/([0-9]{1,19})(?:\.([0-9]{1,19}))?")


def read_poll(poll: bytes | None, reported: bytes | None) -> Poll | None:
    """Return the poll that the headers *poll* and *reported* make a heartbeat; None if they make none."""
    sent = _POLL.fullmatch(poll) if poll is not None else None
    if sent is None:
        return None
    said = _REPORTED.fullmatch(reported) if reported is not None else None
    boot_id, number = sent[1].decode(), int(sent[2])
    if said is None or said[1] != sent[1]:
        return Poll(boot_id, number)
    return Poll(boot_id, number, int(said[2]), int(said[3]) if said[3] is not None else None)


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
