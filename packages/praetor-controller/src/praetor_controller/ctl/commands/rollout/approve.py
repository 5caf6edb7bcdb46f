# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout approve`."""

from __future__ import annotations

from typing import Any

import click

from praetor_api.annotations import APPROVED_WAVES_ANNOTATION
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_names
from praetor_controller.ctl.rollout_patch import approved, merge, rewrite


@click.command("approve")
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@click.option("--wave", metavar="NAME", help="Wave to approve; the next one that waits when unset.")
@on_cluster
async def approve(cluster: Cluster, deployment: str, wave: str | None) -> str:
    """Let a wave with approval: Manual begin. It is approved for the present template, not for later ones."""

    async def write(found: dict[str, Any]) -> str:
        name, annotation = approved(found, wave)
        metadata = {
            "resourceVersion": found["metadata"]["resourceVersion"],
            "annotations": {APPROVED_WAVES_ANNOTATION: annotation},
        }
        await merge(cluster, deployment, {"metadata": metadata})
        return f"{deployment}: wave {name} is approved"

    return await rewrite(cluster, deployment, write)
