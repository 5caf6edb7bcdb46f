# SPDX-License-Identifier: Apache-2.0
"""Failures of requests to the Kubernetes API, split by what a caller does about them.

KubeError                  any failure; ``retry_after`` is the delay that the server asks for
├── NotConfigured          no usable kubeconfig: report it to the user
│   └── NoSuchContext      it has no context of that name
├── Unreachable            no usable answer: retry; whether a write happened is unknown
└── ApiError               the API answered with a failure
    ├── Unauthorized       401: renew the credentials
    ├── Forbidden          403: report it; only an administrator can change it
    ├── NotFound           404: the object is gone
    ├── AlreadyExists      409 of a create: read the object that has the name
    ├── Conflict           409: read again, then recompute the write
    ├── Gone               410: list again
    ├── Invalid            422: give up until the object changes
    ├── TooManyRequests    429: retry after ``retry_after``
    └── ServerError        5xx: retry after a backoff

The other errors of praetor_api stand with what raises them: WireError (praetor_api.wire) for a body that breaks the
device protocol, DecodeError (praetor_api.kube.codec) for an object that breaks its schema, BadOption
(praetor_api.kube.options) for a command line that cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "AlreadyExists",
    "ApiError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "KubeError",
    "NoSuchContext",
    "NotConfigured",
    "NotFound",
    "ServerError",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "api_error",
]


class KubeError(Exception):
    """Any failure of a request; ``retry_after`` is the delay in seconds that the server asks for, None without one."""

    retry_after: float | None = None


class NotConfigured(KubeError):
    """There is no usable kubeconfig; the message says which file and what is wrong with it."""


class NoSuchContext(NotConfigured):
    """The kubeconfig has no context of that name; the message lists those that it has."""


class Unreachable(KubeError):
    """No usable answer came: refused, cut off, timed out. Whether a write happened is unknown."""


class ApiError(KubeError):
    """The API answered with a failure.

    *status* is the HTTP code, *reason* the API's machine-readable word (may be empty), *details* those of the Status
    object, *retry_after* a delay in seconds.
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
    """401: the credentials are missing, wrong or expired."""


class Forbidden(ApiError):
    """403: not allowed, by RBAC or because the namespace is being deleted."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class AlreadyExists(ApiError):
    """409 AlreadyExists: create found an object of that name."""


class Conflict(ApiError):
    """409: the object changed since it was read, or a precondition did not hold. Read again and recompute."""


class Gone(ApiError):
    """410: the resourceVersion or the continue token is too old. List again."""


class Invalid(ApiError):
    """422: the object breaks its schema; retrying cannot help until it changes."""


class TooManyRequests(ApiError):
    """429: retry after ``retry_after``."""


class ServerError(ApiError):
    """5xx: the API failed; retry after a backoff."""


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
