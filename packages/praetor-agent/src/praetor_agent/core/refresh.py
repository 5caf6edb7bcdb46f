# SPDX-License-Identifier: Apache-2.0
"""A version that differs in contents of files alone, which a running process takes without a restart. Pure.

The backend's mark keeps the hash that the process was started with, and `Revision.applied` is that of its files. An
agent that knows no files sees a process that runs what it was started with.
"""

from __future__ import annotations

from dataclasses import replace

from praetor_agent.core import reboot, rollback
from praetor_agent.core.model import Memory, Observed, Record, Revision
from praetor_api.files import OnChange
from praetor_api.protocol import DesiredItem
from praetor_api.spec import ProcessSpec


def in_place(old: DesiredItem, new: DesiredItem) -> bool:
    """Return whether *new* differs from *old* in nothing but contents of files that need no restart."""
    return old.spec != new.spec and _without_contents(old.spec) == _without_contents(new.spec)


def _without_contents(spec: ProcessSpec) -> ProcessSpec:
    files = tuple(
        file if file.on_change is OnChange.RESTART else replace(file, content="") for file in spec.execution.files
    )
    return replace(spec, execution=replace(spec.execution, files=files))


def target(revision: Revision, record: Record, seen: Observed | None) -> Revision | None:
    """Return what the running service *seen* becomes by the files of *revision* alone; None if it has to restart."""
    current = record.current
    if current is None or seen is None or not seen.running or not reboot.is_kept(current):
        return None
    runs = (seen.spec_hash, seen.backend) == (current.item.spec_hash, current.item.spec.execution.backend)
    if not runs or current.spec_hash == revision.spec_hash or not in_place(current.item, revision.item):
        return None
    return with_item(current, revision.item, revision.spec_hash)


def with_item(current: Revision, item: DesiredItem, spec_hash: str) -> Revision:
    """Return the running revision *current* with the files of *item*, a spec with the hash *spec_hash*.

    Its mark, its artifact and its values stay those that it was started with.
    """
    started = current.item
    kept = replace(item, spec_hash=started.spec_hash, values=started.values, values_hash=started.values_hash)
    return replace(current, item=kept, applied=None if spec_hash == started.spec_hash else spec_hash)


def refreshed(memory: Memory, revision: Revision, boot_id: str, now: float) -> Record:
    """Return the record of a process after it was given the files of *revision*, another version.

    As after a start the version has to prove itself, and is rolled back if it does not; the counters begin again.
    """
    uid = revision.item.uid
    record = rollback.begun(memory[uid], revision, boot_id, now)
    trial = 1 + max(known.trial for known in memory.values())
    return replace(record, current=revision, started_at=now, healthy_since=None, failures=0, failure=None, trial=trial)
