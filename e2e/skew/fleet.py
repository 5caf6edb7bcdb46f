# SPDX-License-Identifier: Apache-2.0
"""Upgrade and downgrade of everything during a rollout to many simulated devices.

The devices are simulated by several programs, so that old and new agents are there at the same time. A simulated
device keeps its processes in memory only: once its program was replaced, it says that it started them. What counts as
a restart there is a spec hash other than the one before that the rollout did not ask for, because a real agent goes on
with what it runs exactly when the hash is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from e2e.rollouts.fleet import SimulatedFleet
from e2e.rollouts.scenario import await_done
from e2e.skew.parts import NEW, OLD, Part, Parts, Step
from e2e.skew.report import Row
from e2e.skew.stored import Findings, disconnections
from e2e.stack.kube import PROCESSES, SWITCHES, Kube, Object
from e2e.stack.manifests import deployment
from e2e.stack.program import Program
from e2e.stack.stack import Release, Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import revision
from e2e.suite.workloads import change_template, sleeping

NAME, BEFORE, AFTER = "telemetry", "1", "2"
PROGRAMS = 4
MAX_UNAVAILABLE = "2%"
WITHIN_S = 3600.0


class Seen(NamedTuple):
    """Switches and processes at a moment, by name."""

    switches: Mapping[str, Object]
    processes: Mapping[str, Object]


class Upgrade:
    """A fleet of *size* devices, all parts old at first. *say* gets each row at once."""

    def __init__(
        self, stack: Stack, kube: Kube, releases: Mapping[str, Release], say: Callable[[Row], None], size: int
    ) -> None:
        self._kube = kube
        self._parts = Parts(stack, releases)
        self._say = say
        self._size = size
        self._fleet = SimulatedFleet(stack, kube)
        self._changes = [stack.workdir / f"changes-{number}.jsonl" for number in range(PROGRAMS)]
        self._programs: list[tuple[Program, frozenset[str]]] = []

    def run(self) -> list[Row]:
        """Replace every part by the new version and then by the old one, all during one rollout."""
        try:
            self._prepare()
            return self._rollout()
        finally:
            self._fleet.close()

    def _prepare(self) -> None:
        devices = self._fleet.declare(self._size)
        for number, changes in enumerate(self._changes):
            some = devices[number::PROGRAMS]
            self._programs.append((self._fleet.power_on(some, f"--changes-file={changes}"), frozenset(some)))
        self._fleet.await_connected(devices)
        self._kube.apply(deployment(NAME, sleeping(BEFORE), max_unavailable=MAX_UNAVAILABLE, minReadySeconds=1))
        await_done(self._kube, NAME, within_s=WITHIN_S)

    def _rollout(self) -> list[Row]:
        """Change the template; each replacement comes once a further share of the devices was updated."""
        up = [Step(part, NEW) for part in Part] + [Step(Part.AGENTS, NEW)] * (PROGRAMS - 1)
        steps = [*up, *(Step(step.part, OLD) for step in reversed(up))]
        change_template(self._kube, NAME, sleeping(AFTER))
        rows, last, new = [], self._seen(), 0
        for number, step in enumerate(steps, start=1):
            share = number * self._size // (len(steps) + 2)
            self._await_updated(share)
            programs = []
            if step.part is Part.AGENTS:
                first = new if step.version == NEW else new - 1
                programs, new = self._programs[first : first + 1], 2 * first + 1 - new
            before = self._seen()
            self._parts.replace(step, [program for program, _ in programs])
            rebooted = frozenset[str]().union(*(devices for _, devices in programs))
            self._await_reports(before, rebooted)
            self._await_updated(share + 1)
            now = self._seen()
            running = {**self._parts.running, Part.AGENTS: f"{new}/{PROGRAMS} new"}
            rows.append(self._row(running, last, now, rebooted, during=True))
            last = now
        await_done(self._kube, NAME, within_s=WITHIN_S)
        rows.append(self._row({**self._parts.running}, last, self._seen(), frozenset(), during=False))
        return rows

    def _row(
        self, running: Mapping[Part, str], last: Seen, now: Seen, rebooted: frozenset[str], *, during: bool
    ) -> Row:
        updated = sum(map(_is_updated, now.processes.values()))
        findings = Findings(
            restarts=(*_restarted(last, now, rebooted), *self._unasked()),
            writes=tuple(_written(last, now)),
            disconnections=tuple(disconnections(last.switches, now.switches)),
        )
        row = Row(
            rehearsal=f"{updated}/{self._size} updated",
            running=running,
            findings=findings,
            checked="done" if updated == self._size else "running",
            expected="running" if during else "done",
        )
        self._say(row)
        return row

    def _await_updated(self, number: int) -> None:
        """Return once the rollout has reached *number* devices."""

        def updated() -> int:
            item = self._kube.deployment(NAME)
            status = item["status"]
            is_current = status["observedGeneration"] >= item["metadata"]["generation"]
            return int(status["updatedNumberScheduled"]) if is_current else 0

        eventually(updated, lambda now: now >= number, what=f"{number} devices are updated", within_s=WITHIN_S)

    def _await_reports(self, before: Seen, devices: frozenset[str]) -> None:
        """Return once the new programs of *devices* have reported what they run."""
        waited = {key for key, item in before.processes.items() if item["spec"]["deviceRef"]["name"] in devices}

        def silent() -> list[str]:
            now = self._seen().processes
            return [key for key in waited if _started(now[key]) in (None, _started(before.processes[key]))]

        eventually(silent, lambda left: not left, what="the devices of the restarted simulator report")

    def _seen(self) -> Seen:
        switches, processes = (
            {f"{plural}/{item['metadata']['name']}": item for item in self._kube.list(plural)}
            for plural in (SWITCHES, PROCESSES)
        )
        return Seen(switches, processes)

    def _unasked(self) -> Iterator[str]:
        """Yield the devices that got other specs than the two of the rollout, or one of them again."""
        for device, hashes in sorted(self._hashes().items()):
            if len(hashes) > 2:
                yield f"{device}: got the specs {', '.join(hashes)}"

    def _hashes(self) -> Mapping[str, list[str]]:
        """Return what each device got, without what it got once more after its program was replaced."""
        found: dict[str, list[str]] = {}
        for file in self._changes:
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # the last one may be half written
                    change = json.loads(line)
                    hashes = found.setdefault(change["device"], [])
                    if hashes[-1:] != [change["specHash"]]:
                        hashes.append(change["specHash"])
        return found


def _is_updated(process: Object) -> bool:
    return revision(process) == AFTER


def _restarted(last: Seen, now: Seen, rebooted: frozenset[str]) -> Iterator[str]:
    """Yield the processes of devices, but of *rebooted*, that were started again with the same spec."""
    for key, was in sorted(last.processes.items()):
        current = now.processes.get(key)
        device = was["spec"]["deviceRef"]["name"]
        if current is None or device in rebooted or revision(was) != revision(current):
            continue
        before, after = _started(was), _started(current)
        if _reported(was) and before != after:
            yield f"{key}: started as {before}, now {after}"


def _started(process: Object) -> tuple[int, str] | None:
    status = process.get("status") or {}
    return (status["pid"], str(status.get("startTime", ""))) if "pid" in status else None


def _reported(process: Object) -> bool:
    """Return whether the status is about the current spec."""
    status = process.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= process["metadata"]["generation"])


def _written(last: Seen, now: Seen) -> Iterator[str]:
    """Yield what was written to a spec without the rollout: all but one change from the old version to the new one."""
    for key in sorted(last.processes.keys() | now.processes.keys()):
        was, current = last.processes.get(key), now.processes.get(key)
        if was is None or current is None:
            yield f"{key} was {'created' if was is None else 'deleted'}"
            continue
        writes = current["metadata"]["generation"] - was["metadata"]["generation"]
        asked = int(_is_updated(current)) - int(_is_updated(was))
        if writes != asked:
            yield f"{key}: its spec was written {writes} times, the rollout asked for {asked}"
    for key, switch in sorted(last.switches.items()):
        if key in now.switches and now.switches[key]["metadata"]["generation"] != switch["metadata"]["generation"]:
            yield f"{key}: its spec was written"
