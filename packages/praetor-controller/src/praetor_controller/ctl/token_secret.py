# SPDX-License-Identifier: Apache-2.0
"""What device tokens are made from: an epoch, and secrets.

Secrets come from a file, standard input or the cluster, never from the command line, which other users can read.
"""

from __future__ import annotations

import base64
import binascii

import click

from praetor_api.kube.client.errors import NotFound
from praetor_api.kube.client.resource import SECRETS, Key
from praetor_controller.ctl.cluster import Cluster
from praetor_controller.ctl.errors import BadInput, CommandFailed, read_input

OPTION = "--secret-file"
SECRET_OPTION = "--gateway-secret"  # noqa: S105  # the name of an option
_MAX_BYTES = 1 << 20
DATA_KEY = "secrets"
"""Where the Secret has the lines of the file, as deploy/ makes it."""

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
    return _secrets(read_input(given, OPTION, "give a file of secrets", _MAX_BYTES), OPTION, given)


async def cluster_secrets(cluster: Cluster, key: Key) -> tuple[bytes, ...]:
    """Return the secrets in the Secret *key* of the gateway; CommandFailed when it is missing, BadInput when bad."""
    try:
        data = (await cluster.api.get(SECRETS, key)).get("data") or {}
        content = base64.b64decode(data.get(DATA_KEY) or "", validate=True)
    except NotFound as e:
        raise CommandFailed(
            f"not found: {key.namespace} has no Secret {key.name}; write --gateway-namespace and {SECRET_OPTION} "
            f"as the gateway has them, or {OPTION}"
        ) from e
    except binascii.Error as e:
        raise BadInput(f"{SECRET_OPTION}: {DATA_KEY} of {key} is not base64; write the Secret again") from e
    return _secrets(content, SECRET_OPTION, f"{DATA_KEY} of {key}")


def _secrets(content: bytes, option: str, source: str) -> tuple[bytes, ...]:
    try:
        words = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise BadInput(f"{option}: {source} is not text; write one secret a line") from e
    if not words:
        raise BadInput(f"{option}: {source} is empty; write one secret a line, newest first")
    if not all(word.isascii() and word.isprintable() for word in words):
        raise BadInput(f"{option}: is not printable ASCII, which the gateway requires; choose another secret")
    return tuple(word.encode() for word in words)
