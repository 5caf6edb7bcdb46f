# SPDX-License-Identifier: Apache-2.0
"""Fault injection: which requests fail, how often, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kubeplane.errors import ApiError, Obj, bad_request, conflict
from kubeplane.routes import Route


class Action(StrEnum):
    """What goes wrong."""

    CONFLICT = "conflict"  # 409
    GONE = "gone"  # 410; on a watch, an ERROR event
    TOO_MANY = "too_many"  # 429 with Retry-After
    ERROR = "error"  # 500
    UNAVAILABLE = "unavailable"  # 503
    HANG = "hang"  # no answer for `seconds`, then an end of the connection
    SLOW = "slow"  # the answer comes `seconds` late
    TRUNCATE = "truncate"  # a watch sends half a line and ends
    FREEZE = "freeze"  # a watch stays open and says nothing more


@dataclass(slots=True)
class Fault:
    """One fault to inject. Empty fields match everything; *count* is how many requests it hits still (-1: all)."""

    action: Action
    verb: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    user: str = ""
    count: int = -1
    seconds: float = 1.0
    hits: int = 0

    def matches(self, route: Route, user: str) -> bool:
        asked = {
            self.verb: route.verb,
            self.group: route.group,
            self.resource: route.plural,
            self.subresource: route.subresource,
            self.name: route.name,
            self.user: user,
        }
        return self.count != 0 and all(not wanted or wanted == have for wanted, have in asked.items())


class Faults:
    """The faults that are set, in order."""

    def __init__(self) -> None:
        self.active: list[Fault] = []

    def add(self, given: Any) -> None:
        """Set a fault given as JSON; ApiError 400 for one that cannot be read."""
        try:
            self.active.append(Fault(**{**given, "action": Action(given["action"])}))
        except (TypeError, KeyError, ValueError) as error:
            raise bad_request(f"no such fault: {error}; actions are {', '.join(Action)}") from error

    def take(self, route: Route, user: str) -> Fault | None:
        """Return the fault that hits this request, counted down."""
        fault = next((fault for fault in self.active if fault.matches(route, user)), None)
        if fault:
            fault.hits += 1
            fault.count -= fault.count > 0
        return fault

    def as_json(self) -> Obj:
        names = Fault.__slots__
        return {"faults": [{name: getattr(fault, name) for name in names} for fault in self.active]}


def error_of(fault: Fault, route: Route) -> ApiError | None:
    """Return the error with which a request is refused, if that is what the fault does."""
    match fault.action:
        case Action.CONFLICT:
            why = "the object has been modified; please apply your changes to the latest version and try again"
            return conflict(route.group, route.plural, route.name, why)
        case Action.GONE:
            return ApiError(410, "Expired", "too old resource version: injected fault")
        case Action.TOO_MANY:
            message = "Too many requests, please try again later."
            return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": max(1, round(fault.seconds))})
        case Action.ERROR:
            return ApiError(500, "InternalError", "Internal error occurred: injected fault")
        case Action.UNAVAILABLE:
            return ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
        case _:
            return None
