# SPDX-License-Identifier: Apache-2.0
"""Errors of the lab itself, with messages for the user who runs it."""

from __future__ import annotations


class LabError(Exception):
    """A device cannot be booted or asked; the message says what is missing, or what the device said."""
