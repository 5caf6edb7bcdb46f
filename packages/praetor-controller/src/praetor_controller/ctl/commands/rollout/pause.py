# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout pause`."""

from __future__ import annotations

import click

from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.rollout_patch import merge, read


@click.command("pause")
@deployment_argument
@on_cluster
async def pause(cluster: Cluster, deployment: str) -> str:
    """Stop a rollout where it is. No process is written until it is resumed; what runs goes on running."""
    return await set_paused(cluster, deployment, paused=True)


async def set_paused(cluster: Cluster, name: str, *, paused: bool) -> str:
    """Set spec.paused, and return what to print."""
    word = "paused" if paused else "resumed"
    if bool((await read(cluster, name)).get("spec", {}).get("paused")) is paused:
        return f"{name}: is {'paused' if paused else 'not paused'} already"
    await merge(cluster, name, {"spec": {"paused": paused}})
    return f"{name}: {word}"
