# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices`: a table with one line for each device, tolerant of whatever a status lacks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
from attrs import asdict, frozen

from praetor_api.conditions import STORM_EVENT, STORM_OVER_EVENT, ConditionType
from praetor_api.constraints import camel
from praetor_api.kube.client.errors import Forbidden
from praetor_api.kube.client.resource import CORE_EVENTS, DEVICE_PROCESS_DEPLOYMENTS, NETWORK_SWITCHES
from praetor_controller.ctl.cluster import Cluster, list_all, on_cluster
from praetor_controller.ctl.commands.devices.transfer import transfer
from praetor_controller.ctl.inventory import gateway_warning, refusal
from praetor_controller.ctl.output import Cell, OutputFormat, output_option, structured, table, warn
from praetor_controller.ctl.times import age
from praetor_controller.model.projection import project_deployment, project_device

NOTHING = "-"
_HEADERS = ("DEVICE", "CONNECTED", "SINCE", "AGENT", "RUNNING", "MAINTENANCE", "MODEL")
_WORDS = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}


@click.command()
@click.option("-l", "--selector", metavar="SELECTOR", help="Labels, such as rack=r12,role!=spine.")
@on_cluster
@output_option
async def _show(cluster: Cluster, selector: str | None, output: str) -> str:
    """Show the devices: connection, agent, running processes."""
    switches, now = await list_all(cluster, NETWORK_SWITCHES, selector), cluster.clock.now()
    lines = sorted((device_line(switch, now) for switch in switches), key=lambda line: line.device)
    if not lines and output == OutputFormat.TABLE:
        warn(f"no devices in namespace {cluster.namespace}" + (f" match {selector}" if selector else ""))
        return ""
    for warning in (await _gateway_warning(cluster, now), await _storm_warning(cluster)):
        if warning:
            warn(warning)
    return devices_text(lines, output, now)


async def _gateway_warning(cluster: Cluster, now: datetime) -> str:
    try:
        deployments = await list_all(cluster, DEVICE_PROCESS_DEPLOYMENTS)
    except Forbidden:
        return ""  # who may read the devices alone sees them alone
    return gateway_warning(map(project_deployment, deployments), now)


async def _storm_warning(cluster: Cluster) -> str:
    """Return what the gateway says of many devices that fell silent at once; empty when that is over."""
    try:
        page = await cluster.api.list_page(
            CORE_EVENTS, cluster.namespace, field_selector=f"involvedObject.kind={NETWORK_SWITCHES.kind}"
        )
    except Forbidden:
        return ""
    said = [each for each in page["items"] if each.get("reason") in (STORM_EVENT, STORM_OVER_EVENT)]
    latest = max(said, key=lambda each: (_last_seen(each), each["reason"]), default=None)
    return str(latest.get("message", "")) if latest is not None and latest["reason"] == STORM_EVENT else ""


def _last_seen(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def _unless_a_command_follows(**options: Any) -> None:
    if click.get_current_context().invoked_subcommand is None and _show.callback is not None:
        _show.callback(**options)


devices = click.Group(
    "devices",
    commands={"transfer": transfer},
    params=_show.params,
    callback=_unless_a_command_follows,
    invoke_without_command=True,
    help=_show.help,
)


@frozen(kw_only=True)
class DeviceLine:
    """A line of the table. *connected* is None when the gateway has not set the condition."""

    device: str
    connected: bool | None
    since: str | None
    agent_version: str | None
    running: int | None
    desired: int | None
    maintenance: str | None  # why or until when; empty text when neither is said, None outside of maintenance
    model: str | None
    refused: str | None  # why the gateway ignores it


def device_line(switch: Mapping[str, Any], now: datetime) -> DeviceLine:
    """Return the line of a NetworkSwitch. Maintenance is over at *now* when it is for the planner."""
    spec, status = switch.get("spec") or {}, switch.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    connected = conditions.get(ConditionType.AGENT_CONNECTED) or {}
    processes, maintained = status.get("processes") or {}, project_device(switch).maintained(now.timestamp())
    return DeviceLine(
        device=switch["metadata"]["name"],
        connected={"True": True, "False": False}.get(connected.get("status", "")),
        since=connected.get("lastTransitionTime"),
        agent_version=status.get("agentVersion"),
        running=processes.get("running", 0 if processes else None),
        desired=processes.get("desired", 0 if processes else None),
        maintenance=_maintenance(spec.get("maintenance") or {}) if maintained else None,
        model=spec.get("model"),
        refused=refusal(switch) or None,
    )


def _maintenance(maintenance: Mapping[str, Any]) -> str:
    until = maintenance.get("until")
    return ", ".join(part for part in (maintenance.get("reason"), until and f"until {until}") if part)


def devices_text(lines: list[DeviceLine], output: str, now: datetime) -> str:
    """Return what is printed about the devices."""
    if output != OutputFormat.TABLE:
        return structured([{camel(name): value for name, value in asdict(line).items()} for line in lines], output)
    return table(_HEADERS, [_row(line, now) for line in lines])


def _row(line: DeviceLine, now: datetime) -> list[str | Cell]:
    idle = line.running is None or line.desired is None
    running = NOTHING if idle else f"{line.running}/{line.desired}"
    return [
        line.device,
        ("conflict", "red") if line.refused else _WORDS[line.connected],
        age(line.since, now) or NOTHING,
        line.agent_version or NOTHING,
        (running, "" if line.running == line.desired else "yellow"),
        (line.maintenance or "yes", "yellow") if line.maintenance is not None else NOTHING,
        line.model or NOTHING,
    ]
