"""What goes wrong with the lab itself, told to the person who runs it."""

from __future__ import annotations


class LabError(Exception):
    """A device cannot be booted or asked; the message says what is missing, or what the device said."""
