# SPDX-License-Identifier: Apache-2.0
"""Reads requests defensively: the headers that matter, and the body up to a size and a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import cast

from attrs import define
from starlette.types import Receive, Scope

from praetor_api.protocol import FEATURES_HEADER, MAX_BODY_BYTES, POLL_HEADER, REPORTED_HEADER
from praetor_gateway.errors import Problem
from praetor_gateway.http.pause import resumed

BODY_DEADLINE_S = 10.0
"""How long a body may take to arrive; an agent gives up its request after 12 s."""

TOKEN = b"x-device-token"
IF_NONE_MATCH = b"if-none-match"
PREFER = b"prefer"
FEATURES = FEATURES_HEADER.lower().encode()
POLL = POLL_HEADER.lower().encode()
REPORTED = REPORTED_HEADER.lower().encode()
MAX_FEATURES_BYTES = 1024
MAX_BODIES_BYTES = 64 * 2**20
"""How much of all bodies together is in memory: 250 of the largest reports, whatever so many connections send."""
SMALL_BODY_BYTES = 4096
"""A body up to this size is read all the same, so that heartbeats are the last to be refused; a connection has one."""
_LENGTH = b"content-length"
_CHUNKED = b"transfer-encoding"
_ENCODING = b"content-encoding"
_WANTED = frozenset({TOKEN, IF_NONE_MATCH, PREFER, FEATURES, POLL, REPORTED, _LENGTH, _CHUNKED, _ENCODING})
_WAIT = re.compile(rb'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)
_CLOSE = {"connection": "close"}

RequestHead = Mapping[bytes, bytes]


def read_head(scope: Scope) -> RequestHead:
    """Return the headers that matter here, repeated ones joined.

    Raises Problem (400) when both Content-Length and Transfer-Encoding are given: where the body ends would be unclear.
    """
    head: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _WANTED:
            head[name] = head[name] + b", " + value if name in head else value
    if _LENGTH in head and _CHUNKED in head:
        detail = "Content-Length and Transfer-Encoding exclude each other; send one of them"
        raise Problem(HTTPStatus.BAD_REQUEST, detail, headers=_CLOSE)
    return head


def named_features(head: RequestHead) -> frozenset[str]:
    """Return the features that the agent names; none where it names too many to be believed."""
    text = head.get(FEATURES, b"")
    return _features(text) if len(text) <= MAX_FEATURES_BYTES else frozenset()


@lru_cache(maxsize=64)
def _features(text: bytes) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, text.decode("latin-1").split(","))))


def preferred_wait(head: RequestHead, most: int) -> int:
    """Return the seconds that the client wants to wait (`Prefer: wait=N`, RFC 7240), at most *most*; else 0."""
    prefer = head.get(PREFER)
    return min(_wait(prefer), most) if prefer is not None else 0


@lru_cache(maxsize=64)
def _wait(prefer: bytes) -> int:
    found = _WAIT.search(prefer)
    return int(found[1]) if found else 0


@define
class Bodies:
    """How many bytes of all bodies that are being read are *held*; at most *most*, and what small ones add."""

    most: int = MAX_BODIES_BYTES
    held: int = 0


async def read_body(head: RequestHead, receive: Receive, bodies: Bodies) -> bytes:
    """Return the body, counted in *bodies* while it is read.

    Raises Problem: 503 when others hold too much, 415 when it is encoded, 413 when it is too large, 408 when it is too
    slow, 400 when it is cut off.
    """
    if _ENCODING in head and head[_ENCODING].lower() != b"identity":
        detail = "the body must not be compressed; leave Content-Encoding out"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers=_CLOSE)
    length = head.get(_LENGTH, b"0")
    if not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    collecting = _collect(receive, bodies)
    try:
        waits_for = collecting.send(None)
    except StopIteration as e:  # most bodies come with their head: a timer for each would be a tenth of a heartbeat
        return cast(bytes, e.value)
    try:
        if asyncio.current_task() is None:  # the server makes one for what waits
            await asyncio.sleep(0)
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await resumed(collecting, waits_for)
    except TimeoutError as e:
        detail = f"the body did not arrive within {BODY_DEADLINE_S:g} s"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers=_CLOSE) from e


async def _collect(receive: Receive, bodies: Bodies) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(HTTPStatus.BAD_REQUEST, "the connection ended before the body did", headers=_CLOSE)
            chunk = message.get("body", b"")
            size += len(chunk)
            bodies.held += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            if bodies.held > bodies.most and size > SMALL_BODY_BYTES:
                detail = "the gateway reads as many reports as it has memory for; wait as long as Retry-After says"
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"retry-after": "5", **_CLOSE})
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
    finally:
        bodies.held -= size


def _too_large() -> Problem:
    detail = f"the body has more than {MAX_BODY_BYTES} bytes"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers=_CLOSE)
