"""What can go wrong in the controller, split by who can mend it."""

from __future__ import annotations


class ControllerError(Exception):
    """Base of the controller's own errors."""


class InvalidDeployment(ControllerError):
    """A deployment cannot be acted on until somebody changes it; the message names field and mend."""


class BadSettings(ControllerError):
    """An option cannot be used; the message names the flag and the mend."""


class NotLeading(ControllerError):
    """The lease is not surely ours: nothing may be written."""
