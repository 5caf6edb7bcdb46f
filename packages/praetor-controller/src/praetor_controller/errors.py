"""The errors of the controller, split by who can fix them."""

from __future__ import annotations


class ControllerError(Exception):
    """Base of the controller's own errors."""


class InvalidDeployment(ControllerError):
    """A user has to change the deployment first; the message names the field and what to write instead."""


class NotLeading(ControllerError):
    """Another replica may lead by now: nothing may be written."""
