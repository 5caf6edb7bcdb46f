# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a spec, whatever the device. Pure.

An API server before 1.25 lets such a spec through.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Optional

from praetor_agent.core import allowances, environment, files, health, reboot
from praetor_api.protocol import DesiredItem


def fault(item: DesiredItem) -> str | None:
    """Return why the spec of *item* can never run; None if it can."""
    spec = item.spec
    return (
        reboot.fault(spec)
        or (health.fault(spec.health_check) if spec.health_check is not None else None)
        or (allowances.fault(spec.execution) if spec.execution.container is not None else None)
        or (files.fault(item) if spec.execution.files else None)
        or environment.fault(item)
    )


def known_faults(items: Iterable[DesiredItem]) -> dict[str, Optional[str]]:
    """Return the `fault` of each of *items* by uid. They are judged in each pass, and do not change.

    What some files hold is known only beside the version that runs, so an item that keeps some is left out.
    """
    found = {}
    for item in items:
        with suppress(Exception):  # to judge it by itself meets the same, and says so of this process alone
            if not item.kept_files:
                found[item.uid] = fault(item)
    return found
