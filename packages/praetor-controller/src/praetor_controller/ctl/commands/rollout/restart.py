"""`praetorctl rollout restart`."""

from __future__ import annotations

import click

from praetor_api.annotations import RESTARTED_AT_ANNOTATION
from praetor_api.kube.codec import format_time
from praetor_controller.ctl.cluster import Cluster, Opener, Target, cluster_options, run_on_cluster
from praetor_controller.ctl.commands.completion import deployment_names
from praetor_controller.ctl.output import show
from praetor_controller.ctl.rollout_patch import merge


@click.command("restart")
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@cluster_options
def restart(target: Target, opener: Opener, deployment: str) -> None:
    """Restart every process of a deployment, as a rollout. It keeps to the deployment's budget and waves."""

    async def work(cluster: Cluster) -> str:
        at = format_time(cluster.clock.now())
        metadata = {"annotations": {RESTARTED_AT_ANNOTATION: at}}
        await merge(cluster, deployment, {"spec": {"template": {"metadata": metadata}}})
        return f"{deployment}: restarting as of {at}"

    show(run_on_cluster(opener, target, work))
