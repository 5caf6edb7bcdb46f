"""The application that devices talk to, and the route to its endpoints; any ASGI server can run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from praetor_api.names import is_device_name
from praetor_gateway.errors import Problem
from praetor_gateway.http.device_api import DeviceApi
from praetor_gateway.http.problems import ProblemHandlers

PREFIX = b"/v1/devices/"
_AFTER_PREFIX = len(PREFIX)

Endpoint = Callable[[str, Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class DeviceRoute(BaseRoute):
    """`/v1/devices/{device}/{action}`; *actions* maps an action to the endpoint of each method.

    It reads the raw path, so that a percent-encoded device name never reaches anything, and checks the name before
    anything else.
    """

    def __init__(self, actions: Mapping[str, Mapping[str, Endpoint]]) -> None:
        self._actions = {action.encode(): dict(methods) for action, methods in actions.items()}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every path of that form, whatever the device's name and the method are."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        if not path.startswith(PREFIX):
            return Match.NONE, {}
        device, _, action = path[_AFTER_PREFIX:].partition(b"/")
        methods = self._actions.get(action)
        if methods is None:
            return Match.NONE, {}
        return Match.FULL, {"device": device, "action": action.decode(), "methods": methods}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that matched."""
        device = scope["device"].decode("latin-1")
        if not is_device_name(device):
            detail = "the device's name must be a lower-case RFC 1123 subdomain, not percent-encoded"
            raise Problem(HTTPStatus.BAD_REQUEST, detail)
        methods: Mapping[str, Endpoint] = scope["methods"]
        endpoint = methods.get(scope["method"])
        if endpoint is None:
            await _without_endpoint(scope["method"], methods, send)
        else:
            await endpoint(device, scope, receive, send)


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


async def _without_endpoint(method: str, methods: Mapping[str, Endpoint], send: Send) -> None:
    allowed = ", ".join((*methods, "OPTIONS"))
    if method != "OPTIONS":
        raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use one of {allowed}", headers={"allow": allowed})
    headers = [(b"allow", allowed.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": headers})
    await send({"type": "http.response.body"})
