# SPDX-License-Identifier: Apache-2.0
"""What most requests are: polls that are heartbeats, and reports with nothing new. Pure.

The shortcuts for reports accept only what the tolerant reader would read to a Report that says the same, and leave all
the rest to it.
"""

from __future__ import annotations

import re
from typing import ClassVar, TypeGuard

from attrs import define

from praetor_api.wire import clean_text
from praetor_gateway.fleet.order import Poll

_KNOWN = frozenset({"agentVersion", "timestamp", "heartbeat", "bootID", "seq", "revision", "reported", "observations"})
_POLL = re.compile(rb"([!-.0-~]{1,64})/([0-9]{1,19})")
_REPORTED = re.compile(rb"([!-.0-~]{1,64})/([0-9]{1,19})(?:\.([0-9]{1,19}))?")

# As our agent writes it: plain ASCII, so that nothing is to be decoded or cleaned.
_TEXT, _NUMBER = rb'"([ !#-\[\]-~]{0,64})"', rb"(0|[1-9][0-9]{0,17})"
_PLAIN = re.compile(
    rb'\{"agentVersion": ?%b, ?"timestamp": ?"[ !#-\[\]-~]{0,64}", ?"bootID": ?%b, ?"seq": ?%b'
    rb'(?:, ?"revision": ?%b)?(?:, ?"reported": ?%b)?\}' % (_TEXT, _TEXT, _NUMBER, _NUMBER, _NUMBER)
)


@define(weakref_slot=False)
class Heartbeat:
    """A Report with nothing new: what the gateway reads of one. To make a Report would take longer than to parse it."""

    agent_version: str = ""
    boot_id: str = ""
    seq: int | None = None
    revision: int | None = None
    reported: int | None = None
    facts: ClassVar[None] = None
    observations: ClassVar[tuple[()]] = ()


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


def parse_heartbeat(body: bytes) -> Heartbeat | None:
    """Return the heartbeat in *body*, JSON, if it is one as our agent writes it."""
    found = _PLAIN.fullmatch(body)
    if found is None:
        return None
    version, boot_id, seq, revision, reported = found.groups()
    return Heartbeat(
        version.decode(),
        boot_id.decode(),
        int(seq),
        None if revision is None else int(revision),
        None if reported is None else int(reported),
    )


def read_heartbeat(data: object) -> Heartbeat | None:
    """Return the heartbeat in *data*, decoded JSON, if it is a plain one."""
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
    return Heartbeat(clean_text(version), boot_id, seq, revision, reported)


def _is_count(value: object) -> TypeGuard[int | None]:
    return value is None or (type(value) is int and 0 <= value < 2**63)


def _is_short(value: object) -> TypeGuard[str]:
    return type(value) is str and len(value) <= 64
