# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices`: a table with one line for each device, tolerant of whatever a status lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

import click
from attrs import asdict, evolve, frozen
from click.core import ParameterSource

from praetor_api.conditions import STORM_EVENT, STORM_OVER_EVENT, ConditionType
from praetor_api.constraints import camel
from praetor_api.kube.client.errors import Forbidden, NotFound, Unauthorized
from praetor_api.kube.client.resource import CORE_EVENTS, DEVICE_PROCESS_DEPLOYMENTS, DEVICES, Key
from praetor_api.kube.objects import GROUP
from praetor_api.kube.runtime.clock import first
from praetor_api.kube.runtime.informer import Informer
from praetor_api.names import device_reference
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.cluster import Cluster, list_all, on_cluster
from praetor_controller.ctl.commands.devices.import_devices import import_devices
from praetor_controller.ctl.commands.devices.token import token
from praetor_controller.ctl.commands.devices.transfer import transfer
from praetor_controller.ctl.forwarding import ForwardingGroup
from praetor_controller.ctl.inventory import gateway_warning, refusal
from praetor_controller.ctl.kinds import kind_of, list_devices
from praetor_controller.ctl.output import (
    Cell,
    Column,
    OutputFormat,
    Table,
    for_people,
    object_names,
    objects_option,
    screen_width,
    show,
    structured,
    warn,
)
from praetor_controller.ctl.times import age
from praetor_controller.model.projection import project_deployment, project_device

NOTHING = "-"
_COLUMNS = (
    Column("DEVICE"),
    Column("CONNECTED"),
    Column("SINCE", leaves=1),
    Column("AGENT", leaves=2),
    Column("RUNNING"),
    Column("MAINTENANCE", cut=True),
    Column("MODEL", leaves=3),
)
_WIDE = (Column("ADDRESS"), Column("SERIAL"))
_WORDS = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}
_CHECK_S = 1.0


@click.command()
@click.option("-l", "--selector", metavar="SELECTOR", help="Labels, such as rack=r12,role!=spine.")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="The devices of every namespace.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and print a device again when it changes; until Ctrl-C.")
@on_cluster
@objects_option
async def _show(cluster: Cluster, selector: str | None, everywhere: bool, watch: bool, output: str) -> str:
    """Show the devices: connection, agent, running processes."""
    switches = (await list_devices(cluster, selector, everywhere=everywhere)).objects
    for warning in (await _gateway_warning(cluster, everywhere), await _storm_warning(cluster, everywhere, switches)):
        if warning:
            warn(warning)
    lines = sorted((device_line(each, cluster.clock.now()) for each in switches), key=lambda line: line.key)
    page = DevicePage(lines, output, everywhere=everywhere, now=cluster.clock.now())
    if not lines and for_people(output):
        where = "" if everywhere else f" in namespace {cluster.namespace}"
        warn(f"no devices{where}" + (f" match {selector}" if selector else ""))
    elif text := page.text(streams=watch):
        show(text)
    if watch:
        async with aclosing(changes(cluster, lines, selector, everywhere=everywhere)) as changed:
            async for line in changed:
                show(page.again(line, cluster.clock.now()))
    return ""


async def changes(
    cluster: Cluster, known: Iterable[DeviceLine], selector: str | None, *, everywhere: bool
) -> AsyncGenerator[DeviceLine]:
    """Yield the line of each device that is not as in *known* any more, for good; KubeError when that is refused."""
    lines = {line.key: line for line in known}
    queue: asyncio.Queue[DeviceLine | None] = asyncio.Queue()

    def line_of(kind: DeviceKind, device: Mapping[str, Any]) -> DeviceLine:
        return device_line({**device, "kind": kind.value}, cluster.clock.now())

    informers = {
        kind: Informer(
            cluster.api,
            resource,
            project=partial(line_of, kind),
            clock=cluster.clock,
            namespace=None if everywhere else cluster.namespace,
            label_selector=selector,
            optional=kind is not DeviceKind.NETWORK_SWITCH,
        )
        for kind, resource in DEVICES.items()
    }
    for informer in informers.values():
        informer.add_handler(lambda _, old, new: queue.put_nowait(new or (old and evolve(old, deleted=True))))
    switches = informers[DeviceKind.NETWORK_SWITCH]

    async def wait() -> DeviceLine | None:
        await cluster.clock.sleep(_CHECK_S)
        return None

    tasks = [asyncio.create_task(informer.run(), name="follow the devices") for informer in informers.values()]
    try:
        while True:
            line = await first(queue.get(), wait())
            if line is not None and lines.get(line.key) != line:
                lines[line.key] = line
                yield line
            if isinstance(switches.last_error, (Forbidden, NotFound, Unauthorized)):
                raise switches.last_error
            for each in lines.values():  # what went before the watch began
                informer = informers[each.kind]
                if not each.deleted and informer.synced.is_set() and informer.get(each.object) is None:
                    queue.put_nowait(evolve(each, deleted=True))
    finally:
        for task in tasks:
            task.cancel()


async def _gateway_warning(cluster: Cluster, everywhere: bool) -> str:
    try:
        deployments = await list_all(cluster, DEVICE_PROCESS_DEPLOYMENTS, everywhere=everywhere)
    except Forbidden:
        return ""  # who may read the devices alone sees them alone
    return gateway_warning(map(project_deployment, deployments), cluster.clock.now())


async def _storm_warning(cluster: Cluster, everywhere: bool, switches: Iterable[Mapping[str, Any]]) -> str:
    """Return what the gateway says of many devices that fell silent at once; empty when that is over."""
    said: list[dict[str, Any]] = []
    for kind in sorted({DeviceKind.NETWORK_SWITCH, *map(kind_of, switches)}):
        try:
            page = await cluster.api.list_page(
                CORE_EVENTS,
                None if everywhere else cluster.namespace,
                field_selector=f"involvedObject.kind={kind}",
            )
        except Forbidden:
            return ""
        said += [each for each in page["items"] if each.get("reason") in (STORM_EVENT, STORM_OVER_EVENT)]
    latest = max(said, key=lambda each: (_last_seen(each), each["reason"]), default=None)
    return str(latest.get("message", "")) if latest is not None and latest["reason"] == STORM_EVENT else ""


def _last_seen(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def _unless_a_command_follows(**options: Any) -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is None and _show.callback is not None:
        _show.callback(**options)
    elif any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in options):
        context.fail(f"write options after {context.invoked_subcommand}, which takes others than devices")


devices = ForwardingGroup(
    "devices",
    commands={"import": import_devices, "token": token, "transfer": transfer},
    params=_show.params,
    callback=_unless_a_command_follows,
    invoke_without_command=True,
    help=_show.help,
)


@frozen(kw_only=True)
class DeviceLine:
    """A line of the table. *connected* is None when the gateway has not set the condition."""

    namespace: str
    device: str
    connected: bool | None
    since: str | None
    agent_version: str | None
    running: int | None
    desired: int | None
    maintenance: str | None  # why or until when; empty text when neither is said, None outside of maintenance
    model: str | None
    refused: str | None  # why the gateway ignores it
    address: str | None
    serial: str | None
    deleted: bool = False  # as --watch may say

    kind: DeviceKind = DeviceKind.NETWORK_SWITCH

    @property
    def reference(self) -> str:
        return device_reference(self.kind, self.device)

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.reference)

    @property
    def object(self) -> Key:
        return Key(self.namespace, self.device)


def device_line(switch: Mapping[str, Any], now: datetime) -> DeviceLine:
    """Return the line of a device. Maintenance is over at *now* when it is for the planner."""
    spec, status = switch.get("spec") or {}, switch.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    connected = conditions.get(ConditionType.AGENT_CONNECTED) or {}
    processes, maintained = (
        status.get("processes") or {},
        project_device(switch, kind_of(switch)).maintained(now.timestamp()),
    )
    return DeviceLine(
        namespace=switch["metadata"].get("namespace") or "",
        device=switch["metadata"]["name"],
        kind=kind_of(switch),
        connected={"True": True, "False": False}.get(connected.get("status", "")),
        since=connected.get("lastTransitionTime"),
        agent_version=status.get("agentVersion"),
        running=processes.get("running", 0 if processes else None),
        desired=processes.get("desired", 0 if processes else None),
        maintenance=_maintenance(spec.get("maintenance") or {}) if maintained else None,
        model=spec.get("model"),
        refused=refusal(switch) or None,
        address=spec.get("managementAddress"),
        serial=spec.get("serialNumber"),
    )


def _maintenance(maintenance: Mapping[str, Any]) -> str:
    until = maintenance.get("until")
    return ", ".join(part for part in (maintenance.get("reason"), until and f"until {until}") if part)


class DevicePage:
    """What is printed about devices: the *lines* that are known, and those that change later, in the same columns."""

    def __init__(self, lines: Sequence[DeviceLine], output: str, *, everywhere: bool, now: datetime) -> None:
        self._lines, self._output, self._everywhere, self._now = lines, output, everywhere, now
        self._wide = output == OutputFormat.WIDE
        columns = [*([Column("NAMESPACE")] if everywhere else []), *_COLUMNS, *(_WIDE if self._wide else ())]
        self._table = Table(columns, [self._row(line, now) for line in lines], width=screen_width(output))

    def text(self, *, streams: bool) -> str:
        """Return the known lines; where more of them follow, each is a document of its own for programs."""
        if for_people(self._output):
            return str(self._table)
        if streams or self._output == OutputFormat.NAME:
            return "\n".join(self.again(line) for line in self._lines)
        return structured([_data(line) for line in self._lines], self._output)

    def again(self, line: DeviceLine, now: datetime | None = None) -> str:
        """Return a line that changed."""
        if self._output == OutputFormat.NAME:
            return object_names(f"{line.kind.lower()}.{GROUP}", [line.device])
        if not for_people(self._output):
            start = "---\n" if self._output == OutputFormat.YAML else ""
            return start + structured(_data(line), self._output)
        return "\n".join(self._table.lines([self._row(line, now or self._now)]))

    def _row(self, line: DeviceLine, now: datetime) -> list[str | Cell]:
        idle = line.running is None or line.desired is None
        running = NOTHING if idle else f"{line.running}/{line.desired}"
        connected = ("conflict", "red") if line.refused else _WORDS[line.connected]
        return [
            *([line.namespace] if self._everywhere else []),
            line.reference,
            ("deleted", "red") if line.deleted else connected,
            age(line.since, now) or NOTHING,
            line.agent_version or NOTHING,
            (running, "" if line.running == line.desired else "yellow"),
            (line.maintenance or "yes", "yellow") if line.maintenance is not None else NOTHING,
            line.model or NOTHING,
            *([line.address or NOTHING, line.serial or NOTHING] if self._wide else []),
        ]


def _data(line: DeviceLine) -> dict[str, Any]:
    data = {camel(name): value for name, value in asdict(line).items()}
    return data if line.deleted else {name: value for name, value in data.items() if name != "deleted"}
