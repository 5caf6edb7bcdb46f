"""`praetorctl explain`."""

from __future__ import annotations

from datetime import datetime

import click

from praetor_controller.ctl.cluster import Cluster, Opener, Where, ask, cluster_options
from praetor_controller.ctl.commands.completion import subject_names
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.ctl.explain import deployment_text, device_text, explain_deployment, explain_device
from praetor_controller.ctl.inventory import Census, take_census
from praetor_controller.ctl.output import output_option, show


@click.command("explain")
@click.argument("subject", metavar="DEVICE|DPD[/DEVICE]", shell_complete=subject_names)
@click.option("--max-devices", type=click.IntRange(min=1), default=10, show_default=True, help="Shown for each reason.")
@cluster_options
@output_option
def explain(where: Where, opener: Opener, subject: str, max_devices: int, output: str) -> None:
    """Tell why a device is where it is, or why each device of a deployment is.

    The controller's own planner is run over what the cluster says now; nothing is written. What only the running
    controller remembers, a write that the API refused, shows in the deployment's status.reasons alone.
    """

    async def question(cluster: Cluster) -> str:
        return explained(await take_census(cluster), subject, output, max_devices, cluster.clock.now())

    show(ask(opener, where, question))


def explained(seen: Census, subject: str, output: str, most: int, now: datetime) -> str:
    """Return what is printed about *subject*: a deployment, a device, or a deployment's device."""
    deployment, slash, device = subject.partition("/")
    if slash:
        return device_text(device, explain_device(seen, device, now, deployment), output)
    if subject in seen.deployments:  # a device of the same name is asked for as DPD/DEVICE
        return deployment_text(explain_deployment(seen, subject, now), output, most)
    if subject in seen.devices:
        return device_text(subject, explain_device(seen, subject, now), output)
    raise CommandFailed(f"not found: {subject} is neither a device nor a deployment; check the name and --namespace")
