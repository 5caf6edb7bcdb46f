"""`praetorctl rollout resume`."""

from __future__ import annotations

import click

from praetor_controller.ctl.cluster import Opener, Target, cluster_options, run_on_cluster
from praetor_controller.ctl.commands.completion import deployment_names
from praetor_controller.ctl.commands.rollout.pause import set_paused
from praetor_controller.ctl.output import show


@click.command("resume")
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@cluster_options
def resume(target: Target, opener: Opener, deployment: str) -> None:
    """Let a paused rollout go on."""
    show(run_on_cluster(opener, target, lambda cluster: set_paused(cluster, deployment, paused=False)))
