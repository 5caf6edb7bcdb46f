# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices transfer`."""

from __future__ import annotations

import click

from praetor_api.kube.client.errors import Forbidden, NotFound
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICES, LEASES, Key
from praetor_api.names import DEVICE_BINDINGS, GATEWAY_LEASE
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster, on_cluster
from praetor_controller.ctl.commands.completion import device_names
from praetor_controller.ctl.errors import CommandFailed


@click.command("transfer")
@click.argument("device", shell_complete=device_names)
@click.option("--to", required=True, metavar="NAMESPACE", help="Namespace that gets the device.")
@click.option(
    "--kind",
    type=click.Choice([each.value for each in DeviceKind], case_sensitive=False),
    help="Kind of the device there; needed if the namespace declares the name as several.",
)
@click.option(
    "--gateway-namespace",
    default="praetor-system",
    show_default=True,
    metavar="NAMESPACE",
    help="Where the gateway has its Lease.",
)
@on_cluster
async def transfer(cluster: Cluster, device: str, to: str, kind: str | None, gateway_namespace: str) -> str:
    """Give the name of a device to another namespace or kind that declares it, for administrators.

    The device stops what it runs from others, and gets the processes of that one.
    """
    chosen = await _declared(cluster, Key(to, device), kind)
    try:
        await cluster.api.get(LEASES, Key(gateway_namespace, GATEWAY_LEASE))
    except NotFound as e:
        raise CommandFailed(
            f"not found: no gateway has its Lease in {gateway_namespace}; give its namespace as --gateway-namespace"
        ) from e
    binding = to if chosen is DeviceKind.NETWORK_SWITCH else f"{to}/{chosen}"
    key, data = Key(gateway_namespace, DEVICE_BINDINGS), {"data": {device: binding}}
    try:
        await cluster.api.patch(CONFIG_MAPS, key, data, field_manager=FIELD_MANAGER)
    except NotFound:
        metadata = {"name": key.name, "namespace": key.namespace}
        body = {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, "metadata": metadata, **data}
        await cluster.api.create(CONFIG_MAPS, key.namespace, body, field_manager=FIELD_MANAGER)
    return f"{device}: belongs to {to}" + ("" if chosen is DeviceKind.NETWORK_SWITCH else f", as {chosen}")


async def _declared(cluster: Cluster, key: Key, kind: str | None) -> DeviceKind:
    """Return the kind of the device *key*: *kind* if it is given, else the only one; CommandFailed without one."""
    found = []
    for each, resource in DEVICES.items():
        if kind in (None, each):
            try:
                await cluster.api.get(resource, key)
            except NotFound:
                continue
            except Forbidden:
                if each in (kind, DeviceKind.NETWORK_SWITCH):
                    raise
                continue
            found.append(each)
    if not found:
        what = kind or "device"
        raise CommandFailed(f"not found: {key.namespace} has no {what} {key.name}; declare the device there first")
    if len(found) > 1:
        raise CommandFailed(f"{key.namespace} has {key.name} as {' and as '.join(found)}; write --kind {found[-1]}")
    return found[0]
