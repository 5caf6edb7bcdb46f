# SPDX-License-Identifier: Apache-2.0
"""Free ports of the loopback interface.

A port is free when asked for and may be taken a moment later, so that starters try again with others.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int) -> tuple[int, ...]:
    """Return *count* different TCP ports that nothing listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return tuple(sock.getsockname()[1] for sock in sockets)
