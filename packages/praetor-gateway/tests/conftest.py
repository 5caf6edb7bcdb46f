# SPDX-License-Identifier: Apache-2.0
"""The loops that tests of the gateway run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

ON_UVLOOP = "test_gateway_uvloop.py"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run one module on uvloop's loop, and all others on asyncio's."""
    if item.path.name == ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
