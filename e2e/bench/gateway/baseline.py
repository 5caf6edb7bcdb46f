# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.bench.gateway.baseline PORT SERVER`: empty Starlette routes behind the gateway's own server.

What the gateway does beyond serving HTTP is the difference to this.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from praetor_api.kube.options import BindAddress
from praetor_gateway.http.server import Listener, event_loop
from praetor_gateway.settings import ServerKind

DEVICE = "/v1/devices/{device}"
STOP_S = 1.0
HELD_S = 1.0
"""How long a poll is held in benchmarks: the shortest time that a device can ask for."""


async def ready(_: Request) -> Response:
    """Answer the probe."""
    return Response()


async def unchanged(_: Request) -> Response:
    """Answer as if nothing had changed."""
    return Response(status_code=304)


async def accepted(_: Request) -> Response:
    """Answer as if a report had been accepted."""
    return Response(b'{"ack":true}', media_type="application/json")


class Hold:
    """Hold a request for *seconds* and answer as if nothing had changed; None: until the client goes away."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            await Response(status_code=304)(scope, receive, send)


async def serve(port: int, server: ServerKind) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = Starlette(
        routes=[
            Route("/readyz", ready),
            Route(f"{DEVICE}/desired", unchanged),
            Route(f"{DEVICE}/report", accepted, methods=["POST"]),
            Route(f"{DEVICE}/hold", Hold(None)),
            Route(f"{DEVICE}/held", Hold(HELD_S)),
        ]
    )
    await Listener(app, BindAddress("127.0.0.1", port), option="PORT", server=server).serve(stop.wait, STOP_S)


if __name__ == "__main__":
    kind = ServerKind(sys.argv[2])
    with asyncio.Runner(loop_factory=lambda: event_loop(kind)) as runner:
        runner.run(serve(int(sys.argv[1]), kind))
