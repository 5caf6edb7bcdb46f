# SPDX-License-Identifier: Apache-2.0
"""What a program keeps for its lifetime is not visited by the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from praetor_api.kube.runtime.garbage import GC_THRESHOLDS, collect_less_often, spare


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


async def test_a_fleet_is_kept_from_the_collector_once_it_is_there_and_not_before() -> None:
    is_there = asyncio.Event()
    fleet: list[dict[str, list[str]]] = []
    sparing = asyncio.create_task(spare(is_there.wait))
    await asyncio.sleep(0)
    assert gc.get_freeze_count() == 0
    fleet.append({"device": []})
    is_there.set()
    await sparing
    assert gc.get_freeze_count() > 0
    assert not any(each is fleet[0] for each in gc.get_objects())


def test_a_program_with_a_fleet_collects_less_often_than_python_does_by_itself() -> None:
    collect_less_often()
    assert gc.get_threshold() == GC_THRESHOLDS
