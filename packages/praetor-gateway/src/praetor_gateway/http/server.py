# SPDX-License-Identifier: Apache-2.0
"""Hypercorn, with the limits and the end of a program that serves many long-lived connections."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp, Receive, Scope, Send

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.clock import Clock, SystemClock
from praetor_gateway.http.certificates import CertificateReloader, TlsFiles

KEEP_ALIVE_S = 75.0
"""Longer than every poll (55 s) and heartbeat: a connection that is closed between them costs a new handshake."""
KEEP_ALIVE_REQUESTS = 100_000
"""Requests before a connection is closed: two weeks of heartbeats. Hypercorn's default of 1000 is some hours."""
BACKLOG = 4096
"""Connections that wait to be accepted: a fleet reconnects at once after a restart."""
HANDSHAKE_S = 10.0
"""How long a TLS handshake may take; Hypercorn's default of 60 s lets idle peers hold memory."""
MAX_HEAD_BYTES = 16 * 1024
"""Limit of a request's head; a device sends less than 1 KiB."""
TLS_BUFFER_BYTES = 16 * 1024
"""One TLS record; see limit_tls_buffers()."""


class Listener:
    """A bound address and the server of *app* on it, over TLS with *tls*.

    Raises BadOption naming *option*, the flag of *address*, when it cannot be bound, and `--tls-cert` when the
    certificate cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: BindAddress,
        *,
        option: str,
        tls: TlsFiles | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._app = app
        self._config = _Config()
        if tls is not None:
            self._config.certfile, self._config.keyfile = str(tls.cert), str(tls.key)
        self._certificate = _certificate(tls, self._config, clock or SystemClock()) if tls is not None else None
        try:
            self._socket = bind(address)
        except OSError as e:
            raise BadOption(option, f"cannot listen on {address}: {e.strerror}; choose another one") from e
        if tls is not None:
            limit_tls_buffers()

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def _sockets(self) -> Sockets:
        plain, secure = ([], [self._socket]) if self._config.ssl_enabled else ([self._socket], [])
        return Sockets(secure_sockets=secure, insecure_sockets=plain, quic_sockets=[])

    async def serve(self, stop: Callable[[], Awaitable[object]], timeout_s: float) -> None:
        """Serve until *stop* returns, then for at most *timeout_s* seconds to end requests."""
        app = wrap_app(without_lifespan(self._app), self._config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
        serving = asyncio.create_task(
            worker_serve(app, self._config, sockets=self._sockets(), shutdown_trigger=stop), name="serve"
        )
        background: list[asyncio.Future[Any]] = [stopping := asyncio.ensure_future(stop())]
        if self._certificate is not None:
            background.append(asyncio.create_task(self._certificate.follow(), name="follow the certificate"))
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # Hypercorn's own limit does not hold on Python 3.12.1 and later: it waits for every connection
            await asyncio.wait({serving}, timeout=timeout_s)
        finally:
            for task in background:
                task.cancel()
            if not serving.done():
                serving.cancel()
        await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()


def bind(address: BindAddress) -> socket.socket:
    """Return a socket that listens: a client that connects from now on waits, and is not refused."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.create_server(address, family=family, backlog=BACKLOG)
    bound.setblocking(False)
    # accepted sockets inherit it; asyncio would not set it on them, and head and body would wait for each other's ACK
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def without_lifespan(app: ASGIApp) -> ASGIApp:
    """Return *app* for a server whose program runs the lifespan itself: it must end even if the server does not."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    return served


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task handles, but for what is no error of ours: failed handshakes, and connections cut at the end."""
    if not isinstance(context.get("exception"), ssl.SSLError | asyncio.CancelledError | TimeoutError):
        loop.default_exception_handler(context)


def limit_tls_buffers() -> None:
    """Have asyncio read 16 KiB of TLS at a time: its 256 KiB are allocated for every idle connection."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES  # not public


class _Config(Config):
    """Hypercorn's configuration, with the *context* that follows the certificate."""

    context: ssl.SSLContext | None = None
    keep_alive_timeout = KEEP_ALIVE_S
    keep_alive_max_requests = KEEP_ALIVE_REQUESTS
    backlog = BACKLOG
    ssl_handshake_timeout = HANDSHAKE_S
    h11_max_incomplete_size = MAX_HEAD_BYTES
    alpn_protocols = ["http/1.1"]  # noqa: RUF012 - as Hypercorn declares it
    include_server_header = False
    graceful_timeout = 2.0  # for requests that are under way; see serve() for the bound that holds
    loglevel = "WARNING"

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self.context or super().create_ssl_context()


def _certificate(tls: TlsFiles, config: _Config, clock: Clock) -> CertificateReloader:
    def read() -> ssl.SSLContext:
        return cast("ssl.SSLContext", Config.create_ssl_context(config))  # None only without files

    try:
        certificate = CertificateReloader(tls, read, clock)
    except OSError as e:  # ssl.SSLError is one
        raise BadOption("--tls-cert", f"cannot use {tls.cert} with {tls.key}: {e}") from e
    config.context = certificate.context
    return certificate
