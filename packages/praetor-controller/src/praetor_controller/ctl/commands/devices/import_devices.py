# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices import`: a preview, and with --yes the writes. A second run writes nothing."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import click

from praetor_api.kube.client.errors import Conflict, KubeError, NotFound, Unreachable
from praetor_api.kube.client.resource import DEVICES, Key
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.cluster import Cluster, list_all, on_cluster
from praetor_controller.ctl.errors import BadInput, CommandFailed, ExitCode, command_failed, read_input
from praetor_controller.ctl.imports.changes import (
    Action,
    Change,
    Comparison,
    Rules,
    change_of,
    compare,
    removal_of,
)
from praetor_controller.ctl.imports.mapping import FIELDS, LABELS, BadMapping, Mapped, Wanted, map_devices, mapping_of
from praetor_controller.ctl.imports.table import MAX_BYTES, Unreadable, quoted, read_table
from praetor_controller.ctl.output import (
    counted,
    fitted_lines,
    for_people,
    names_of,
    output_option,
    show,
    structured,
    warn,
)

FIELD_MANAGER = "praetorctl-import"
_SOURCE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_AT_ONCE = 16
_ATTEMPTS = 10  # an agent's first reports may cross a write, ten times in a row they do not
_PROGRESS = 1_000
_MAX_FAULTS = 20
_REMEDY = "give CSV or a NetBox export; a large one in parts, each with a --source of its own"
_DONE = {Action.CREATE: "created", Action.UPDATE: "updated", Action.DELETE: "deleted"}


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=COLUMN",
    help="Label KEY from COLUMN, such as rack=rack.name; an empty COLUMN leaves a default out. Repeatable.",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="FIELD=COLUMN",
    help=f"One of {', '.join(FIELDS)} from COLUMN, as --label. Repeatable.",
)
@click.option(
    "--source",
    default="default",
    show_default=True,
    metavar="NAME",
    help="Name of the inventory. Of several in one namespace each has its own devices, and prunes them alone.",
)
@click.option(
    "--kind",
    type=click.Choice([each.value for each in DeviceKind], case_sensitive=False),
    default=DeviceKind.NETWORK_SWITCH.value,
    show_default=True,
    help="Kind of the devices in FILE.",
)
@click.option("--prune", is_flag=True, help="Delete devices that an earlier import created and FILE does not have.")
@click.option(
    "--allow-removals",
    type=click.IntRange(min=1),
    metavar="N",
    help="Delete up to N devices; without it one in ten of those that imports created, at least one.",
)
@click.option("--force-conflicts", is_flag=True, help="Overwrite what others set, and take devices of other sources.")
@click.option("--dry-run", is_flag=True, help="Show the changes and write nothing, as without --yes.")
@click.option("--yes", is_flag=True, help="Write the changes.")
@click.option(
    "--max-devices", type=click.IntRange(min=0), default=10, show_default=True, help="Changes shown in the table."
)
@on_cluster
@output_option
async def import_devices(
    cluster: Cluster,
    file: str,
    labels: tuple[str, ...],
    fields: tuple[str, ...],
    source: str,
    kind: str,
    prune: bool,
    allow_removals: int | None,
    force_conflicts: bool,
    dry_run: bool,
    yes: bool,
    max_devices: int,
    output: str,
) -> str:
    """Declare the devices of an inventory: CSV with a header, or a NetBox export in JSON.

    \b
    Exit codes:
      0  done, or shown
      1  the cluster cannot be reached, or refused: what was written is said
      2  FILE or an option cannot be used; nothing was written
      3  devices with a conflict stay as they are, the others were written

    FILE - is standard input. Without --yes the changes are shown, and nothing is written. A label or a field that
    others set is a conflict: its device stays as it is. With --prune, deleting a device stops what runs on it.
    """
    if dry_run and yes:
        raise BadInput("--dry-run: cannot be given with --yes; give one of them")
    if allow_removals is not None and not prune:
        raise BadInput("--allow-removals: removes nothing without --prune; give both")
    if not _SOURCE.fullmatch(source):
        raise BadInput(f"--source: {quoted(source)} is no name; write letters, digits, -, _ and ., 63 at most")
    rules = Rules(namespace=cluster.namespace, source=source, force=force_conflicts, prune=prune, kind=DeviceKind(kind))
    mapped = _mapped(file, labels, fields, rules.kind, prune=prune)
    found = compare(mapped.devices, await list_all(cluster, DEVICES[rules.kind]), rules)
    people = for_people(output)
    if people:
        show(fitted_lines(_preview(mapped, found, max_devices, yes=yes, prune=prune), output))
    limit = found.removal_limit if allow_removals is None else allow_removals
    if (removed := len(found.of(Action.DELETE))) > limit:
        raise BadInput(
            f"--allow-removals: {removed} of {counted(found.created, 'imported device')} would be deleted, "
            f"{limit} may be; nothing was written; check FILE, or write --allow-removals {removed}"
        )
    if yes:
        done = await _write(cluster, mapped.devices, found, rules)
        if people:
            show(fitted_lines([_counts(done) if done else "nothing to write"], output))
    if not people:
        show(structured(_data(mapped, found, written=yes), output))
    if found.of(Action.CONFLICT):
        click.get_current_context().exit(ExitCode.FAILED)
    return ""


def _mapped(file: str, labels: Iterable[str], fields: Iterable[str], kind: DeviceKind, *, prune: bool) -> Mapped:
    """Return the devices of *file*; BadInput, after a line for each of its faults, when anything is wrong in it."""
    try:
        by_label, by_field = mapping_of(labels, LABELS, "--label"), mapping_of(fields, FIELDS, "--field")
    except BadMapping as e:
        raise BadInput(str(e)) from e
    try:
        table = read_table(read_input(file, "FILE", _REMEDY, MAX_BYTES))
        mapped = map_devices(table, by_label, by_field, kind)
    except (Unreadable, BadMapping) as e:
        raise BadInput(f"FILE: {file}: {e}") from e
    if mapped.faults:
        for fault in mapped.faults[:_MAX_FAULTS]:
            warn(str(fault))
        if (more := len(mapped.faults) - _MAX_FAULTS) > 0:
            warn(f"and {more} more")
        raise BadInput(f"FILE: {file} has {counted(len(mapped.faults), 'fault')}; nothing was written")
    if prune and table.part:
        raise BadInput("--prune: FILE has not every device that its server has; export it with limit=0")
    if table.part:
        warn("Warning: FILE has not every device that its server has; export it with limit=0")
    return mapped


def _preview(mapped: Mapped, found: Comparison, most: int, *, yes: bool, prune: bool) -> list[str]:
    lines = [f"{each.action} {each.device}" + _reason(each) for each in found.changes[:most]]
    if (more := len(found.changes) - most) > 0:
        lines.append(f"and {more} more")
    counts = [f"{len(found.of(each))} to {each}" for each in reversed(Action) if each is not Action.CONFLICT]
    conflicts = counted(len(found.of(Action.CONFLICT)), "conflict")
    lines.append(
        f"{counted(len(mapped.devices), 'device')}: {', '.join(counts)}, {found.unchanged} as they are, {conflicts}"
    )
    if mapped.unused:
        lines.append(f"columns that nothing uses: {', '.join(map(quoted, mapped.unused))}")
    if found.of(Action.CONFLICT):
        lines.append("a device with a conflict stays as it is; --force-conflicts overwrites what others set")
    if found.missing and not prune:
        them = "it" if found.missing == 1 else "them"
        lines.append(f"{counted(found.missing, 'imported device')} not in the file; --prune deletes {them}")
    if not yes and len(found.changes) > len(found.of(Action.CONFLICT)):
        lines.append("nothing was written; --yes writes it")
    return lines


def _reason(change: Change) -> str:
    return f": {', '.join(change.words)}" if change.words else ""


def _counts(done: Sequence[Change]) -> str:
    numbers = Counter(each.action for each in done)
    return ", ".join(f"{numbers[action]} {word}" for action, word in _DONE.items() if numbers[action])


def _data(mapped: Mapped, found: Comparison, *, written: bool) -> dict[str, Any]:
    return {
        "devices": len(mapped.devices),
        **{each.value: len(found.of(each)) for each in reversed(Action)},
        "unchanged": found.unchanged,
        "missing": found.missing,
        "written": written,
        "unusedColumns": list(mapped.unused),
        "changes": [
            {"device": each.device, "action": each.action.value, "what": list(each.words)} for each in found.changes
        ],
    }


class _Changed(Exception):
    """Another client changed the device since the preview."""


class _Writer:
    """Writes changes, some at a time, and begins no more of them after one was refused."""

    def __init__(self, cluster: Cluster, wanted: Iterable[Wanted], rules: Rules, total: int) -> None:
        self._cluster, self._rules, self._total = cluster, rules, total
        self._wanted = {each.name: each for each in wanted}
        self.done: list[Change] = []
        self.refused: list[tuple[Change, KubeError | _Changed]] = []

    async def write(self, changes: Iterable[Change]) -> None:
        waiting = iter(changes)

        async def work() -> None:
            while not self.refused and (change := next(waiting, None)) is not None:
                try:
                    await self._one(change)
                except (KubeError, _Changed) as e:
                    self.refused.append((change, e))
                else:
                    self._count(change)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))

    def _count(self, change: Change) -> None:
        self.done.append(change)
        if len(self.done) % _PROGRESS == 0:
            warn(f"{len(self.done)} of {self._total} written")

    async def _one(self, change: Change) -> None:
        """Make the change; when the device changed meanwhile, only if the same change is still what it needs."""
        key = Key(self._cluster.namespace, change.device)
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return await self._send(change, key)
                except Conflict:
                    live = await self._cluster.api.get(DEVICES[self._rules.kind], key)
                    wanted = self._wanted.get(change.device)
                    fresh = removal_of(live, self._rules) if wanted is None else change_of(wanted, live, self._rules)
                    if fresh is None:
                        return  # another run of the same import was faster
                    if fresh != change or fresh.uid != change.uid:
                        break
                    change = fresh
        except NotFound:
            if change.action is Action.DELETE:
                return
            raise
        raise _Changed

    async def _send(self, change: Change, key: Key) -> None:
        api, resource = self._cluster.api, DEVICES[self._rules.kind]
        if change.action is Action.CREATE:
            await api.create(resource, key.namespace, change.patch, field_manager=FIELD_MANAGER)
        elif change.action is Action.DELETE:
            await api.delete(resource, key, uid=change.uid, resource_version=change.version)
        else:
            metadata = change.patch["metadata"] | {"uid": change.uid, "resourceVersion": change.version}
            patch = {**change.patch, "metadata": metadata}
            await api.patch(resource, key, patch, field_manager=FIELD_MANAGER)


async def _write(cluster: Cluster, wanted: Iterable[Wanted], found: Comparison, rules: Rules) -> Sequence[Change]:
    """Write the changes, deletions last; CommandFailed that says what was written and what was not, at a refusal."""
    changes = [each for each in found.changes if each.action is not Action.CONFLICT]
    writer = _Writer(cluster, wanted, rules, len(changes))
    try:
        await writer.write(each for each in changes if each.action is not Action.DELETE)
        await writer.write(each for each in changes if each.action is Action.DELETE)
    except asyncio.CancelledError:
        warn(f"interrupted after {len(writer.done)} of {counted(len(changes), 'change')}; run it again for the rest")
        raise
    if writer.refused:
        raise CommandFailed(_refusal(writer, changes))
    return writer.done


def _refusal(writer: _Writer, changes: Sequence[Change]) -> str:
    change, error = writer.refused[0]
    done = {each.device for each in writer.done}
    rest = [each.device for each in changes if each.device not in done]
    why = command_failed(error).message if isinstance(error, KubeError) else "another client changed it meanwhile"
    unknown = [each.device for each, error in writer.refused if isinstance(error, Unreachable)]
    said = f"; whether {names_of(unknown)} was written is unknown" if unknown else ""
    return (
        f"{change.action} {change.device}: {why}; done: {_counts(writer.done) or 'nothing'}; not done: {len(rest)} "
        f"({names_of(rest)}){said}; run it again for the rest"
    )
