# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout resume`."""

from __future__ import annotations

import click

from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.commands.rollout.pause import set_paused


@click.command("resume")
@deployment_argument
@on_cluster
async def resume(cluster: Cluster, deployment: str) -> str:
    """Let a paused rollout go on."""
    return await set_paused(cluster, deployment, paused=False)
