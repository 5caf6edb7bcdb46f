"""How many devices a deployment has, by how they are. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

from praetor_controller.rollout.assignment import Pairing
from praetor_controller.rollout.availability import Standing
from praetor_controller.rollout.snapshot import Counts


def counted(pairing: Pairing, hashes: Collection[str]) -> tuple[Counts, float]:
    """Return the counts, and since when the first of those has been ready that are not available yet (inf: none is).

    *hashes* are those of the specs that count as updated.
    """
    available, specs = pairing.stands.count(Standing.AVAILABLE), Counter(pairing.hashes)
    ready_since = [
        process.ready_since
        for process, stands in zip(pairing.processes, pairing.stands, strict=True)
        if stands is Standing.UNAVAILABLE and process is not None and process.ready_since is not None
    ]
    counts = Counts(
        desired=len(pairing.devices),
        current=len(pairing.devices) - specs[None],
        updated=sum(specs[each] for each in hashes),
        ready=available + len(ready_since),
        available=available,
    )
    return counts, min(ready_since, default=math.inf)
