# SPDX-License-Identifier: Apache-2.0
"""The errors of the controller, split by who can fix them.

* ControllerError
  * InvalidDeployment: the user who wrote the deployment
  * NotLeading: no one has to; another replica continues
  * NotRecorded, Unreadable: the user who replays a file that the flight recorder did not write
* click.ClickException, in praetor_controller.ctl.errors: the user of praetorctl, by the exit code
  * CommandFailed: 1
  * BadInput: 2

Errors of requests are those of praetor_api.kube.client.errors.
"""

from __future__ import annotations


class ControllerError(Exception):
    """Base of the controller's own errors."""


class InvalidDeployment(ControllerError):
    """A user has to change the deployment first; the message names the field and what to write instead."""


class NotLeading(ControllerError):
    """Another replica may lead by now: nothing may be written."""


class NotRecorded(ControllerError):
    """Inputs that were read are not what a flight recorder writes; the message says where."""


class Unreadable(ControllerError):
    """A file is not a recording; the message names the line and what is wrong."""
