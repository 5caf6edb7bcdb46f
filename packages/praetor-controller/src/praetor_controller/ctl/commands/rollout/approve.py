# SPDX-License-Identifier: Apache-2.0
"""`praetorctl rollout approve`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from praetor_api.annotations import APPROVED_WAVES_ANNOTATION, REMOVAL_ANNOTATION
from praetor_api.kube.client.errors import Forbidden, NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument
from praetor_controller.ctl.errors import BadInput, CommandFailed
from praetor_controller.ctl.inventory import Inventory, read_inventory
from praetor_controller.ctl.output import counted, names_of
from praetor_controller.ctl.rollout_patch import approved, checked, merge, rewrite
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import find_revision
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Plan, Removal

_CONCURRENCY = 16
_HELD = (ReasonCode.WAVE_UNCHANGED, ReasonCode.WAVE_LOST_ITS_DEVICES, ReasonCode.WAVE_FAILED)


@click.command("approve")
@deployment_argument
@click.option("--wave", metavar="NAME", help="Wave to approve; the next one that waits when unset.")
@click.option("--removal", is_flag=True, help="Approve the removal of processes whose devices no longer match.")
@on_cluster
async def approve(cluster: Cluster, deployment: str, wave: str | None, removal: bool) -> str:
    """Let a wave with approval: Manual begin.

    A rollout that a wave holds goes on, too. A wave holds it when it lost its devices before it was passed, or when
    devices failed in it and left. An approval is for the present template, not for later ones. What is still waited
    for is printed.

    With --removal the processes may go that are held because a change unmatched many devices at once (RemovalHeld).
    It is for the devices that no longer match now.
    """
    if removal and wave:
        raise BadInput("--removal: cannot be given with --wave; give one of them")
    if removal:
        return await _approve_removal(cluster, checked(deployment))

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
    planned = _plan(cluster, inventory, deployment)
    if inventory is None or planned.waits_for is None or planned.waits_for.code not in _HELD:
        return None
    row = inventory.with_stored_template(project_deployment(deployment))
    mine = [each for each in inventory.revisions if each.owner == row.uid]
    revision = find_revision(mine, row.template.revision)
    name = next((each.name for each in planned.waves if not each.passed), None)
    return (name, revision.number) if name is not None and revision is not None else None


def _still(planned: Plan, wave: str) -> str:
    """Return what the *wave* still waits for, as a line of its own."""
    waits = any(each.name == wave and not (each.open or each.passed) for each in planned.waves)
    return f"\nit waits: {planned.waits_for}" if waits and planned.waits_for is not None else ""


async def _approve_removal(cluster: Cluster, name: str) -> str:
    """Approve the removal of the processes that the deployment *name* holds, and say which; CommandFailed if none."""
    inventory = await read_inventory(cluster)
    deployment = inventory.deployments.get(name)
    if deployment is None:
        raise CommandFailed(f"not found: there is no deployment {name}; check the name and --namespace")
    held = inventory.plan(deployment, cluster.clock.now()).held_removals
    if not held:
        raise CommandFailed(f"{name} holds no removal; praetorctl explain {name} says what it waits for")
    slots = asyncio.Semaphore(_CONCURRENCY)
    await asyncio.gather(*(_approve(cluster, each, slots) for each in held))
    devices = names_of([each.process.device or each.process.name for each in held])
    return f"{name}: the removal of {counted(len(held), 'process', 'processes')} is approved: {devices}"


async def _approve(cluster: Cluster, removal: Removal, slots: asyncio.Semaphore) -> None:
    key = Key(removal.process.namespace, removal.process.name)
    patch = {"metadata": {"uid": removal.process.uid, "annotations": {REMOVAL_ANNOTATION: removal.token}}}
    async with slots:
        try:
            await cluster.api.patch(DEVICE_PROCESSES, key, patch, field_manager=FIELD_MANAGER)
        except NotFound:  # it is gone already
            return
