# SPDX-License-Identifier: Apache-2.0
"""The agent's log, without the values of Secrets that processes are given: a traceback may repeat what failed."""

from __future__ import annotations

import logging
from collections.abc import Callable


class MaskedFormatter(logging.Formatter):
    """Formats a record, its traceback included, and applies *mask* to all of it."""

    mask: Callable[[str], str] = staticmethod(str)

    def format(self, record: logging.LogRecord) -> str:
        return self.mask(super().format(record))


def mask_log(mask: Callable[[str], str]) -> None:
    """Apply *mask* to what is logged from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, MaskedFormatter):
            handler.formatter.mask = mask
