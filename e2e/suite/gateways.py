# SPDX-License-Identifier: Apache-2.0
"""A gateway that runs otherwise than the stack's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from e2e.stack.server import Server
from e2e.stack.stack import Stack


@contextmanager
def only_gateway(stack: Stack, server: str, *flags: str) -> Iterator[Server]:
    """Run a gateway on *server*, with further *flags*, in place of the stack's own."""
    stack.gateway.program.stop()
    gateway = stack.new_gateway(f"gateway-{server}", f"--server={server}", *flags)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.program.stop()
