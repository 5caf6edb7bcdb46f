# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices token`: the tokens of many devices at once, each of the device's own epoch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict, field, frozen

from praetor_api.kube.client.resource import Key
from praetor_api.tokens import device_token
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import device_names
from praetor_controller.ctl.errors import BadInput, CommandFailed
from praetor_controller.ctl.inventory import refusal
from praetor_controller.ctl.kinds import list_devices
from praetor_controller.ctl.output import counted, for_people, names_of, output_option, show, structured, table, warn
from praetor_controller.ctl.token_secret import OPTION, SECRET_OPTION, cluster_secrets, read_secrets

_DIRECTORY = "--output-dir"


@frozen(kw_only=True)
class Minted:
    """The token of a device in its credential epoch."""

    device: str
    epoch: int
    token: str = field(repr=False)


@click.command("token")
@click.argument("devices", metavar="[DEVICE]...", nargs=-1, shell_complete=device_names)
@click.option("-l", "--selector", metavar="SELECTOR", help="The devices with these labels, such as role=leaf.")
@click.option("--all", "all_devices", is_flag=True, help="Every device of the namespace.")
@click.option(
    OPTION,
    "secret_file",
    type=click.Path(allow_dash=True),
    help="File of the gateway's secrets, one a line, newest first; - reads standard input. Without it they are read "
    "from the cluster.",
)
@click.option(
    "--gateway-namespace",
    default="praetor-system",
    show_default=True,
    metavar="NAMESPACE",
    help="Where the gateway has its Secret.",
)
@click.option(
    SECRET_OPTION,
    "gateway_secret",
    default="praetor-device-tokens",
    show_default=True,
    metavar="NAME",
    help="Name of the Secret that holds the gateway's secrets, under the key secrets.",
)
@click.option(
    _DIRECTORY,
    "output_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write each token into a file DIR/DEVICE of mode 0600, and print none.",
)
@on_cluster
@output_option
async def token(
    cluster: Cluster,
    devices: tuple[str, ...],
    selector: str | None,
    all_devices: bool,
    secret_file: str | None,
    gateway_namespace: str,
    gateway_secret: str,
    output_dir: Path | None,
    output: str,
) -> str:
    """Make the tokens of declared devices, each of its device's present epoch.

    A single DEVICE's token is printed alone, others in a table. Tokens are of the newest secret of the gateway.
    """
    if [bool(devices), bool(selector), all_devices].count(True) != 1:
        raise BadInput("DEVICE: name devices, or write -l SELECTOR or --all; one of the three")
    secrets = read_secrets(secret_file) if secret_file else None
    switches = sorted((await list_devices(cluster, selector)).objects, key=lambda each: not refusal(each))
    epochs = _epochs(switches, devices or None, cluster.namespace)
    if not epochs:
        warn(f"no devices in namespace {cluster.namespace}" + (f" match {selector}" if selector else ""))
        return ""
    newest = (secrets or await cluster_secrets(cluster, Key(gateway_namespace, gateway_secret)))[0]
    minted = [
        Minted(device=device, epoch=epoch, token=device_token(newest, device, epoch))
        for device, epoch in epochs.items()
    ]
    if output_dir is not None:
        show(_written(minted, output_dir, output))
    elif for_people(output):
        rows = [(each.device, each.token) for each in minted]
        show(minted[0].token if len(devices) == 1 else table(("DEVICE", "TOKEN"), rows))
    else:
        show(structured([asdict(each) for each in minted], output))
    return ""


def _epochs(switches: Sequence[Mapping[str, Any]], wanted: Sequence[str] | None, namespace: str) -> dict[str, int]:
    """Return the credential epochs of the devices *wanted*, all by default, by their names in order.

    A name that belongs to another namespace has its epoch there: it is left out with a warning, and CommandFailed when
    it is *wanted*, as one that is not declared.
    """
    found = {each["metadata"]["name"]: each for each in switches}  # of two kinds with one name, that which has it
    chosen = sorted(found if wanted is None else set(wanted))
    if missing := [name for name in chosen if name not in found]:
        raise CommandFailed(
            f"not found: {namespace} has no device {names_of(missing)}; declare it, check --namespace, or make "
            "the token of a device that is not declared with praetorctl token mint"
        )
    refused = [name for name in chosen if refusal(found[name])]
    if refused and wanted is not None:
        raise CommandFailed(
            f"{names_of(refused)}: {refusal(found[refused[0]])}; leave it out, or give the name to {namespace} with "
            "praetorctl devices transfer"
        )
    if refused:
        warn(f"Warning: no token for {names_of(refused)}: {refusal(found[refused[0]])}")
    return {name: (found[name].get("spec") or {}).get("credentialEpoch") or 0 for name in chosen if name not in refused}


def _written(minted: Sequence[Minted], folder: Path, output: str) -> str:
    """Write the tokens into files of *folder* that their owner alone may read, and return what is printed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in minted:
            _replace(folder / each.device, each.token)
    except OSError as e:
        raise BadInput(f"{_DIRECTORY}: cannot write {e.filename2 or e.filename}: {e.strerror}; name a folder") from e
    if for_people(output):
        return f"{counted(len(minted), 'token')} in {folder}, each in a file with the name of its device"
    return structured(
        [{"device": each.device, "epoch": each.epoch, "file": str(folder / each.device)} for each in minted], output
    )


def _replace(path: Path, token: str) -> None:
    """Write *path* whole or not at all: mkstemp makes a new file of mode 0600 and follows no link."""
    descriptor, name = tempfile.mkstemp(prefix=".token-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
