"""What can go wrong between us and the Kubernetes API, split by what a caller does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class KubeError(Exception):
    """Every failure of a request; ``retry_after`` is the server's wish in seconds, if it had one."""

    retry_after: float | None = None


class NotConfigured(KubeError):
    """There is no usable kubeconfig; the message says which file and what is wrong with it."""


class Unreachable(KubeError):
    """No usable answer came: refused, cut off, timed out. Whether a write happened is unknown."""


class ApiError(KubeError):
    """The API answered with a failure.

    *status* is the HTTP code, *reason* the API's machine-readable word (may be empty), *details* the Status object's.
    """

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, reason, message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"{self.status} {self.reason}: {self.message}" if self.message else f"{self.status} {self.reason}".strip()
        )


class Unauthorized(ApiError):
    """401: the API does not know us."""


class Forbidden(ApiError):
    """403: the API knows us and says no (RBAC, or a namespace that is going away)."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class AlreadyExists(ApiError):
    """409 AlreadyExists: create found an object of that name."""


class Conflict(ApiError):
    """409: the object changed since it was read, or a precondition did not hold. Read again and recompute."""


class Gone(ApiError):
    """410: the resourceVersion or the continue token is too old. List again."""


class Invalid(ApiError):
    """422: the object breaks its schema; trying again cannot help until it changes."""


class TooManyRequests(ApiError):
    """429: try again after ``retry_after``."""


class ServerError(ApiError):
    """5xx: the API failed; try again after a backoff."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def api_error(
    status: int,
    reason: str = "",
    message: str = "",
    details: Mapping[str, Any] | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """Return the error of the class that *status* and *reason* call for."""
    cls = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if cls is Conflict and reason == "AlreadyExists":
        cls = AlreadyExists
    return cls(status, reason, message, details, retry_after)
