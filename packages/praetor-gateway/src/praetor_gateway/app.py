"""The application that devices talk to; any ASGI server can run it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette

from praetor_gateway.device_api import DeviceApi
from praetor_gateway.problems import ProblemHandlers
from praetor_gateway.routing import DeviceRoute

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def create_app(api: DeviceApi, problems: ProblemHandlers, lifespan: Lifespan | None = None) -> Starlette:
    """Return the application that serves *api*; *lifespan* runs what works in the background."""
    route = DeviceRoute(
        {
            "desired": {"GET": api.desired, "HEAD": api.desired},
            "report": {"POST": api.report},
            "connect": {"POST": api.connect},
        }
    )
    return Starlette(routes=[route], exception_handlers=problems.table(), lifespan=lifespan)
