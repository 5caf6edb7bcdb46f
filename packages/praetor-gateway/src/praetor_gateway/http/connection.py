# SPDX-License-Identifier: Apache-2.0
"""What every server of devices keeps to: the limits of a connection, what is a request, and how a server is run."""

from __future__ import annotations

import asyncio
import gc
from http import HTTPMethod
from typing import Protocol

from attrs import frozen

MAX_HEAD_BYTES = 16 * 1024
"""Limit of a request's head, of a chunk's and of the trailers; a device sends less than 1 KiB."""
MAX_HEADER_LINES = 100
LENGTH_DIGITS = 19
"""Of a Content-Length, at most: what 64 bits hold."""
ANSWER = "praetor.answer"
"""An extension of ASGI, which a server that has it names in the scope: a message of this type is a whole answer, with
`status`, `headers` and `body`."""
READ_BYTES = 2**16
"""Bytes that are read ahead of a request that is answered; a client that sends more has its connection closed."""
VERSIONS = frozenset({"1.1", "1.0"})
METHODS = frozenset(method.value.encode() for method in HTTPMethod)
"""What may be a method: those of RFC 9110, and PATCH. httptools knows those of WebDAV and others, too, h11 takes any
word."""
DRAINED_S = 0.1
"""Interval at which a slow reader over TLS is checked: TLS does not notify of the layer below it."""


@frozen(kw_only=True)
class ConnectionLimits:
    """How long a client may take, in seconds.

    *first_byte_s*: from the connection to its first request. *head_s*: from the first byte of a request's head to its
    last. *keep_alive_s*: between requests; longer than every poll (55 s) and heartbeat, for a connection that is closed
    between them costs a new handshake. *write_s*: to take any more of an answer. *linger_s*: to read the answer to a
    request that was refused before it was read to its end; a connection that is closed earlier may lose the answer.
    """

    first_byte_s: float = 10.0
    head_s: float = 10.0
    keep_alive_s: float = 75.0
    write_s: float = 20.0
    linger_s: float = 1.0


class Server(Protocol):
    """Runs an application on connections."""

    def protocol(self) -> asyncio.Protocol:
        """Return what asyncio calls with the bytes of one connection."""

    async def stop(self, timeout_s: float) -> None:
        """Close idle connections, and the others after their request; in *timeout_s* seconds all of them."""


def origin_form(target: bytes) -> bytes:
    """Return a request's *target* without scheme and authority (RFC 9112 §3.2.1)."""
    if target.startswith(b"/") or not target.lower().startswith((b"http://", b"https://")):
        return target
    _, _, rest = target.partition(b"//")
    path = rest[len(rest.partition(b"?")[0].partition(b"/")[0]) :]
    return path if path.startswith(b"/") else b"/" + path


def unsent(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the kernel does not have yet: under TLS, also those that are encrypted already."""
    try:
        return sum(layer.get_write_buffer_size() for layer in (transport, *_below(transport)))
    except AttributeError:  # in early 3.11 a transport of TLS raises it once the connection is gone
        return 0


def _below(transport: asyncio.WriteTransport) -> list[asyncio.WriteTransport]:
    """Return the transport below TLS, if there is one: asyncio has it in an attribute, uvloop out of Python's reach."""
    layer = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    if layer is not None:
        return [layer]
    known = gc.get_referents(transport.get_extra_info("uvloop.sslproto"))
    return [each for each in known if each is not transport and hasattr(each, "get_write_buffer_size")]
