# SPDX-License-Identifier: Apache-2.0
"""The options that device tokens are made from: an epoch, and secrets.

Secrets come from a file or standard input, never from the command line, which other users can read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from praetor_controller.ctl.errors import BadInput

OPTION = "--secret-file"
STDIN = "-"

secret_option = click.option(
    OPTION,
    "secret_file",
    required=True,
    type=click.Path(allow_dash=True),
    help="File of secrets, one a line, newest first; - reads standard input.",
)


epoch_option = click.option(
    "--epoch",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The device's credential epoch, spec.credentialEpoch of its NetworkSwitch; tokens of others are revoked.",
)


def read_secrets(given: str) -> tuple[bytes, ...]:
    """Return the secrets in the file *given*; BadInput when a gateway would not accept them."""
    words = [line.strip() for line in _text(given).splitlines() if line.strip()]
    if not words:
        raise BadInput(f"{OPTION}: {given} is empty; write one secret a line, newest first")
    if not all(word.isascii() and word.isprintable() for word in words):
        raise BadInput(f"{OPTION}: is not printable ASCII, which the gateway requires; choose another secret")
    return tuple(word.encode() for word in words)


def _text(given: str) -> str:
    try:
        content = sys.stdin.buffer.read() if given == STDIN else Path(given).read_bytes()
        return content.decode("utf-8")
    except OSError as e:
        raise BadInput(f"{OPTION}: cannot read {given}: {e.strerror}; give a file of secrets") from e
    except UnicodeDecodeError as e:
        raise BadInput(f"{OPTION}: {given} is not text; write one secret a line") from e
