# SPDX-License-Identifier: Apache-2.0
"""The application that devices talk to; any ASGI server can run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from praetor_api.names import is_device_name
from praetor_gateway.errors import Problem
from praetor_gateway.http.device_api import HELD, LEFT, DeviceApi
from praetor_gateway.http.problems import ProblemHandlers

PREFIX = b"/v1/devices/"

Endpoint = Callable[[str, Scope, Receive, Send, float], Awaitable[None]]
"""Answers a request for the device of that name, which began at that time, in monotonic seconds."""
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class Took(Protocol):
    """Records how long a request took."""

    def __call__(self, route: str, seconds: float, *, held: bool) -> None: ...


class DeviceApp(Starlette):
    """Serves *api* at `/v1/devices/{device}/{action}`; *lifespan* runs what works in the background.

    Devices' requests bypass Starlette, whose layers and router would cost as much as the answer does. The raw path
    counts, so that a percent-encoded device name never reaches anything, and the name is checked before anything else.
    *took* is called with the route and the seconds of each request that is answered and not refused, and whether it was
    held.
    """

    needs_task = False

    def __init__(
        self,
        api: DeviceApi,
        problems: ProblemHandlers,
        lifespan: Lifespan,
        *,
        monotonic: Callable[[], float],
        took: Took,
    ) -> None:
        super().__init__(lifespan=lifespan)
        self._api = api
        self._endpoints: dict[bytes, tuple[str, dict[str, Endpoint]]] = {
            b"desired": ("desired", {"GET": api.desired, "HEAD": api.desired}),
            b"report": ("report", {"POST": api.report}),
            b"connect": ("connect", {"POST": api.connect}),
        }
        self._problems = problems
        self._monotonic = monotonic
        self._took = took

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        try:
            began = self._monotonic()
            try:
                device, endpoint = self._routed(scope)
                await endpoint(device, scope, receive, send, began)
                if LEFT not in scope:
                    self._took(scope["action"], self._monotonic() - began, held=HELD in scope)
            except Problem as problem:
                await self._problems.slow_down(scope, problem.status)
                await self._problems.answer(scope, problem)(scope, receive, send)
        except Exception:
            with suppress(Exception):  # the answer may have begun
                await self._problems.crashed(scope)(scope, receive, send)
            raise  # the server logs it

    def _routed(self, scope: Scope) -> tuple[str, Endpoint]:
        """Return the device that the path names, and what answers; raise Problem (404, 400, 405) if nothing does."""
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        name, _, action = path[len(PREFIX) :].partition(b"/")
        if not path.startswith(PREFIX) or action not in self._endpoints:
            raise Problem(HTTPStatus.NOT_FOUND, "there is nothing at this path")
        scope["action"], methods = self._endpoints[action]
        device = name.decode("latin-1")
        if not self._api.declares(device) and not is_device_name(device):
            detail = "the device's name must be a lower-case RFC 1123 subdomain, not percent-encoded"
            raise Problem(HTTPStatus.BAD_REQUEST, detail)
        endpoint = methods.get(scope["method"])
        if endpoint is None and scope["method"] != "OPTIONS":
            allowed = _allowed(methods)
            raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use one of {allowed}", headers={"allow": allowed})
        return device, endpoint or partial(self._options, _allowed(methods))

    async def _options(self, allowed: str, _: str, scope: Scope, __: Receive, send: Send, ___: float) -> None:
        await self._problems.slow_down(scope, HTTPStatus.METHOD_NOT_ALLOWED)  # it needs no token either
        headers = [(b"allow", allowed.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": headers})
        await send({"type": "http.response.body"})


def _allowed(methods: Iterable[str]) -> str:
    return ", ".join((*methods, "OPTIONS"))
