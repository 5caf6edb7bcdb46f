# SPDX-License-Identifier: Apache-2.0
"""`praetorctl completion`, and the names of objects that a shell may complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, get_completion_class

from praetor_api.kube.client.errors import Forbidden, KubeError, NotFound
from praetor_api.kube.client.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    DEVICES,
    NETWORK_SWITCHES,
    Resource,
)
from praetor_controller.ctl.cluster import Opener, Target, list_all, opened
from praetor_controller.ctl.output import show

_TIMEOUT_S = 3.0
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that teaches a shell to complete praetorctl.

    It completes names of devices and deployments, too.

    \b
      bash:  source <(praetorctl completion bash)   in ~/.bashrc
      zsh:   source <(praetorctl completion zsh)    in ~/.zshrc, after compinit
      fish:  praetorctl completion fish | source    in ~/.config/fish/config.fish
    """
    cls = get_completion_class(shell)
    assert cls is not None  # noqa: S101  # the choices above are click's own
    show(cls(context.find_root().command, {}, "praetorctl", "_PRAETORCTL_COMPLETE").source())


def names_of(*resources: Resource) -> Complete:
    """Return a function that completes names of *resources*; nothing when the cluster does not answer in time."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = context.params
        target = Target(
            kubeconfig=given.get("kubeconfig"), context=given.get("context"), namespace=given.get("namespace")
        )
        try:
            found = asyncio.run(_names(context.obj or opened, target, resources))
        except (KubeError, OSError, ValueError, TimeoutError, click.ClickException):
            return []  # a shell is no place for errors
        return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete)]

    return complete


async def _names(opener: Opener, target: Target, resources: tuple[Resource, ...]) -> set[str]:
    async with asyncio.timeout(_TIMEOUT_S), opener(target) as cluster:
        names: set[str] = set()
        for each in resources:
            with suppress(NotFound, Forbidden):  # a cluster may lack some kinds of devices
                names |= {obj["metadata"]["name"] for obj in await list_all(cluster, each)}
        return names


deployment_names = names_of(DEVICE_PROCESS_DEPLOYMENTS)
device_names = names_of(*DEVICES.values())


def _without_type(*resources: tuple[str, Resource]) -> Callable[[click.Context, click.Parameter, str], str]:
    """Return a function that takes the type away which kubectl writes before a name: beacon of dpd/beacon."""
    types = {word for short, each in resources for word in (short, each.kind.lower(), each.plural)}

    def convert(_: click.Context, __: click.Parameter, name: str) -> str:
        kind, slash, rest = name.partition("/")
        return rest if slash and kind.lower().removesuffix(f".{DEVICE_PROCESSES.group}") in types else name

    return convert


_DPD, _DP, _NSW = ("dpd", DEVICE_PROCESS_DEPLOYMENTS), ("dp", DEVICE_PROCESSES), ("nsw", NETWORK_SWITCHES)
deployment_argument = click.argument(
    "deployment", metavar="DPD", shell_complete=deployment_names, callback=_without_type(_DPD)
)
subject_argument = click.argument(
    "subject",
    metavar="DEVICE|DPD[/DEVICE]|PROCESS",
    shell_complete=names_of(DEVICE_PROCESS_DEPLOYMENTS, *DEVICES.values(), DEVICE_PROCESSES),
    callback=_without_type(_DPD, _DP, _NSW),
)
