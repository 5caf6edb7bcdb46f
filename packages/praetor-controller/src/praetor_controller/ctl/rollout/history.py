"""`praetorctl rollout history`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from praetor_api.kube.resource import CONTROLLER_REVISIONS
from praetor_controller.ctl.cluster import Cluster, Opener, Where, ask, cluster_options, list_all
from praetor_controller.ctl.completion import deployment_names
from praetor_controller.ctl.output import OutputFormat, output_option, show, structured
from praetor_controller.ctl.revisions import chosen, owned, template_to_restore
from praetor_controller.ctl.revisions import history as printed
from praetor_controller.ctl.rollout.spec import read
from praetor_controller.markers import DEPLOYMENT_LABEL, deployment_label


@click.command("history")
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Show the template of this one.")
@cluster_options
@output_option
def history(where: Where, opener: Opener, deployment: str, revision: int | None, output: str) -> None:
    """Show the revisions of a deployment's template, oldest first."""

    async def question(cluster: Cluster) -> str:
        found = await read(cluster, deployment)
        revisions = await revisions_of(cluster, found)
        if revision is not None:
            template = template_to_restore(chosen(revisions, revision, deployment), deployment)
            return structured(template, OutputFormat.YAML if output == OutputFormat.TABLE else output)
        current = (found.get("status") or {}).get("currentRevision")
        return printed(revisions, current, output, cluster.clock.now())

    show(ask(opener, where, question))


async def revisions_of(cluster: Cluster, deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the raw ControllerRevisions of *deployment*, oldest first."""
    metadata = deployment["metadata"]
    selector = f"{DEPLOYMENT_LABEL}={deployment_label(metadata['name'])}"
    return owned(await list_all(cluster, CONTROLLER_REVISIONS, selector), metadata["uid"])
