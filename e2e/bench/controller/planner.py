# SPDX-License-Identifier: Apache-2.0
"""One pass of the rollout planner over a fleet at rest, half-way through a rollout, and so with all its policies.

Seconds are of the processor, so that what else runs on the machine matters little.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attrs import evolve

from e2e.bench.measure.context import Context
from e2e.bench.measure.figures import Figure, Goal, at_most, median_figure
from e2e.stack.manifests import deployment, process_spec
from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.kube.runtime.indexer import Indexer
from praetor_api.kube.runtime.informer import Informer
from praetor_controller.model.projection import project_deployment, project_process
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.assumed_cache import AssumedCache, Row
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Moment, Snapshot

R = TypeVar("R", bound=Row)

UNSEEN = 1_000
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE = (NOW - timedelta(hours=1)).timestamp()
POLICIES: Mapping[str, Any] = {
    "rollingUpdate": {
        "waves": [
            {"name": "canary", "selector": {"matchLabels": {"site": "s0"}}, "limit": "1%"},
            {"name": "early", "limit": "20%"},
        ],
        "budgets": [
            {"groupBy": ["rack"], "maxUnavailable": 1},
            {"groupBy": ["site", "feed"], "maxUnavailable": "10%"},
        ],
    },
    "spec": {"failurePolicy": {"maxFailures": "2%", "action": "Pause"}},
}
WITHIN_S = at_most(0.25)
LINEAR = at_most(11.0)


def measure(context: Context) -> tuple[Figure, ...]:
    """Time passes over a fleet and over a tenth of it, in each state."""
    passes, devices = context.size((7, 100_000), (3, 10_000))
    policies = "half-way, with waves, budgets and a failure policy"
    return (
        *_figures("at rest", passes, devices, outdated_every=0),
        *_figures("half-way through a rollout", passes, devices, outdated_every=2),
        *_figures(policies, passes, devices, outdated_every=2, policies=POLICIES),
        _collecting(passes, devices),
    )


class Prefilled(Informer[R]):
    """An informer that was given its rows and follows nothing."""

    def put(self, row: R) -> None:
        self._store.put(Key(row.namespace, row.name), row)


def _collecting(passes: int, size: int) -> Figure:
    """Time what the controller does before a pass: find the rows in its cache, newer ones of its own writes first."""
    given, clock = snapshot(size, 0, {}), FakeClock()
    kube = InProcessKube(clock)
    devices = Indexer[DeviceRow]()
    devices.add_index("all", lambda _: ("",))
    for device in given.devices:
        devices.put(Key(device.namespace, device.name), device)
    shown = Prefilled[ProcessRow](kube, DEVICE_PROCESSES, project=project_process, clock=clock)
    processes = AssumedCache([(None, shown)], clock)
    processes.add_index("all", lambda _: ("",))
    for process in given.processes:
        shown.put(process)
    for process in given.processes[:UNSEEN]:
        processes.assume(evolve(process, resource_version="12"))

    def collect() -> None:
        sources = Sources(
            devices=devices.by_index("all", ""),
            processes=processes.by_index("all", ""),
            revisions=(),
            find=processes.get,
        )
        build_snapshot(given.deployment, sources, ReconcilerState(), now=Moment(NOW))

    seconds = [_timed(collect) for _ in range(passes)]
    return _milliseconds(f"collecting the rows of {size:,} devices, {UNSEEN:,} just written", seconds)


def _figures(
    state: str, passes: int, size: int, *, outdated_every: int, policies: Mapping[str, Any] | None = None
) -> Iterable[Figure]:
    small, large = (snapshot(devices, outdated_every, policies or {}) for devices in (size // 10, size))
    of_few, of_all = list[float](), list[float]()
    for _ in range(passes):
        of_few.append(_seconds(small))
        of_all.append(_seconds(large))
    yield _milliseconds(f"{size:,} devices {state}", of_all, Goal(WITHIN_S.limit * 1000))
    growth = [more / less for more, less in zip(of_all, of_few, strict=True)]
    yield median_figure(f"{size:,} devices against {size // 10:,}, {state}", growth, unit="x", goal=LINEAR)


def _milliseconds(what: str, seconds: Iterable[float], goal: Goal | None = None) -> Figure:
    return median_figure(what, [each * 1000 for each in seconds], unit="ms", goal=goal)


def _seconds(of: Snapshot) -> float:
    return _timed(lambda: plan(of, NOW))


def _timed(work: Callable[[], object]) -> float:
    gc.collect()  # the garbage of the pass before is not this one's
    began = time.process_time()
    work()
    return time.process_time() - began


def snapshot(devices: int, outdated_every: int, policies: Mapping[str, Any]) -> Snapshot:
    """Return a connected, ready fleet; one device in *outdated_every* lacks the newest template (0: none does)."""
    row = _deployment(policies)
    names = [f"leaf-{number}" for number in range(devices)]
    processes = [
        _process(name, row, outdated=bool(outdated_every) and number % outdated_every == 0)
        for number, name in enumerate(names)
    ]
    return Snapshot(
        deployment=row,
        devices=[
            DeviceRow(name=name, namespace="default", labels=_labels(number), connected=True, connected_since=BEFORE)
            for number, name in enumerate(names)
        ],
        processes=processes,
        rollout_since=NOW - timedelta(minutes=5),
        taken_names={process.name for process in processes},
    )


def _labels(number: int) -> Mapping[str, str]:
    return {"site": f"s{number % 10}", "rack": f"r{number // 40}", "feed": "ab"[number % 2], "role": "leaf"}


def _deployment(policies: Mapping[str, Any]) -> DeploymentRow:
    body = deployment("agent", process_spec(["/bin/sleep", "1000"]), max_unavailable="10%", **policies.get("spec", {}))
    body["spec"]["updateStrategy"]["rollingUpdate"] |= policies.get("rollingUpdate", {})
    body["metadata"] |= {"namespace": "default", "uid": "d-1", "generation": 2, "resourceVersion": "7"}
    return project_deployment(body)


def _process(device: str, row: DeploymentRow, *, outdated: bool) -> ProcessRow:
    template = row.template
    process = ProcessRow(
        name=f"{row.name}-{device}",
        namespace=row.namespace,
        uid=f"u-{device}",
        resource_version="11",
        device=device,
        owner=row.uid,
        spec_hash=template.spec_hash,
        labels=template.labels,
        annotations=template.annotations,
        annotated=True,
        revision=template.revision,
        managed=template.managed,
        offered_at=BEFORE,
        created_at=BEFORE,
        connected=True,
        connected_since=BEFORE,
        reported=True,
        observed=True,
        ready_since=BEFORE,
        settled_since=BEFORE,
    )
    return evolve(process, spec_hash="sha256:older", revision="older") if outdated else process
