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
    "FEW",
    "HANDSHAKE_S",
    "LATE_S",
    "LOG_S",
    "PAUSE_S",
    "RETRY_S",
    "Acceptor",
    "WhenFull",
    "bind",
]

BACKLOG = 4096
"""Connections that wait to be accepted: a fleet reconnects at once after a restart."""
BATCH = 64
"""Connections accepted in one round of the loop, so that those that are open get their turn in a storm."""
PAUSE_S = 0.01
"""Between two rounds of accepting, in which it shows how late the loop is."""
LATE_S, FEW = 0.25, 4
"""A loop that is later than the first accepts no more than so many in a round. What is open is served before what would
like to be: when a replica is lost, and its devices come to the others at once, each of them would else be answered so
late that devices give up, also those that were there before, and try again, which is more work."""
RETRY_S = 1.0
"""How long to accept nothing after the machine had no descriptor left."""
LOG_S = 60.0
"""Between two lines of the log about refused connections."""
HANDSHAKE_S = 10.0
"""How long a TLS handshake may take, and its end; asyncio's default of 60 s lets idle clients hold memory."""

_LEFT = frozenset({7, 8})
"""States of Linux' TCP for a connection whose client ended it: CLOSE and CLOSE_WAIT."""
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
        self._pausing: asyncio.TimerHandle | None = None
        self._is_late = False

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
        for timer in (self._waiting, self._pausing):
            if timer is not None:
                timer.cancel()
        self._waiting = self._pausing = None
        self._listening.close()
        for opening in self._opening:
            opening.cancel()

    def _accept(self) -> None:
        for _ in range(FEW if self._is_late else BATCH):
            full = len(self._open) >= self._limit
            if full and self._when_full is WhenFull.REPLACE:
                self._end_oldest()
                self._wait()
                return
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as e:  # no descriptor, or no memory for one
                self._log_refusal(f"cannot accept: {e.strerror}")
                self._wait()
                return
            if full:
                accepted.close()
                self._refused()
                self._log_refusal(f"{self._limit} are open, the limit")
            elif self._is_late and _has_left(accepted):
                accepted.close()
            else:
                self._admit(accepted)
        self._pause()

    def _pause(self) -> None:
        """Accept no more until what is open had its turn."""
        assert self._loop is not None  # noqa: S101 - the reader of a loop called us
        self._loop.remove_reader(self._listening)
        self._pausing = self._loop.call_later(PAUSE_S, self._go_on, self._clock.monotonic() + PAUSE_S)

    def _go_on(self, due: float) -> None:
        self._pausing, self._is_late = None, self._clock.monotonic() - due > LATE_S
        if self._waiting is None and self._loop is not None:
            self._loop.add_reader(self._listening, self._accept)

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
            if self._pausing is None:
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


def _has_left(accepted: socket.socket) -> bool:
    """Return whether the client ended the connection while it waited to be accepted."""
    known = getattr(socket, "TCP_INFO", None)
    return known is not None and accepted.getsockopt(socket.IPPROTO_TCP, known, 1)[0] in _LEFT


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
