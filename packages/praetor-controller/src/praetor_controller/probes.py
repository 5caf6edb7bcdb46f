"""Probes and metrics over HTTP, on one port or on two.

Ready means that the cache is filled; whether the apiserver answers now is not our readiness. Alive means that the
event loop turns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from praetor_controller.errors import BadSettings
from praetor_controller.metrics import CONTENT_TYPE, Metrics
from praetor_controller.settings import Address, Settings

_SHUTDOWN_S = 1.0


@asynccontextmanager
async def serve(settings: Settings, metrics: Metrics, ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve what *settings* ask for within the block; BadSettings when an address cannot be bound."""
    async with AsyncExitStack() as stack:
        if settings.metrics is not None and settings.metrics == settings.probes:
            both = [*_probe_routes(ready), _metrics_route(metrics)]
            await stack.enter_async_context(_listening(settings.metrics, both, "--metrics-bind-address"))
        else:
            if settings.metrics is not None:
                await stack.enter_async_context(
                    _listening(settings.metrics, [_metrics_route(metrics)], "--metrics-bind-address")
                )
            if settings.probes is not None:
                await stack.enter_async_context(
                    _listening(settings.probes, _probe_routes(ready), "--health-probe-bind-address")
                )
        yield


@asynccontextmanager
async def _listening(address: Address, routes: list[web.RouteDef], flag: str) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address.host or None, address.port).start()
        except OSError as e:
            reason = e.strerror or str(e)
            raise BadSettings(f"{flag}: cannot listen on {address.host}:{address.port} ({reason}); give another") from e
        yield
    finally:
        await runner.cleanup()


def _probe_routes(ready: Callable[[], bool]) -> list[web.RouteDef]:
    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def is_ready(request: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the cache is not filled yet\n")

    return [web.get("/healthz", alive), web.get("/livez", alive), web.get("/readyz", is_ready)]


def _metrics_route(metrics: Metrics) -> web.RouteDef:
    async def scrape(request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    return web.get("/metrics", scrape)
