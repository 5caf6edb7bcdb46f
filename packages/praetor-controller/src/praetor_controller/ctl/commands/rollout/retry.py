# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout retry`."""

from __future__ import annotations

import click

from praetor_api.annotations import RETRY_ANNOTATION
from praetor_api.kube.codec import format_time
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.rollout_patch import merge


@click.command("retry")
@deployment_argument
@on_cluster
async def retry(cluster: Cluster, deployment: str) -> str:
    """Try writes that the API refused again at once, after their cause was removed."""
    at = format_time(cluster.clock.now())
    await merge(cluster, deployment, {"metadata": {"annotations": {RETRY_ANNOTATION: at}}})
    return f"{deployment}: refused writes are tried again"
