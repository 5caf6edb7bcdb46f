# SPDX-License-Identifier: Apache-2.0
"""Builds the gateway and runs it until a signal stops it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.runtime.acceptor import WhenFull
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.kube.runtime.garbage import collect_less_often, spare
from praetor_api.kube.runtime.probes import serve_probes
from praetor_api.kube.runtime.tracing import Tracer, recording_tracer
from praetor_gateway.__about__ import __version__
from praetor_gateway.capacity import connections_within, memory_bytes
from praetor_gateway.gateway import Gateway
from praetor_gateway.http.certificates import TlsFiles
from praetor_gateway.http.openapi import openapi_json
from praetor_gateway.http.server import Listener, chosen_server, on_loop_error, raise_open_files
from praetor_gateway.liveness.pace import ProcessLoad
from praetor_gateway.liveness.peers import HttpPeerTransport, PeerSecrets
from praetor_gateway.settings import GatewaySettings

MAX_PEER_CONNECTIONS = 32
"""Of the peer port; each replica needs one. Another one closes the oldest, and its replica opens a new one."""

_log = structlog.get_logger()


async def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. BadOption or NotConfigured when the settings cannot work."""
    collect_less_often()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with recording_tracer(enabled=settings.tracing, service="praetor-gateway", version=__version__) as tracer:
        await _run(settings, stop, tracer)


async def _run(settings: GatewaySettings, stop: asyncio.Event, tracer: Tracer) -> None:
    async with await KubeClient.from_config(settings.kubeconfig, settings.context) as api:
        secrets = PeerSecrets(settings.peers.tokens if settings.peers is not None else ())
        transport = HttpPeerTransport(secrets) if settings.peers is not None else None
        gateway = Gateway(api, settings, SystemClock(), CollectorRegistry(), transport, secrets, tracer, ProcessLoad())
        api.on_request = gateway.metrics.program.requested
        api.on_duration = gateway.metrics.program.took
        server = chosen_server(settings.server).value
        announce = partial(_log.info, "gateway started", version=__version__, server=server)
        try:
            await serve(gateway, settings, stop, announce)
        finally:
            if transport is not None:
                await transport.close()


async def serve(
    gateway: Gateway, settings: GatewaySettings, stop: asyncio.Event, announce: Callable[..., None]
) -> None:
    """Serve *gateway* until *stop*; *announce* is called with *port* and *probe_port* once they are bound."""
    tls = TlsFiles(cert=settings.tls_cert, key=settings.tls_key) if settings.tls_cert and settings.tls_key else None
    limit = _connection_limit(settings, tls=tls is not None)
    devices = Listener(
        gateway.app,
        settings.addr,
        option="--addr",
        tls=tls,
        limit=limit,
        refused=gateway.metrics.connection_refused,
        reload_failed=gateway.metrics.reload_failures("certificate"),
        server=settings.server,
    )
    if devices.certificate is not None:
        doc = "When the certificate that devices are shown expires, in seconds since 1970."
        certificate = devices.certificate
        gateway.metrics.gauge("certificate_expiry_timestamp_seconds", doc, lambda: certificate.expires_at)
    gateway.metrics.gauge("connections", "Open connections of devices.", lambda: len(devices))
    gateway.metrics.gauge("connections_limit", "How many connections of devices may be open.", lambda: limit)
    peers = None
    if settings.peers is not None and gateway.peer_app is not None:
        peers = Listener(
            gateway.peer_app,
            settings.peers.addr,
            option="--peer-bind-address",
            limit=MAX_PEER_CONNECTIONS,
            when_full=WhenFull.REPLACE,
            server=settings.server,
        )
    at, ended = settings.probe_addr, asyncio.Event()
    checks = {"credentials": gateway.credential_problem}
    probes = serve_probes(
        at,
        at,
        unready=gateway.unready,
        registry=gateway.metrics.registry,
        checks=checks,
        documents={"/openapi.json": openapi_json},
    )
    async with (
        probes as probe_port,
        asyncio.TaskGroup() as group,
    ):
        announce(port=devices.port, probe_port=probe_port)
        sparing = group.create_task(spare(gateway.synced), name="spare the fleet")
        if peers is not None:
            group.create_task(peers.serve(ended.wait, 1.0), name="serve peers")
        try:
            async with gateway.lifespan():
                draining = group.create_task(_drain(gateway, stop), name="drain")
                await devices.serve(stop.wait, settings.shutdown_timeout_s / 2)
                draining.cancel()
        finally:
            sparing.cancel()
            ended.set()
    _log.info("gateway stopped")


def _connection_limit(settings: GatewaySettings, *, tls: bool) -> int:
    """Return how many connections of devices may be open: as many as open files allow, and memory, unless asked."""
    files, memory = raise_open_files(), connections_within(memory_bytes(), tls=tls)
    limit = min(files, settings.max_connections or memory)
    _log.info("connections are limited", limit=limit, by_open_files=files, by_memory=memory)
    return limit


async def _drain(gateway: Gateway, stop: asyncio.Event) -> None:
    await stop.wait()
    gateway.drain()
