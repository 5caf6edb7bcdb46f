# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout history`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS
from praetor_controller.ctl.cluster import Cluster, list_all, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.output import OutputFormat, for_people, object_names, objects_option, structured
from praetor_controller.ctl.revisions import chosen, details, history_text, owned, template_to_restore
from praetor_controller.ctl.rollout_patch import read
from praetor_controller.model.annotations import deployment_label

_NAME = f"{CONTROLLER_REVISIONS.kind.lower()}.{CONTROLLER_REVISIONS.group}"


@click.command("history")
@deployment_argument
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Show this one, and what it changed.")
@on_cluster
@objects_option
async def history(cluster: Cluster, deployment: str, revision: int | None, output: str) -> str:
    """Show the revisions of a deployment's template, oldest first.

    With --revision: when and why that one was made, its template, and how it differs from the one before; as json or
    yaml the template alone. The cause is the annotation kubernetes.io/change-cause that the deployment had.
    """
    found = await read(cluster, deployment)
    revisions = await revisions_of(cluster, found)
    if output == OutputFormat.NAME:
        shown = revisions if revision is None else [chosen(revisions, revision, deployment)]
        return object_names(_NAME, [each["metadata"]["name"] for each in shown])
    current, now = (found.get("status") or {}).get("currentRevision"), cluster.clock.now()
    if revision is None:
        return history_text(revisions, current, output, now)
    if for_people(output):
        return details(revisions, revision, current, deployment, now)
    return structured(template_to_restore(chosen(revisions, revision, deployment), deployment), output)


async def revisions_of(cluster: Cluster, deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the raw ControllerRevisions of *deployment*, oldest first."""
    metadata = deployment["metadata"]
    selector = f"{DEPLOYMENT_LABEL}={deployment_label(metadata['name'])}"
    return owned(await list_all(cluster, CONTROLLER_REVISIONS, selector), metadata["uid"])
