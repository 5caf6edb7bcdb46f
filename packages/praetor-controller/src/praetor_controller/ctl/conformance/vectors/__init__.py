# SPDX-License-Identifier: Apache-2.0
"""Golden vectors of the device protocol. They never change: what has been stored or sent must keep its meaning."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def vectors(name: str) -> Any:
    """Return the vectors `desired`, `reports` or `hashes`; what they contain is said in docs/protocol.md."""
    return json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
