"""Judges what the controller does by what the API stores, and not by the controller's own counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from controller_simulation.invariants import PROMISES, Broken, Calm, Facts, Write, share
from controller_simulation.progress import Progress
from controller_simulation.stored import Stored
from kube_testing import FakeClock
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, Resource
from praetor_api.kube.objects import StrategyType
from praetor_controller.model.projection import project_process
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.status import was_rolled_out

STATUS_PERIOD_S = 1.0


class Judge:
    """Told of every write; raises what was broken when everybody has come to rest."""

    def __init__(self, stored: Stored, clock: FakeClock) -> None:
        self._stored = stored
        self._clock = clock
        self._progress = Progress(stored, clock)
        self._down: dict[str, set[str]] = {}
        self._calm = Calm()
        self._broken: list[Broken] = []
        self._status_at: dict[str, float] = {}
        self.spec_writes = 0
        self.status_writes: Counter[str] = Counter()

    @property
    def deployments(self) -> tuple[str, ...]:
        return tuple(self._down)

    def begin(self, name: str) -> None:
        """Note that a rollout of *name* begins."""
        self._down.setdefault(name, set())
        self._progress.begin(name)

    def another_controller(self) -> None:
        self._status_at = {}  # it cannot know when the one before wrote

    def somebody_else_has(self, device: str) -> None:
        """Note that what becomes of *device* is somebody else's doing from now on."""
        for down in self._down.values():
            down.discard(device)

    def wrote(
        self, resource: Resource, old: dict[str, Any] | None, new: dict[str, Any], subresource: str | None
    ) -> None:
        """Judge what the controller just wrote."""
        if resource == DEVICE_PROCESS_DEPLOYMENTS and subresource == "status":
            self._status_written(new["metadata"]["name"])
        if resource == DEVICE_PROCESSES and (old is None or old["spec"] != new["spec"]):
            self.spec_writes += 1
            self._spec_written(old, new)

    def at_rest(self, shown: Mapping[str, Mapping[ReasonCode, int]], faults: Sequence[Broken], *, blind: bool) -> None:
        """Note how it is when everybody has come to rest, with what the metrics have *shown*; raise what was broken."""
        self._broken += faults
        self.look()
        deployments = [self._stored.deployment(name) for name in self._down]
        devices = self._stored.devices()
        self._calm = Calm(
            blind=blind,
            paused=frozenset(row.name for row in deployments if row.policy.paused),
            on_delete=frozenset(row.name for row in deployments if row.strategy is StrategyType.ON_DELETE),
            stopped=self._stopped(),
            maintained=frozenset(row.name for row in devices.values() if row.in_maintenance),
            held=frozenset(row.name for name in self._down for row in self._stored.processes(name) if row.held),
            offline=frozenset(row.name for row in devices.values() if row.connected is False),
        )
        for name, counted in shown.items() if not blind else ():  # the metrics use the words of the status
            if sum(counted.values()) != len(devices):
                self._broken.append(Broken("every_device_has_one_reason", f"{name}: {counted} of {len(devices)}"))
        if self._broken:
            raise self._broken[0]

    def _status_written(self, name: str) -> None:
        now = self._clock.monotonic()
        if now - self._status_at.get(name, -1.0) < STATUS_PERIOD_S:
            self._broken.append(Broken("status_is_written_once_a_second", name))
        self._status_at[name] = now
        self.status_writes[name] += 1

    def _spec_written(self, old: dict[str, Any] | None, new: dict[str, Any]) -> None:
        owner, device = new["metadata"]["ownerReferences"][0]["name"], new["spec"]["deviceRef"]["name"]
        devices = self._stored.devices()
        if device not in devices:
            return
        before = project_process(old) if old is not None else None
        self.look()
        up = {name for name, down in self._down.items() if device not in down}
        ready = before is not None and before.ready_since is not None
        if before is None:
            self._down[owner].discard(device)  # whoever deleted it took it down
        elif ready:
            self._down[owner].add(device)
        write = Write(
            deployment=self._stored.deployment(owner), device=devices[device], old=before, new=project_process(new),
            takes_down=ready and owner in up, takes_down_first=ready and up == self._down.keys(),
        )  # fmt: skip
        facts = self._facts()
        broken = ((promise.__name__, promise(write, facts)) for promise in PROMISES)
        self._broken += [Broken(name, what) for name, what in broken if what]

    def _facts(self) -> Facts:
        return Facts(
            now=self._clock.now().timestamp(),
            devices=self._stored.devices(),
            processes={name: self._stored.processes(name) for name in self._down},
            down={name: frozenset(down) for name, down in self._down.items()},
            deployments=[self._stored.deployment(name) for name in self._down],
            began=self._progress.began,
            stood={name: self._progress.stood(name) for name in self._down},
            calm=evolve(self._calm, stopped=self._calm.stopped & self._stopped()),  # mended, never noted: no stop
        )

    def look(self) -> None:
        """Note which waves stand, and forget that we took down what was well for long enough since, is gone, or is held
        against us no more. To be called before anything changes: the controller may act on how it was.
        """
        now, devices = self._clock.now().timestamp(), self._stored.devices()
        for name, down in self._down.items():
            self._progress.look(name)
            down.intersection_update(devices)  # who left the fleet counts no more, though its process is still there
            policy = self._stored.deployment(name).policy
            rows = {row.device: row for row in self._stored.processes(name) if row.device in down}
            blamed = {
                each for each, row in rows.items() if now < (row.offered_at or 0.0) + policy.progress_deadline_seconds
            }
            down &= {each for each in blamed if not _is_spared(rows[each], policy.min_ready_seconds, now)}

    def _stopped(self) -> frozenset[tuple[str, int]]:
        rows = [self._stored.deployment(name) for name in self._down]
        return frozenset((row.name, row.generation) for row in rows if self._must_stop(row))

    def _must_stop(self, row: DeploymentRow) -> bool:
        if row.policy.failure_policy is None or row.strategy is StrategyType.ON_DELETE:
            return False
        if row.status.failed_revision == row.template.revision:
            holds = {each.type: each.observed_generation for each in row.status.conditions}
            return ConditionType.ROLLED_BACK in holds or holds.get(ConditionType.PAUSED) == row.generation
        bad = [each for each in self._stored.processes(row.name) if _failed(each, row)]
        most = share(row.policy.failure_policy.max_failures, len(self._stored.devices()))
        return len(bad) > most and not was_rolled_out(row)


def _failed(process: ProcessRow, row: DeploymentRow) -> bool:
    return bool(process.failure) and process.revision == row.template.revision


def _is_spared(row: ProcessRow, wait_s: int, now: float) -> bool:
    """Tell whether it was well, or goes on with what it had, for the device holds updates."""
    if row.held and row.settled_since is None and not row.failure:
        return True
    until = now if row.connected else min(now, row.connected_since or 0.0)
    return row.settled_since is not None and row.settled_since + wait_s <= until
