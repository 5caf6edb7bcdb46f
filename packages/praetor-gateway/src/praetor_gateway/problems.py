"""Errors of the device protocol: application/problem+json (RFC 9457), one class and one handler."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from praetor_api.wire import Fault, WireError

MEDIA_TYPE = "application/problem+json"
UNAUTHORIZED_DETAIL = "the token is missing or not valid for this device"


class Problem(Exception):
    """A request that is answered with an error; *faults* name bad fields of its body."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        faults: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})


def raise_for_body(error: WireError) -> NoReturn:
    """Raise the 400 that says what is wrong with a body."""
    raise Problem(HTTPStatus.BAD_REQUEST, "the body is not valid", faults=error.faults) from error


class ProblemHandlers:
    """Turn what went wrong into answers; *count* is told of each."""

    def __init__(self, count: Callable[[str, int], None]) -> None:
        self._count = count

    def table(self) -> dict[Any, ExceptionHandler]:
        """Return the handlers by exception, as starlette takes them."""
        return {
            Problem: self._on_problem,
            HTTPException: self._on_http_exception,
            Exception: self._on_crash,
        }

    async def _on_problem(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101 - starlette calls us for this class only
        return self._answer(request, error)

    async def _on_http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - starlette calls us for this class only
        problem = Problem(error.status_code, "there is nothing at this path", headers=error.headers)
        return self._answer(request, problem)

    async def _on_crash(self, request: Request, _: Exception) -> Response:
        """A bug of ours; the server logs it."""
        detail = "the gateway failed to answer; try again"
        return self._answer(request, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail))

    def _answer(self, request: Request, problem: Problem) -> Response:
        self._count(request.scope.get("action", "none"), problem.status)
        return _response(problem)


def _response(problem: Problem) -> Response:
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
