"""The desired state, between the thread that polls and the loop."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from praetor_agent.state import Received


class Inbox:
    """Holds the latest desired state; *wake* is called when a new one comes in."""

    def __init__(self, wake: Callable[[], None], latest: Received | None = None) -> None:
        self._lock = Lock()
        self._wake = wake
        self._latest = latest

    def put(self, received: Received) -> bool:
        """Take *received* and tell whether it is new."""
        with self._lock:
            if self._latest is not None and self._latest.etag == received.etag and self._latest.body == received.body:
                return False
            self._latest = received
        self._wake()
        return True

    def latest(self) -> Received | None:
        """Return the latest desired state; None when the device was never told any."""
        with self._lock:
            return self._latest

    def etag(self) -> str | None:
        """Return the ETag of the latest desired state."""
        latest = self.latest()
        return latest.etag if latest else None
