# SPDX-License-Identifier: Apache-2.0
"""`praetorctl token mint`."""

from __future__ import annotations

import click

from praetor_api.names import is_device_name
from praetor_api.tokens import device_token
from praetor_controller.ctl.errors import BadInput
from praetor_controller.ctl.output import for_people, output_option, show, structured, table
from praetor_controller.ctl.token_secret import epoch_option, read_secrets, secret_option


@click.command("mint")
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@secret_option
@epoch_option
@output_option
def mint(devices: tuple[str, ...], secret_file: str, epoch: int, output: str) -> None:
    """Make the tokens of devices from the newest secret of the gateway.

    One device's token is printed alone, several in a table. No cluster is needed.
    """
    checked = [checked_name(device) for device in devices]
    newest = read_secrets(secret_file)[0]
    show(minted({device: device_token(newest, device, epoch) for device in checked}, output))


def minted(tokens: dict[str, str], output: str) -> str:
    """Return what is printed about *tokens*, by device."""
    if not for_people(output):
        return structured([{"device": device, "token": token} for device, token in tokens.items()], output)
    if len(tokens) == 1:
        return next(iter(tokens.values()))
    return table(("DEVICE", "TOKEN"), list(tokens.items()))


def checked_name(device: str) -> str:
    """Return *device* if it is a valid name of a device, else raise BadInput."""
    if not is_device_name(device):
        raise BadInput(f"DEVICE: {device!r} is not a device name; use lower-case letters, digits, '-' and '.'")
    return device
