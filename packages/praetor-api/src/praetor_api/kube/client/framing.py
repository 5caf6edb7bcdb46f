# SPDX-License-Identifier: Apache-2.0
"""Lines out of chunks: how a watch's events are framed. Pure, linear in the bytes, bounded in memory."""

from __future__ import annotations

__all__ = ["LineSplitter", "LineTooLong"]


class LineTooLong(ValueError):
    """A line grew beyond the limit."""


class LineSplitter:
    """Collects chunks and gives whole lines back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0

    @property
    def empty(self) -> bool:
        """Whether no part of a line is waiting for its end."""
        return not self._pending_size

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that *chunk* completes, without their newlines; raise LineTooLong beyond the limit."""
        first, *others = chunk.split(b"\n")
        self._keep(first)
        if not others:
            return []
        lines = [b"".join(self._pending), *others[:-1]]
        self._pending, self._pending_size = [], 0
        self._keep(others[-1])
        return lines

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        self._pending.append(part)
        self._pending_size += len(part)
        if self._pending_size > self._limit:
            raise LineTooLong(f"a line is longer than {self._limit} bytes")
