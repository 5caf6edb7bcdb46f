# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout restart`."""

from __future__ import annotations

import click

from praetor_api.annotations import RESTARTED_AT_ANNOTATION
from praetor_api.kube.codec import format_time
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.rollout_patch import merge


@click.command("restart")
@deployment_argument
@on_cluster
async def restart(cluster: Cluster, deployment: str) -> str:
    """Restart every process of a deployment, as a rollout. It keeps to the deployment's budget and waves."""
    at = format_time(cluster.clock.now())
    metadata = {"annotations": {RESTARTED_AT_ANNOTATION: at}}
    await merge(cluster, deployment, {"spec": {"template": {"metadata": metadata}}})
    return f"{deployment}: restarting as of {at}"
