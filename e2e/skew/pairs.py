# SPDX-License-Identifier: Apache-2.0
"""Old and new parts beside each other in every combination, with real agents and a rollout that waits for approval.

Between two states one part is replaced. Nothing may be restarted, written or disconnected by that, and a version that
ends at once must stop at one device in every state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from attrs import frozen

from e2e.clusters.cluster import Capability
from e2e.rollouts.scenario import await_done
from e2e.skew.parts import MIXED, NEW, OLD, Part, Parts, Step
from e2e.skew.report import Row
from e2e.skew.stored import Checkpoint, checkpoint, compare
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, Object, conditions
from e2e.stack.manifests import deployment, device_process, network_switch, process_spec
from e2e.stack.stack import Release, Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import is_ready, revision
from e2e.suite.workloads import change_template, prompt, sleeping

DEVICES = 6
WAITING, EDGES, LISTS, SOLO, TRIAL = "waiting", "edges", "lists", "solo", "trial"
FIRST, REST = "first", "rest"
BAD = "/bin/false"
EDGE_VALUES: Object = {
    "env": [{"name": "WORDS", "value": "ä = \"$HOME\" '%n'\n"}],
    "terminationGracePeriodSeconds": 1,
    "workingDir": "/",
}
EMPTY_LISTS: Object = {"args": [], "env": []}


@frozen(kw_only=True)
class Journey:
    """A rollout begins, waits for approval during all *steps*, and is then approved and finished."""

    name: str
    steps: tuple[Step, ...]


def toggled(*parts: Part) -> tuple[Step, ...]:
    """Return the steps that replace *parts* in this order, each by what it is not: all are old at the beginning."""
    running = dict.fromkeys(Part, OLD)
    steps = []
    for part in parts:
        running[part] = NEW if running[part] == OLD else OLD
        steps.append(Step(part, running[part]))
    return tuple(steps)


_CRDS, _CONTROLLER, _GATEWAY, _AGENTS = Part
# a Gray code: one part at a time, each four times, through all sixteen states and back to the first one
EVERY_STATE = tuple(
    tuple(Part)[number] for number in (0, 1, 0, 2, 0, 3, 2, 1, 2, 3, 0, 3, 1, 2, 1, 3)
)  # fmt: skip
SHORT = (Journey(name="short", steps=toggled(_CRDS, _CONTROLLER, _GATEWAY, _AGENTS, _GATEWAY)),)
FULL = (
    Journey(name="every state", steps=toggled(*EVERY_STATE)),
    Journey(name="upgrade", steps=tuple(Step(part, NEW) for part in Part)),
    Journey(name="downgrade", steps=tuple(Step(part, OLD) for part in reversed(Part))),
    Journey(name="agents first", steps=tuple(Step(part, NEW) for part in reversed(Part))),
    Journey(name="agents last", steps=tuple(Step(part, OLD) for part in Part)),
    Journey(name="old, new api", steps=tuple(Step(part, MIXED) for part in (_CONTROLLER, _GATEWAY, _AGENTS))),
)


class Pairs:
    """A few real agents and everything that they need; all parts are old at first. *say* gets each row at once."""

    def __init__(self, stack: Stack, kube: Kube, releases: Mapping[str, Release], say: Callable[[Row], None]) -> None:
        self._stack = stack
        self._kube = kube
        self._releases = releases
        self._parts = Parts(stack, releases)
        self._say = say
        self._devices = tuple(f"{kube.namespace}-{number}" for number in range(DEVICES))
        self._trials = count(1)
        self._versions = count(2)

    def prepare(self) -> None:
        """Declare devices, start their agents, and run one process of each kind on them."""
        kube, devices = self._kube, self._devices
        for number, device in enumerate(devices):
            kube.apply(network_switch(device, {"ring": str(number % 2), "role": "leaf"}, model="m"))
            self._stack.add_agent(device)
        # the kube-apiserver 1.20 that Debian builds refuses empty strings in custom resources
        empty = "" if Capability.CEL in self._stack.cluster.capabilities else "-"
        variables = [{"name": "EMPTY", "value": empty}, *EDGE_VALUES["env"]]
        edges = sleeping(execution={**EDGE_VALUES, "env": variables}, restartPolicy="OnFailure")
        kube.apply(
            deployment(WAITING, prompt("1")),
            deployment(EDGES, edges, labels={"app": EDGES, "empty": empty}, minReadySeconds=0),
            deployment(LISTS, process_spec(["/bin/sleep", "infinity"], execution=EMPTY_LISTS)),
            device_process(SOLO, devices[0], sleeping()),
        )

    def travel(self, journeys: Sequence[Journey]) -> list[Row]:
        """Make *journeys*, one after the other, and return a row for each of their steps."""
        return [row for journey in journeys for row in self._journey(journey)]

    def _journey(self, journey: Journey) -> list[Row]:
        version = str(next(self._versions))
        self._begin(version)
        rows = []
        last = self._checkpoint()
        for step in journey.steps:
            self._parts.replace(step, [agent.program for agent in self._stack.agents.values()])
            reached = self._bad_version()
            now = self._checkpoint(last)
            findings = compare(last, now, new_schema=step.part is Part.CRDS)
            rows.append(
                Row(
                    rehearsal=journey.name,
                    running=dict(self._parts.running),
                    findings=findings,
                    checked=f"{reached} of {DEVICES}",
                    expected=f"1 of {DEVICES}",
                )
            )
            self._say(rows[-1])
            last = now
        self._finish(version)
        return rows

    def _begin(self, version: str) -> None:
        """Roll out *version* to half of the devices; the other half waits for approval."""
        waves = [
            {"name": FIRST, "selector": {"matchLabels": {"ring": "0"}}},
            {"name": REST, "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"},
        ]
        eventually(self._all_ready, what="all processes run")
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "waves": waves}}
        self._kube.patch(DEPLOYMENTS, WAITING, {"spec": {"updateStrategy": strategy}})
        change_template(self._kube, WAITING, prompt(version))
        eventually(
            lambda: self._ready_with(version),
            lambda number: number == DEVICES // 2,
            what=f"{version} waits for approval",
        )

    def _finish(self, version: str) -> None:
        """Approve the rollout with a praetorctl of the other version than the controller's, and wait for its end."""
        other = OLD if self._parts.running[Part.CONTROLLER] == NEW else NEW
        ctl = Ctl(self._stack.cluster.kubeconfig, self._kube.namespace, self._releases[other])
        ctl("rollout", "approve", WAITING, "--wave", REST)
        await_done(self._kube, WAITING)
        eventually(lambda: self._ready_with(version), lambda number: number == DEVICES, what=f"{version} runs")

    def _bad_version(self) -> int:
        """Roll out a good version and then one that ends at once; return how many devices that reached."""
        name = f"{TRIAL}-{next(self._trials)}"
        policy = {"maxFailures": 0, "action": "Pause"}
        trial = deployment(name, prompt(), max_unavailable=1, failurePolicy=policy)
        self._kube.apply(trial)
        await_done(self._kube, name)
        change_template(self._kube, name, process_spec([BAD], execution={"args": []}))
        eventually(
            lambda: conditions(self._kube.deployment(name)).get("Paused", {}).get("reason"),
            lambda reason: reason == "FailurePolicy",
            what=f"{name} is stopped",
        )
        reached = [item for item in self._processes_of(name) if item["spec"]["execution"]["command"] == [BAD]]
        self._kube.delete(DEPLOYMENTS, name)
        eventually(lambda: self._processes_of(name), lambda left: not left, what=f"{name} is gone")
        return len(reached)

    def _checkpoint(self, before: Checkpoint | None = None) -> Checkpoint:
        """Return the present state once no process of a trial runs, or at once if one that ran *before* is missing."""

        def settled(pids: Mapping[str, frozenset[int]]) -> bool:
            return before is None or pids == before.pids or any(was - pids[name] for name, was in before.pids.items())

        pids = eventually(self._pids, settled, what="the processes of the trial have ended")
        return checkpoint(self._kube, pids, but=TRIAL)

    def _pids(self) -> dict[str, frozenset[int]]:
        return {device: agent.processes() for device, agent in self._stack.agents.items()}

    def _processes_of(self, name: str) -> list[Object]:
        return [item for item in self._kube.list(PROCESSES) if item["metadata"]["name"].startswith(f"{name}-")]

    def _ready_with(self, version: str) -> int:
        return sum(is_ready(item) and revision(item) == version for item in self._processes_of(WAITING))

    def _all_ready(self) -> bool:
        found = self._kube.list(PROCESSES)
        return len(found) == 3 * DEVICES + 1 and all(map(is_ready, found))
