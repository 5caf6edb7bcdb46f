# SPDX-License-Identifier: Apache-2.0
"""Which devices have what the template gives them, and what of that a rollout of it has not touched. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from praetor_controller.model.rows import ProcessRow
from praetor_controller.model.specs import Specs
from praetor_controller.rollout.assignment import Assignment
from praetor_controller.rollout.snapshot import Snapshot, specs_of


@frozen
class Updated:
    """In the order of the devices: *all* have the spec that the template gives them.

    *unchanged* are those of them that had it before, for the template with its overrides gives them what the revision
    before gave them. They have shown nothing of this rollout: no wave passes by them, and they do not fail at it. It is
    empty where all devices are given the same.
    """

    all: Sequence[bool]
    unchanged: Sequence[bool] = ()

    @classmethod
    def of(cls, specs: Specs, snapshot: Snapshot, assignment: Assignment) -> Updated:
        """Return these of *assignment*; *specs* are what the template gives."""
        has, current = specs.run_by(assignment.hashes), snapshot.current
        if current is None or current.revision == specs.template.revision:
            return cls(has)
        if not (specs.varies or current.overrides):
            return cls(has)
        before = specs_of(snapshot, current, snapshot.current_stored_as)
        since = snapshot.revision_stamp
        if since is None:
            since = (snapshot.revision_since or snapshot.rollout_since).timestamp()
        found = [
            each and same and process is not None and not _offered(process, since)
            for process, each, same in zip(assignment.processes, has, specs.same_as(before), strict=True)
        ]
        return cls(has, found if any(found) else ())

    def is_unchanged(self, number: int) -> bool:
        """Return whether the rollout gives nothing to the device at *number*."""
        return bool(self.unchanged) and self.unchanged[number]


def _offered(process: ProcessRow, since: float) -> bool:
    """Return whether *process* was offered its spec since the stamp *since*."""
    stamp = process.offered_at if process.offer_stamp is None else process.offer_stamp
    return stamp is not None and stamp >= since
