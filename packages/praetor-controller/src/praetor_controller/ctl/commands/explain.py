# SPDX-License-Identifier: Apache-2.0
"""`praetorctl explain`."""

from __future__ import annotations

import click

from praetor_api.kube.client.resource import Key
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import subject_argument
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.ctl.explain import (
    deployment_text,
    device_text,
    explain_deployment,
    explain_device,
    process_text,
    refusal_text,
    undeclared_text,
)
from praetor_controller.ctl.inventory import read_inventory
from praetor_controller.ctl.kinds import found_reference, split_name
from praetor_controller.ctl.output import output_option, warn


@click.command("explain")
@subject_argument
@click.option("--max-devices", type=click.IntRange(min=1), default=10, show_default=True, help="Shown for each reason.")
@on_cluster
@output_option
async def explain(cluster: Cluster, subject: str, max_devices: int, output: str) -> str:
    """Explain the state of a device, or of each device of a deployment.

    The name of a process, as kubectl get dp prints it, explains its device with the deployment that it belongs to.
    RUNS is the revision that the device runs, OFFERED the one that it was given last: they differ before an update
    is done, and after the device went back to an older version.

    The controller's own planner runs over what the cluster stores now; nothing is written. What only the running
    controller remembers, a write that the API refused, shows in the deployment's status.reasons alone.

    docs/reasons.md lists every reason, with what to do about it.
    """
    inventory, now = await read_inventory(cluster), cluster.clock.now()
    if warning := inventory.gateway_warning(now):
        warn(warning)
    deployment, slash, device = subject.partition("/")
    if slash and deployment not in inventory.deployments and split_name(subject)[0] is not None:
        slash = ""  # dpu/leaf-1 is a device
    if slash:
        device = found_reference(device, inventory.devices)
        why = inventory.refused_devices.get(device, "")
        return device_text(device, explain_device(inventory, device, now, deployment), output, why)
    if subject in inventory.deployments:  # a device of the same name is asked for as DPD/DEVICE
        return deployment_text(explain_deployment(inventory, subject, now), output, max_devices)
    subject = found_reference(subject, inventory.devices)
    if subject in inventory.devices:
        why, absent = inventory.refused_devices.get(subject, ""), inventory.absent.get(subject, "")
        return device_text(subject, explain_device(inventory, subject, now), output, why, absent)
    if subject in inventory.refused_processes:
        return refusal_text(subject, inventory.refused_processes[subject], output)
    if undeclared := inventory.undeclared(subject):
        return undeclared_text(undeclared, inventory.absent, output)
    process = inventory.processes.get(Key(cluster.namespace, subject))
    if process is None:
        raise CommandFailed(
            f"not found: {subject} is neither a device, nor a deployment, nor a process; check the name and --namespace"
        )
    owner = next((each.name for each in inventory.deployments.values() if each.uid == process.owner), None)
    found = explain_device(inventory, process.device, now, owner) if owner is not None else []
    return (
        device_text(process.device, found, output)
        if found
        else process_text(inventory, process, output, owner or "no deployment")
    )
