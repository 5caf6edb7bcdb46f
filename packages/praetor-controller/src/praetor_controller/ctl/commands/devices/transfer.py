# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices transfer`."""

from __future__ import annotations

import click

from praetor_api.kube.client.errors import NotFound
from praetor_api.kube.client.resource import CONFIG_MAPS, LEASES, NETWORK_SWITCHES, Key
from praetor_api.names import DEVICE_BINDINGS, GATEWAY_LEASE
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster, on_cluster
from praetor_controller.ctl.commands.completion import device_names
from praetor_controller.ctl.errors import CommandFailed


@click.command("transfer")
@click.argument("device", shell_complete=device_names)
@click.option("--to", required=True, metavar="NAMESPACE", help="Namespace that gets the device.")
@click.option(
    "--gateway-namespace",
    default="praetor-system",
    show_default=True,
    metavar="NAMESPACE",
    help="Where the gateway has its Lease.",
)
@on_cluster
async def transfer(cluster: Cluster, device: str, to: str, gateway_namespace: str) -> str:
    """Give the name of a device to another namespace that declares it, for administrators.

    The device stops what it runs from other namespaces, and gets the processes of that one.
    """
    try:
        await cluster.api.get(NETWORK_SWITCHES, Key(to, device))
    except NotFound as e:
        raise CommandFailed(f"not found: {to} has no NetworkSwitch {device}; declare the device there first") from e
    try:
        await cluster.api.get(LEASES, Key(gateway_namespace, GATEWAY_LEASE))
    except NotFound as e:
        raise CommandFailed(
            f"not found: no gateway has its Lease in {gateway_namespace}; give its namespace as --gateway-namespace"
        ) from e
    key, data = Key(gateway_namespace, DEVICE_BINDINGS), {"data": {device: to}}
    try:
        await cluster.api.patch(CONFIG_MAPS, key, data, field_manager=FIELD_MANAGER)
    except NotFound:
        metadata = {"name": key.name, "namespace": key.namespace}
        body = {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, "metadata": metadata, **data}
        await cluster.api.create(CONFIG_MAPS, key.namespace, body, field_manager=FIELD_MANAGER)
    return f"{device}: belongs to {to}"
