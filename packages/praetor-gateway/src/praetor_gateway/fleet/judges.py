# SPDX-License-Identifier: Apache-2.0
"""Who judges which devices are connected: the holder of a Lease, which it names as the field manager of what it writes.

Two gateways with different Leases judge the same devices if they are set up so by mistake. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from praetor_api.kube.codec import parse_time

MANAGER = re.compile(r"([^/]+)/([^/]+)/([0-9a-f]{32})([0-9a-f]{1,9})")
"""The managers that stand for a Lease."""


@frozen(order=True)
class JudgeLease:
    """A Lease, in the order of age: the younger one is greater. *created* is in whole seconds since the epoch."""

    created: int
    uid: str
    namespace: str
    name: str
    manager: str = field(init=False, eq=False, repr=False)
    """The field manager that stands for it, in at most the 128 characters that the API takes."""

    @manager.default
    def _manager(self) -> str:
        return f"{self.namespace}/{self.name}/{self.uid}{self.created:x}"

    @classmethod
    def of(cls, lease: Mapping[str, Any] | None) -> JudgeLease | None:
        """Return the identity of a raw *lease*; None while it is not known."""
        metadata = (lease or {}).get("metadata") or {}
        try:
            created = int(parse_time(metadata["creationTimestamp"]).timestamp())
            found = cls(created, metadata["uid"].replace("-", ""), metadata["namespace"], metadata["name"])
        except (KeyError, ValueError):
            return None
        return found if cls.named(found.manager) == found else None

    @classmethod
    def named(cls, manager: str) -> JudgeLease | None:
        """Return the Lease that *manager* stands for; None for the manager of another writer."""
        found = MANAGER.fullmatch(manager)
        if found is None:
            return None
        namespace, name, uid, created = found.groups()
        return cls(int(created, 16), uid, namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
