# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout approve`."""

from __future__ import annotations

from typing import Any

import click

from praetor_api.annotations import APPROVED_WAVES_ANNOTATION
from praetor_api.kube.client.errors import Forbidden, NotFound
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_names
from praetor_controller.ctl.inventory import Inventory, read_inventory
from praetor_controller.ctl.rollout_patch import approved, merge, rewrite
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import find_revision
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Plan

_HELD = (ReasonCode.WAVE_LOST_ITS_DEVICES, ReasonCode.WAVE_FAILED)


@click.command("approve")
@click.argument("deployment", metavar="DPD", shell_complete=deployment_names)
@click.option("--wave", metavar="NAME", help="Wave to approve; the next one that waits when unset.")
@on_cluster
async def approve(cluster: Cluster, deployment: str, wave: str | None) -> str:
    """Let a wave with approval: Manual begin.

    A rollout that a wave holds goes on, too. A wave holds it when it lost its devices before it was passed, or when
    devices failed in it and left. An approval is for the present template, not for later ones. What is still waited
    for is printed.
    """

    async def write(found: dict[str, Any]) -> str:
        inventory = await _inventory(cluster)
        name, annotation = approved(found, wave, _held(cluster, inventory, found))
        metadata = {
            "resourceVersion": found["metadata"]["resourceVersion"],
            "annotations": {APPROVED_WAVES_ANNOTATION: annotation},
        }
        stored = await merge(cluster, deployment, {"metadata": metadata})
        words = f"{deployment}: wave {name} is approved"
        return words + _still(_plan(cluster, inventory, stored), name)

    return await rewrite(cluster, deployment, write)


async def _inventory(cluster: Cluster) -> Inventory | None:
    """Read the namespace; None where listing is not allowed."""
    try:
        return await read_inventory(cluster)
    except (Forbidden, NotFound):
        return None


def _plan(cluster: Cluster, inventory: Inventory | None, deployment: dict[str, Any]) -> Plan:
    row = project_deployment(deployment)
    return inventory.plan(row, cluster.clock.now()) if inventory is not None else Plan()


def _held(cluster: Cluster, inventory: Inventory | None, deployment: dict[str, Any]) -> tuple[str, int] | None:
    """Return the wave that holds the rollout until it is approved, and the number of the revision."""
    planned, row = _plan(cluster, inventory, deployment), project_deployment(deployment)
    if inventory is None or planned.waits_for is None or planned.waits_for.code not in _HELD:
        return None
    mine = [each for each in inventory.revisions if each.owner == row.uid]
    revision = find_revision(mine, row.template.revision)
    name = next((each.name for each in planned.waves if not each.passed), None)
    return (name, revision.number) if name is not None and revision is not None else None


def _still(planned: Plan, wave: str) -> str:
    """Return what the *wave* still waits for, as a line of its own."""
    waits = any(each.name == wave and not (each.open or each.passed) for each in planned.waves)
    return f"\nit waits: {planned.waits_for}" if waits and planned.waits_for is not None else ""
