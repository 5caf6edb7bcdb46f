"""The application that devices talk to; any ASGI server can run it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from praetor_gateway.http.device_api import DeviceApi
from praetor_gateway.http.problems import Problem, ProblemHandlers
from praetor_gateway.http.routing import DeviceRoute

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class DeviceApp(Starlette):
    """Starlette, which devices' requests bypass: its layers and its router would cost as much as the answer does."""

    def __init__(self, route: DeviceRoute, problems: ProblemHandlers, lifespan: Lifespan | None) -> None:
        super().__init__(routes=[route], exception_handlers=problems.table(), lifespan=lifespan)
        self._route = route
        self._problems = problems
        self._guarded = ServerErrorMiddleware(self._serve, handler=problems.on_crash)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match, found = self._route.matches(scope)
        if match is Match.FULL:
            scope.update(found)
            await self._guarded(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route.handle(scope, receive, send)
        except Problem as problem:
            await self._problems.answer(scope, problem)(scope, receive, send)


def create_app(api: DeviceApi, problems: ProblemHandlers, lifespan: Lifespan | None = None) -> Starlette:
    """Return the application that serves *api*; *lifespan* runs what works in the background."""
    route = DeviceRoute(
        {
            "desired": {"GET": api.desired, "HEAD": api.desired},
            "report": {"POST": api.report},
            "connect": {"POST": api.connect},
        }
    )
    return DeviceApp(route, problems, lifespan)
