# SPDX-License-Identifier: Apache-2.0
"""One deployment of a test's own on devices that the module's tests share, and a record of all that happens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.observer import Timeline, observe, together
from e2e.rollouts.plan_check import Change, PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube, Object
from e2e.stack.manifests import deployment
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import is_ready, revision
from e2e.suite.workloads import sleeping

DEVICES, RACK, LIMIT, PER_RACK = 12, 3, 4, 1
FAULTS = "--fail-on=bad"
CANARIES = {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}}
BULK_SIZE = 8
BULK = {"name": "bulk", "limit": BULK_SIZE}
LAST = {"name": "last", "approval": "Manual"}


def labels(number: int) -> dict[str, str]:
    """Return the labels of a device: racks of three, of which the first device is a canary."""
    seat = number % RACK
    return {"rack": f"r{number // RACK}", "seat": str(seat), "ring": "other" if seat else "canary"}


def rolling(*waves: Object) -> Object:
    """Return the update strategy of the tests, in *waves*."""
    budgets = [{"groupBy": ["rack"], "maxUnavailable": PER_RACK}]
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": LIMIT, "waves": waves, "budgets": budgets}}


class RolloutFixture:
    """A deployment on all devices of *fleet*; it is gone, with whatever else was deployed, when the context is left."""

    name = "sleeper"

    def __init__(self, stack: Stack, kube: Kube, fleet: SimulatedFleet) -> None:
        self.stack = stack
        self.kube = kube
        self.devices = fleet.devices
        self.plan_check = PlanCheck(stack, kube)
        self.ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
        self._fleet = fleet
        self._record = Recorder(stack.cluster.kubeconfig, kube.path(PROCESSES))

    def start(self, *names: str, **spec: Any) -> None:
        """Have all devices run revision 1, by deployments called *names*, or by the one called `sleeper`."""
        for name in names or (self.name,):
            self.kube.apply(deployment(name, sleeping("1"), **{"updateStrategy": rolling(), **spec}))
        for name in names or (self.name,):
            self.await_done(name)

    def change(self, **spec: Any) -> AbstractContextManager[Change]:
        """Replace fields of the spec, as `PlanCheck.change` does."""
        return self.plan_check.change(self.name, **spec)

    def roll_out(self, wanted: str, *waves: Object, **options: Any) -> AbstractContextManager[Change]:
        """Have revision *wanted* rolled out, in *waves* if there are any; *options* are those of `change`."""
        strategy = {"updateStrategy": rolling(*waves)} if waves else {}
        return self.plan_check.template(self.name, sleeping(wanted), **strategy, **options)

    def present(self, **options: bool) -> AbstractContextManager[Change]:
        """Let the rollout go on, as `PlanCheck.present` does."""
        return self.plan_check.present(self.name, **options)

    def command(self, word: str) -> None:
        """Run `praetorctl rollout` for the deployment."""
        self.ctl("rollout", word, self.name)

    def spec(self, name: str = name) -> Object:
        """Return the spec of a deployment as it is stored."""
        return dict(self.kube.deployment(name)["spec"])

    def await_reasons(self, **counts: int) -> None:
        """Return when the status of the present spec has these *counts* of devices by reason."""
        self._await_status(f"reasons {counts}", lambda status: status["reasons"] == counts)

    def await_observed(self) -> None:
        """Return when the controller acts by the present spec."""
        self._await_status("the present spec is observed", lambda _: True)

    def await_done(self, name: str = name) -> None:
        """Return when the present template was rolled out."""
        await_done(self.kube, name)

    def processes(self, name: str = name) -> dict[str, Object]:
        """Return the deployment's processes by device."""
        mine = self.kube.list(PROCESSES, labelSelector=f"azure.com/deployment={name}")
        return {item["spec"]["deviceRef"]["name"]: item for item in mine}

    def target_revisions(self) -> dict[str, str]:
        """Return the revision that each device is to run."""
        return {device: revision(item) for device, item in self.processes().items()}

    def runs(self, name: str = name) -> dict[str, str]:
        """Return the revision that each device has a ready process of."""
        return {device: revision(item) for device, item in self.processes(name).items() if is_ready(item)}

    def having(self, **wanted: str) -> set[str]:
        """Return the devices with these labels."""
        return {device for device, given in self._fleet.labels.items() if wanted.items() <= given.items()}

    @contextmanager
    def in_maintenance(self, device: str) -> Iterator[None]:
        """Put a device into maintenance around the block."""
        self.kube.patch(SWITCHES, device, {"spec": {"maintenance": {"reason": "a new fan"}}})
        try:
            yield
        finally:
            self.kube.patch(SWITCHES, device, {"spec": {"maintenance": None}})

    def check(self, *names: str) -> Timeline:
        """End the record; return what it shows of the deployments called *names*, by default the fixture's own.

        AssertionError when more devices were down than may be, of all or of a rack, or one had two processes.
        """
        self._record.end()
        mine = names or (self.name,)
        seen = together(*map(self._timeline, mine))
        assert seen.worst() <= LIMIT * len(mine), str(seen)
        racks = seen.worst_by_domain(["rack"], self._fleet.labels)
        assert max(racks.values(), default=0) <= PER_RACK, racks
        for state in self._record.states():
            owned = Counter(map(_owner_and_device, state.values()))
            assert max(owned.values(), default=0) <= 1, owned
        return seen

    def _timeline(self, name: str) -> Timeline:
        wait_s = float(self.spec(name).get("minReadySeconds", 0))
        return observe(self._record.frames, name, listed=self._record.listed, min_ready_s=wait_s)

    def _await_status(self, what: str, happened: Callable[[Object], bool]) -> None:
        def is_current(item: Object) -> bool:
            return item["status"]["observedGeneration"] == item["metadata"]["generation"] and happened(item["status"])

        eventually(lambda: self.kube.deployment(self.name), is_current, what=f"{self.name}: {what}")

    def __enter__(self) -> Self:
        self._record.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._record.__exit__(*failure)
        for item in self.kube.list(DEPLOYMENTS):
            self.kube.delete(DEPLOYMENTS, item["metadata"]["name"])
        eventually(lambda: self.kube.list(PROCESSES), lambda found: not found, what="all processes are collected")


def _owner_and_device(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["metadata"]["labels"]["azure.com/deployment"], item["spec"]["deviceRef"]["name"]
