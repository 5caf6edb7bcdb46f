# SPDX-License-Identifier: Apache-2.0
"""The errors of the API, each of which becomes a metav1.Status.

An operation raises; one handler turns the error into a response.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Obj: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object: reason and message as metav1.StatusCause has them, and the field's path."""

    reason: str
    message: str
    field: str

    def as_json(self) -> Obj:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class ApiError(Exception):
    """A refused request: HTTP code, machine-readable reason, message and the details of its Status."""

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None, **meta: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.meta = meta

    def as_status(self) -> Obj:
        """Return the metav1.Status of this error."""
        status: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": dict(self.meta), "status": "Failure"}
        status |= {"message": self.message, "reason": self.reason}
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        seconds = (self.details or {}).get("retryAfterSeconds")
        return (("Retry-After", str(seconds)),) if seconds else ()


def copied(obj: Obj) -> Obj:
    """Return a deep copy of a JSON object, at the speed of its codec."""
    copy: Obj = json.loads(json.dumps(obj))
    return copy


def _details(group: str, plural: str, name: str) -> Obj:
    details: Obj = {"name": name} if name else {}
    if group:
        details["group"] = group
    return details | {"kind": plural}


def qualified(plural: str, group: str) -> str:
    """Return the resource's name as messages give it: plural.group, or the plural alone in the core group."""
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(plural, group)} "{name}" not found'
    return ApiError(404, "NotFound", message, _details(group, plural, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(plural, group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(group, plural, name))


def modified(group: str, plural: str, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(group, plural, name, why)


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """Return a 422 with one cause for each fault."""
    parts = [f"{cause.field}: {cause.message}" for cause in causes]
    joined = parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"
    details = _details(group, kind, name) | {"causes": [cause.as_json() for cause in causes]}
    return ApiError(422, "Invalid", f'{qualified(kind, group)} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unsupported_media_type(message: str) -> ApiError:
    return ApiError(415, "UnsupportedMediaType", message)


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def forbidden(group: str, plural: str, name: str, why: str) -> ApiError:
    target = f' "{name}"' if name else ""
    message = f"{qualified(plural, group)}{target} is forbidden: {why}"
    return ApiError(403, "Forbidden", message, _details(group, plural, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def expired(message: str, **meta: Any) -> ApiError:
    """Return a 410 for a resourceVersion or a continue token that the history no longer covers."""
    return ApiError(410, "Expired", message, None, **meta)


def too_old(asked: int, oldest: int) -> ApiError:
    return expired(f"too old resource version: {asked} ({oldest})")


def timeout(message: str, retry_after_s: int) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": retry_after_s})
