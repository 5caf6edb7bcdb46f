# SPDX-License-Identifier: Apache-2.0
"""Health probes and metrics over HTTP: `/livez`, `/healthz`, `/readyz` and `/metrics`, on one port or on two.

Alive means that the event loop runs. Readiness is defined by the program: it must not depend on whether the apiserver
answers right now, or one outage of it would take every replica out of service. As with the apiserver's own, a check may
be left out: `/readyz?exclude=NAME`. HTTP/1.1 only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from praetor_api.kube.options import BindAddress
from praetor_api.kube.runtime.acceptor import Acceptor, WhenFull, bind
from praetor_api.kube.runtime.clock import SystemClock

__all__ = [
    "MAX_PROBE_CONNECTIONS",
    "Check",
    "serve_probes",
]


_SHUTDOWN_S = 1.0
MAX_PROBE_CONNECTIONS = 32
"""Of one port. Another one closes the oldest: a scraper opens a new one, and a probe always does."""


Check: TypeAlias = Callable[[], str]


@asynccontextmanager
async def serve_probes(
    probes: BindAddress | None,
    metrics: BindAddress | None,
    *,
    unready: Check,
    registry: CollectorRegistry,
    checks: Mapping[str, Check] | None = None,
    documents: Mapping[str, Callable[[], bytes]] | None = None,
) -> AsyncIterator[int]:
    """Serve health on *probes* and *registry* on *metrics* within the block, and give the port of *probes*.

    None turns one off; equal addresses share a port. *unready* returns why the program is not ready, or "" when it is;
    *checks* do, too, each under the name by which a probe may leave it out, and only if *unready* finds nothing.
    *documents* return the JSON to serve with the probes, each at its path.
    BadOption names the flag of an address that cannot be bound.
    """
    async with AsyncExitStack() as stack:
        health, scrape = _health_routes(unready, checks or {}), [_metrics_route(registry)]
        health += [_document_route(path, document) for path, document in (documents or {}).items()]
        if metrics == probes:
            health, metrics = [*health, *scrape], None
        port = 0
        if metrics is not None:
            await stack.enter_async_context(_listening(metrics, scrape, "--metrics-bind-address"))
        if probes is not None:
            port = await stack.enter_async_context(_listening(probes, health, "--health-probe-bind-address"))
        yield port


@asynccontextmanager
async def _listening(address: BindAddress, routes: Sequence[web.RouteDef], option: str) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None  # noqa: S101 - setup() made it
        bound = bind(address, option)
        port: int = bound.getsockname()[1]
        limit = MAX_PROBE_CONNECTIONS
        acceptor = Acceptor(bound, server, SystemClock(), limit=limit, when_full=WhenFull.REPLACE)
        acceptor.start()
        try:
            yield port
        finally:
            acceptor.close()
    finally:
        await runner.cleanup()


def _health_routes(unready: Check, checks: Mapping[str, Check]) -> list[web.RouteDef]:
    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        excluded = request.query.getall("exclude", [])
        asked = (unready, *(check for name, check in checks.items() if name not in excluded))
        reason = next((reason for check in asked if (reason := check())), "")
        return web.Response(text=reason or "ok", status=503 if reason else 200)

    return [web.get("/healthz", live), web.get("/livez", live), web.get("/readyz", ready)]


def _metrics_route(registry: CollectorRegistry) -> web.RouteDef:
    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return web.get("/metrics", scrape)


def _document_route(path: str, document: Callable[[], bytes]) -> web.RouteDef:
    async def show(_: web.Request) -> web.Response:
        return web.Response(body=document(), content_type="application/json")

    return web.get(path, show)
