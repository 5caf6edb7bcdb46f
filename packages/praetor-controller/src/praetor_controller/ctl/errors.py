# SPDX-License-Identifier: Apache-2.0
"""How the command ends: one exit code for each outcome that scripts distinguish, and errors without tracebacks."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import IO, Any

import click

from praetor_api.kube.client.errors import (
    Forbidden,
    KubeError,
    NoSuchContext,
    NotConfigured,
    NotFound,
    Unauthorized,
    Unreachable,
)
from praetor_controller.ctl.output import warn

STDIN = "-"
"""The name of standard input on a command line."""


class ExitCode(IntEnum):
    """Exit codes."""

    DONE = 0
    ERROR = 1
    DIFFERENT = 1
    USAGE = 2
    FAILED = 3
    PAUSED = 4
    TIMEOUT = 5
    IN_PROGRESS = 6
    INTERRUPTED = 130


class CommandFailed(click.ClickException):
    """The command cannot go on; the message names what is wrong and what to do."""

    exit_code = ExitCode.ERROR

    def show(self, file: IO[Any] | None = None) -> None:
        warn(f"Error: {self.format_message()}")


class BadInput(CommandFailed):
    """An argument or a file cannot be used; the message names the field and what to write instead."""

    exit_code = ExitCode.USAGE


def read_input(given: str, option: str, remedy: str, most: int) -> bytes:
    """Return the content of the file *given*, or of standard input when it is -.

    BadInput, which names *option* and the *remedy*, when it cannot be read or has more than *most* bytes.
    """
    try:
        if given == STDIN:
            content = sys.stdin.buffer.read(most + 1)
        else:
            with open(given, "rb") as file:
                content = file.read(most + 1)
    except OSError as e:
        raise BadInput(f"{option}: cannot read {given}: {e.strerror}; {remedy}") from e
    if len(content) > most:
        raise BadInput(f"{option}: {given} has more than {most >> 20} MiB; {remedy}")
    return content


def command_failed(error: KubeError) -> CommandFailed:
    """Return the error of a failed request for a user, with what to do about it."""
    match error:
        case NoSuchContext():
            return CommandFailed(f"{error}; choose one with --context")
        case NotConfigured():
            return CommandFailed(f"{error}; give --kubeconfig or set KUBECONFIG")
        case Unreachable():
            return CommandFailed(
                f"the cluster is not reachable: {error}; check --kubeconfig, --context and the network"
            )
        case Unauthorized():
            return CommandFailed(f"the cluster refuses the credentials: {error}; check those of --context")
        case Forbidden():
            return CommandFailed(f"not allowed: {error.message or error}; ask for a role that may, see deploy/")
        case NotFound():
            remedy = "check the name and --namespace"
            if not error.details.get("name"):  # it may be the kind that the API does not know
                remedy += ", and that the CRDs are installed: kubectl apply -f crds/"
            return CommandFailed(f"not found: {error.message or error}; {remedy}")
        case _:
            return CommandFailed(str(error))
