# SPDX-License-Identifier: Apache-2.0
"""`praetorctl token verify`."""

from __future__ import annotations

import click

from praetor_api.tokens import TokenVerifier, device_token
from praetor_controller.ctl.commands.token.mint import checked_name
from praetor_controller.ctl.errors import ExitCode
from praetor_controller.ctl.output import for_people, output_option, show, structured
from praetor_controller.ctl.token_secret import epoch_option, read_secrets, secret_option


@click.command("verify")
@click.argument("device")
@click.argument("token")
@secret_option
@epoch_option
@output_option
@click.pass_context
def verify(context: click.Context, device: str, token: str, secret_file: str, epoch: int, output: str) -> None:
    """Check whether a gateway with these secrets accepts TOKEN from DEVICE.

    \b
    Exit codes:
      0  the token is good
      2  the command line is wrong, or the secrets cannot be read
      3  the token is refused
    """
    secrets = read_secrets(secret_file)
    number = secret_number(checked_name(device), token, secrets, epoch)
    show(judged(device, number, len(secrets), epoch, output))
    context.exit(ExitCode.FAILED if number is None else ExitCode.DONE)


def secret_number(device: str, token: str, secrets: tuple[bytes, ...], epoch: int) -> int | None:
    """Return which of *secrets* made *token* for *device* in its *epoch*, 1 for the newest; None when it is refused."""
    if TokenVerifier(secrets=secrets).verify(device, token, epoch) is None:
        return None
    return 1 + [device_token(secret, device, epoch) for secret in secrets].index(token)


def judged(device: str, number: int | None, count: int, epoch: int, output: str) -> str:
    """Return what is printed about a token that secret *number* of *count* made."""
    if not for_people(output):
        return structured({"device": device, "valid": number is not None, "secret": number}, output)
    if number is None:
        return f"refused: no secret makes this token for {device} in epoch {epoch}"
    if number == 1:
        return f"good: {device} may use this token"
    return f"good: {device} may use this token, but it is of secret {number} of {count}; mint a new one"
