"""`praetorctl devices`."""

from __future__ import annotations

import click

from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_controller.ctl.cluster import Cluster, Opener, Where, ask, cluster_options, list_all
from praetor_controller.ctl.fleet_table import device_line, fleet
from praetor_controller.ctl.output import OutputFormat, output_option, show, warn


@click.command("devices")
@click.option("-l", "--selector", metavar="SELECTOR", help="Labels, such as rack=r12,role!=spine.")
@cluster_options
@output_option
def devices(where: Where, opener: Opener, selector: str | None, output: str) -> None:
    """Show the fleet: who is connected, since when, with which agent and how many running processes."""

    async def question(cluster: Cluster) -> tuple[str, int]:
        switches = await list_all(cluster, NETWORK_SWITCHES, selector)
        now = cluster.clock.now()
        lines = sorted((device_line(switch, now) for switch in switches), key=lambda line: line.device)
        if not lines and output == OutputFormat.TABLE:
            warn(f"no devices in namespace {cluster.namespace}" + (f" match {selector}" if selector else ""))
        return fleet(lines, output, now), len(lines)

    printed, count = ask(opener, where, question)
    if count or output != OutputFormat.TABLE:
        show(printed)
