# SPDX-License-Identifier: Apache-2.0
"""Errors of the device protocol: application/problem+json (RFC 9457), one class and one handler."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from praetor_gateway.errors import Problem

MEDIA_TYPE = "application/problem+json"


class ProblemHandlers:
    """Turns errors into answers; *count* is called with each route and status."""

    def __init__(self, count: Callable[[str, int], None]) -> None:
        self._count = count

    def answer(self, scope: Scope, problem: Problem) -> Response:
        """Return the answer to the request of *scope*."""
        self._count(scope.get("action", "none"), problem.status)
        body: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "detail": problem.detail,
        }
        if problem.faults:
            body["errors"] = [{"field": fault.path, "message": fault.message} for fault in problem.faults]
        headers = {"cache-control": "no-store", **problem.headers}
        return Response(json.dumps(body), problem.status, headers, MEDIA_TYPE)

    async def on_crash(self, request: Request, _: Exception) -> Response:
        """Answer 500 after a bug of ours; the server logs it."""
        detail = "the gateway failed to answer; try again"
        return self.answer(request.scope, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail))

    async def on_http_exception(self, request: Request, error: Exception) -> Response:
        """Answer what Starlette refuses: nothing is at the path."""
        assert isinstance(error, HTTPException)  # noqa: S101 - starlette calls us for this class only
        problem = Problem(error.status_code, "there is nothing at this path", headers=error.headers)
        return self.answer(request.scope, problem)
