# SPDX-License-Identifier: Apache-2.0
"""A bound address with an ASGI application on it, within the limits of a program that serves many connections."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import resource
import ssl
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.types import ASGIApp

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.acceptor import Acceptor, WhenFull, bind
from praetor_api.kube.runtime.clock import Clock, SystemClock
from praetor_gateway.http.certificates import CertificateReloader, TlsFiles
from praetor_gateway.http.connection import ConnectionLimits, Server
from praetor_gateway.http.hypercorn import HypercornServer
from praetor_gateway.settings import ServerKind

FAST = {"uvicorn": "0.54", "httptools": "0.9", "uvloop": "0.23"}
"""The packages of `praetor-gateway[fast]`, and the versions of them that ours is built on and tested with."""
RESERVED_FILES = 192
"""Open files kept from devices: 100 connections to the apiserver, 32 of peers, 32 of probes and scrapers, ours."""
MAX_OPEN_FILES = 2**20
"""What is asked for where the hard limit is none at all."""
TLS_BUFFER_BYTES = 16 * 1024
"""One TLS record; see limit_tls_buffers()."""


class Listener:
    """A bound address and the server of *app* on it, over TLS with *tls*.

    At most *limit* connections are open at a time, *when_full* says what happens to another one, and *refused* is
    called with each that is refused. *reload_failed* is called when a changed certificate cannot be used. *server*
    reads and writes HTTP.

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
        limit: int = MAX_OPEN_FILES,
        when_full: WhenFull = WhenFull.REFUSE,
        refused: Callable[[], None] = lambda: None,
        reload_failed: Callable[[], None] = lambda: None,
        limits: ConnectionLimits | None = None,
        server: ServerKind = ServerKind.AUTO,
    ) -> None:
        clock = clock or SystemClock()
        self._server = _server(server, app, limits or ConnectionLimits())
        self.certificate = _certificate(tls, clock, reload_failed) if tls is not None else None
        context = self.certificate.context if self.certificate is not None else None
        bound = bind(address, option)
        self.port: int = bound.getsockname()[1]
        self._acceptor = Acceptor(
            bound, self._server.protocol, clock, limit=limit, when_full=when_full, tls=context, refused=refused
        )
        if tls is not None:
            limit_tls_buffers()

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._acceptor)

    async def serve(self, stop: Callable[[], Awaitable[object]], timeout_s: float) -> None:
        """Serve until *stop* returns, then for at most *timeout_s* seconds to end requests."""
        following = None
        if self.certificate is not None:
            following = asyncio.create_task(self.certificate.follow(), name="follow the certificate")
        self._acceptor.start()
        try:
            await stop()
        finally:
            self._acceptor.close()
            if following is not None:
                following.cancel()
            await self._server.stop(timeout_s)


def chosen_server(kind: ServerKind) -> ServerKind:
    """Return which of the two servers *kind* is here; BadOption when it is not installed."""
    if kind is ServerKind.HYPERCORN:
        return kind
    lacks = _lacks_of_fast()
    if lacks and kind is ServerKind.UVICORN:
        raise BadOption("--server", f"{lacks}; install praetor-gateway[fast], or choose hypercorn")
    return ServerKind.HYPERCORN if lacks else ServerKind.UVICORN


def event_loop(kind: ServerKind) -> asyncio.AbstractEventLoop:
    """Return a new loop for the server *kind*: uvloop's with uvicorn."""
    if chosen_server(kind) is ServerKind.HYPERCORN:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, and return how many of them connections of devices may use.

    The others are a reserve for probes, the apiserver and peers: RESERVED_FILES, but not more than half.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # the kernel's own limit is lower: what there is must do
            wanted = soft
    return wanted - min(RESERVED_FILES, wanted // 2)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task handles, but for what is no error of ours: failed handshakes, and connections cut at the end."""
    if not isinstance(context.get("exception"), ssl.SSLError | asyncio.CancelledError | TimeoutError):
        loop.default_exception_handler(context)


def limit_tls_buffers() -> None:
    """Have asyncio read 16 KiB of TLS at a time: its 256 KiB are allocated, and written, for every idle connection.

    uvloop's buffer has 256 KiB, too, and nothing changes that. It is not written before it is used: a connection that
    sends little takes as much memory as on asyncio, and one that once sent that much at a time keeps 250 KiB.
    """
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES  # not public


def _server(kind: ServerKind, app: ASGIApp, limits: ConnectionLimits) -> Server:
    if chosen_server(kind) is ServerKind.HYPERCORN:
        return HypercornServer(app, limits)
    from praetor_gateway.http.uvicorn import UvicornServer

    return UvicornServer(app, limits)


def _lacks_of_fast() -> str:
    """Return what `praetor-gateway[fast]` would bring that is not here; empty when all is."""
    for name, wanted in FAST.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            return f"{name} is not installed"
        if not found.startswith(f"{wanted}."):
            return f"{name} {found} is installed, and {wanted} is needed"
    return ""


def _certificate(tls: TlsFiles, clock: Clock, failed: Callable[[], None]) -> CertificateReloader:
    def read() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM")
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(tls.cert, tls.key)
        return context

    try:
        return CertificateReloader(tls, read, clock, failed)
    except OSError as e:  # ssl.SSLError is one
        raise BadOption("--tls-cert", f"cannot use {tls.cert} with {tls.key}: {e}") from e
