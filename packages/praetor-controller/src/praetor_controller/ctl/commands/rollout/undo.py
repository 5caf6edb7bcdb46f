# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout undo`."""

from __future__ import annotations

from typing import Any

import click

from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.commands.rollout.history import revisions_of
from praetor_controller.ctl.revisions import before, chosen, template_to_restore
from praetor_controller.ctl.rollout_patch import replace_template, rewrite
from praetor_controller.model.approvals import unapproved
from praetor_controller.model.revisions import overrides_of, project_revision


@click.command("undo")
@deployment_argument
@click.option(
    "--to-revision",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="0 is the newest that was rolled out before.",
)
@on_cluster
async def undo(cluster: Cluster, deployment: str, to_revision: int) -> str:
    """Bring an earlier template back, as a rollout. It keeps to the deployment's budget and waves.

    The overrides that the template had come back with it.

    Without --to-revision that is the newest one that was rolled out: a revision that failed is never chosen.
    """

    async def write(found: dict[str, Any]) -> str:
        revisions = await revisions_of(cluster, found)
        revision = chosen(revisions, to_revision, deployment) if to_revision else before(revisions, found)
        template = template_to_restore(revision, deployment)
        _, overrides = unapproved({}, overrides_of(revision))
        number = revision.get("revision")
        if template == found["spec"].get("template") and overrides == (found["spec"].get("overrides") or []):
            return f"{deployment}: has the template of revision {number} already"
        await replace_template(cluster, found, template, overrides, project_revision(revision).change_cause)
        paused = "; it is paused, resume it to roll it out" if found["spec"].get("paused") else ""
        return f"{deployment}: back to the template of revision {number}{paused}"

    return await rewrite(cluster, deployment, write)
