# SPDX-License-Identifier: Apache-2.0
"""Errors of the device protocol: application/problem+json (RFC 9457), one class and one handler."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Scope

from praetor_api.kube.runtime.clock import Clock
from praetor_api.wire import write
from praetor_gateway.errors import Problem
from praetor_gateway.http.rate_limit import RateLimit, network_of

MEDIA_TYPE = "application/problem+json"
REFUSALS_PER_S = 10.0
"""Refused requests of one address that are answered at once, in the long run. Many devices may share an address, and
one with a good token is never refused for the others."""
PAUSE_S = 1.0
"""How long an answer beyond a rate waits at most, and half of it at least: a loop of requests costs no more than two a
second and connection. Hundreds of connections that ask at once are not answered at once, which others would feel."""
_REFUSALS = frozenset({400, 401, 404, 405, 408, 413, 415})


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """A bad field of the body, such as `observations[0].pid`, and what is wrong with it."""

    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemBody:
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()


class ProblemHandlers:
    """Turns errors into answers; *count* is called with each route and status, *fraction* is random in [0, 1)."""

    def __init__(
        self,
        count: Callable[[str, int], None],
        clock: Clock,
        fraction: Callable[[], float] = random.random,  # noqa: S311 - no secret
    ) -> None:
        self._count = count
        self._clock = clock
        self._fraction = fraction
        self._refusals = RateLimit(REFUSALS_PER_S)

    async def slow_down(self, scope: Scope, status: int) -> None:
        """Wait before *status* is answered to a device that asks too often, or an address that is refused too often."""
        address, _ = scope.get("client") or ("", 0)
        if status == HTTPStatus.TOO_MANY_REQUESTS or (
            status in _REFUSALS and self._refusals.spend(network_of(address), self._clock.monotonic()) > 0
        ):
            await self._clock.sleep(PAUSE_S * (1.0 + self._fraction()) / 2.0)

    def answer(self, scope: Scope, problem: Problem) -> Response:
        """Return the answer to the request of *scope*."""
        self._count(scope.get("action", "none"), problem.status)
        body = ProblemBody(
            type="about:blank",
            title=HTTPStatus(problem.status).phrase,
            status=problem.status,
            detail=problem.detail,
            errors=tuple(FieldProblem(field=fault.path, message=fault.message) for fault in problem.faults),
        )
        headers = {"cache-control": "no-store", **problem.headers}
        return Response(json.dumps(write(body)), problem.status, headers, MEDIA_TYPE)

    def crashed(self, scope: Scope) -> Response:
        """Return the answer after a bug of ours, 500."""
        detail = "the gateway failed to answer; try again"
        return self.answer(scope, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail))
