# SPDX-License-Identifier: Apache-2.0
"""Requests and responses, as every entry to the API passes them: the server on loopback and callers in the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Request:
    """One request; *query* holds the last value of each parameter, *headers* are by lower-case name."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


Send: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    """One response; with *stream*, the body is what that sends, in chunks. *cut* ends the connection in the middle."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: Callable[[Send], Awaitable[None]] | None = field(default=None)
    cut: bool = False


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
