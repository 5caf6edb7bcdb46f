# SPDX-License-Identifier: Apache-2.0
"""Contents of files that a running process takes without a restart: of another version, or new ones by reference. Pure.

The backend's mark keeps the hash that the process was started with, and `Revision.applied` is that of its files. An
agent that knows no files sees a process that runs what it was started with.
"""

from __future__ import annotations

from dataclasses import replace

from praetor_agent.core import files, reboot, rollback
from praetor_agent.core.model import Memory, Observed, Record, Revision
from praetor_api.files import File, OnChange
from praetor_api.protocol import DesiredItem, FileValue
from praetor_api.spec import ProcessSpec


def in_place(old: DesiredItem, new: DesiredItem) -> bool:
    """Return whether *new* differs from *old* in nothing but contents of files that need no restart."""
    return old.spec != new.spec and _without_contents(old.spec) == _without_contents(new.spec)


def _without_contents(spec: ProcessSpec) -> ProcessSpec:
    masked = tuple(map(_without_content, spec.execution.files))
    return replace(spec, execution=replace(spec.execution, files=masked))


def _without_content(file: File) -> File:
    if file.on_change is OnChange.RESTART:
        return file
    mode = f"{files.mode_of(file):04o}"  # which depends on where the content comes from, unless it is given
    return replace(file, content="", config_map_key_ref=None, secret_key_ref=None, mode=mode)


def target(revision: Revision, record: Record, seen: Observed | None) -> Revision | None:
    """Return what the running service *seen* becomes by the files of *revision* alone.

    None if there is nothing to write, or if it has to restart.
    """
    current = record.current
    if current is None or seen is None or not seen.running or not reboot.is_kept(current):
        return None
    runs = (seen.spec_hash, seen.backend) == (current.item.spec_hash, current.item.spec.execution.backend)
    if not runs:
        return None
    if current.spec_hash == revision.spec_hash:
        placed = with_item(current, revision.item, revision.spec_hash)
        new = files.given(placed.item) != files.given(current.item) or _is_unwritten(current, revision.item)
        return placed if new else None
    if not in_place(current.item, revision.item):
        return None
    return with_item(current, revision.item, revision.spec_hash)


def with_item(current: Revision, item: DesiredItem, spec_hash: str) -> Revision:
    """Return the running revision *current* with the files of *item*, a spec with the hash *spec_hash*.

    Its mark, its artifact, its values and the files that need a restart stay those that it was started with.
    """
    kept = replace(as_started(current, item), file_values=_merged(current.item, item))
    if _is_unwritten(current, item):
        kept = replace(kept, values_hash=item.values_hash)
    return replace(current, item=kept, applied=None if spec_hash == kept.spec_hash else spec_hash)


def as_started(current: Revision, item: DesiredItem) -> DesiredItem:
    """Return *item* with the mark, the values and the contents of files that the running *current* has."""
    started = current.item
    return replace(
        item,
        spec_hash=started.spec_hash,
        values=started.values,
        values_hash=started.values_hash,
        file_values=started.file_values,
    )


def _merged(started: DesiredItem, item: DesiredItem) -> tuple[FileValue, ...] | None:
    """Return the contents by reference of *item*, but for the files that need a restart those of *started*."""
    if item.file_values is None:
        return started.file_values
    restarts = _restarting(item.spec)
    kept = {value.path: value for value in started.file_values or () if value.path in restarts}
    new = {value.path: value for value in item.file_values if value.path not in restarts}
    found = {**kept, **new}
    return tuple(found[file.path] for file in item.spec.execution.files if file.path in found)


def unwritten(item: DesiredItem) -> DesiredItem:
    """Return *item* as a process has it that was found running, so that its files by reference are written once."""
    return item if item.file_values is None else replace(item, values_hash=None)


def _is_unwritten(current: Revision, item: DesiredItem) -> bool:
    return item.file_values is not None and current.item.values_hash is None and item.values_hash is not None


def _restarting(spec: ProcessSpec) -> frozenset[str]:
    return frozenset(file.path for file in spec.execution.files if file.on_change is OnChange.RESTART)


def refreshed(memory: Memory, revision: Revision, boot_id: str, now: float) -> Record:
    """Return the record of a process after it was given the files of *revision*, another version.

    As after a start the version has to prove itself, and is rolled back if it does not; the counters begin again.
    """
    uid = revision.item.uid
    record = rollback.begun(memory[uid], revision, boot_id, now)
    trial = 1 + max(known.trial for known in memory.values())
    return replace(record, current=revision, started_at=now, healthy_since=None, failures=0, failure=None, trial=trial)
