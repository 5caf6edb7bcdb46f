# SPDX-License-Identifier: Apache-2.0
"""Accepts connections for any asyncio protocol, so many at a time that descriptors remain for everything else."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from enum import Enum, auto

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.clock import Clock

__all__ = [
    "BACKLOG",
    "BATCH",
    "HANDSHAKE_S",
    "LOG_S",
    "RETRY_S",
    "Acceptor",
    "WhenFull",
    "bind",
]

BACKLOG = 4096
"""Connections that wait to be accepted: a fleet reconnects at once after a restart."""
BATCH = 64
"""Connections accepted in one round of the loop, so that those that are open get their turn in a storm."""
RETRY_S = 1.0
"""How long to accept nothing after the machine had no descriptor left."""
LOG_S = 60.0
"""Between two lines of the log about refused connections."""
HANDSHAKE_S = 10.0
"""How long a TLS handshake may take, and its end; asyncio's default of 60 s lets idle clients hold memory."""

_log = logging.getLogger(__name__)


class WhenFull(Enum):
    """What happens to a connection beyond the limit."""

    REFUSE = auto()
    """It is closed at once: what is open serves devices, and stays."""
    REPLACE = auto()
    """The oldest one is closed: a probe must be answered, however many idle connections there are."""


def bind(address: BindAddress, option: str) -> socket.socket:
    """Return a socket that listens: a client that connects from now on waits, and is not refused.

    BadOption naming *option*, the flag of *address*, when it cannot be bound.
    """
    both = not address.host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in address.host else socket.AF_INET
    try:
        bound = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as e:
        reason = e.strerror or str(e)
        raise BadOption(option, f"cannot listen on {address} ({reason}); choose another address") from e
    bound.setblocking(False)
    # accepted sockets inherit it; asyncio would not set it on them, and head and body would wait for each other's ACK
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


class Acceptor:
    """Accepts from *listening*, over TLS with *tls*, and runs what *protocol* returns on each connection.

    At most *limit* are open at a time; *when_full* says what happens to another one. *refused* is called with each
    connection that is refused. The count is that of open descriptors: it includes handshakes and what is being closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        clock: Clock,
        *,
        limit: int,
        when_full: WhenFull,
        tls: ssl.SSLContext | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._listening = listening
        self._protocol = protocol
        self._clock = clock
        self._limit = limit
        self._when_full = when_full
        self._tls = tls
        self._refused = refused
        self._open: dict[_Connection, None] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._logged_at: float | None = None
        self._unlogged = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._open)

    def start(self) -> None:
        """Begin to accept, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept no more; handshakes end, and open connections stay."""
        if self._loop is not None:
            self._loop.remove_reader(self._listening)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._listening.close()
        for opening in self._opening:
            opening.cancel()

    def _accept(self) -> None:
        for _ in range(BATCH):
            full = len(self._open) >= self._limit
            if full and self._when_full is WhenFull.REPLACE:
                self._end_oldest()
                self._wait()
                return
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as e:  # no descriptor, or no memory for one
                self._log_refusal(f"cannot accept: {e.strerror}")
                self._wait()
                return
            if full:
                accepted.close()
                self._refused()
                self._log_refusal(f"{self._limit} are open, the limit")
            else:
                self._admit(accepted)

    def _wait(self) -> None:
        """Accept no more until a connection was closed, or for a while."""
        assert self._loop is not None  # noqa: S101 - the reader of a loop called us
        self._loop.remove_reader(self._listening)
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._loop.call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        if self._waiting is not None and self._loop is not None:
            self._waiting.cancel()
            self._waiting = None
            self._loop.add_reader(self._listening, self._accept)

    def _admit(self, accepted: socket.socket) -> None:
        connection = _Connection(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        connection.setblocking(False)
        connection.on_close = self._closed
        self._open[connection] = None
        opening = asyncio.ensure_future(self._run(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def _end_oldest(self) -> None:
        oldest = next(iter(self._open))
        self._open[oldest] = self._open.pop(oldest)  # the next one is another's turn
        oldest.end()

    def _closed(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        self._resume()

    async def _run(self, connection: _Connection) -> None:
        loop, seconds = asyncio.get_running_loop(), None if self._tls is None else HANDSHAKE_S
        try:
            await loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._tls, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except OSError:  # a failed handshake: the client's affair
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _log_refusal(self, why: str) -> None:
        self._unlogged += 1
        now = self._clock.monotonic()
        if self._logged_at is None or now - self._logged_at >= LOG_S:
            _log.warning("connections refused: count=%d reason=%s", self._unlogged, why)
            self._logged_at, self._unlogged = now, 0


class _Connection(socket.socket):
    """A socket that reports once that its descriptor was closed, whichever transport does it."""

    __slots__ = ("on_close",)
    on_close: Callable[[_Connection], None] | None

    def close(self) -> None:
        super().close()
        self._report()

    def detach(self) -> int:
        """Give the descriptor away, as to a loop of libuv, which closes it itself at once."""
        number = super().detach()
        self._report()
        return number

    def _report(self) -> None:
        if self.fileno() < 0 and self.on_close is not None:
            report, self.on_close = self.on_close, None
            report(self)

    def end(self) -> None:
        """Have both sides see the end of the stream."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is not connected any more
            return
