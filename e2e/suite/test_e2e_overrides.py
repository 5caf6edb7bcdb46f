# SPDX-License-Identifier: Apache-2.0
"""One deployment with overrides: what each device runs, what a changed override or label does, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.stack.ctl import Ctl
from e2e.stack.errors import Refused
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, conditions
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, is_ready
from e2e.suite.running import argv_of, environment_of, is_alive
from e2e.suite.workloads import shell

ARM = {"matchLabels": {"cpu": "arm64"}}


def override(*arguments: str, selector: Object | None = None, **execution: Any) -> Object:
    args = {"args": ["-c", "sleep infinity & wait", "sh", *arguments]} if arguments else {}
    return {"selector": selector or ARM, "execution": {**args, **execution}}


def program() -> Object:
    spec = shell("sleep infinity & wait", "plain")
    spec["execution"]["env"] = [{"name": "CPU", "value": "any"}, {"name": "SITE", "value": "fra1"}]
    return spec


def await_running(kube: Kube, wanted: dict[str, str]) -> dict[str, int]:
    """Return the pids by device once each is ready with its last argument as *wanted*."""

    def seen(found: dict[str, Object]) -> dict[str, str]:
        pids = {device: each["status"].get("pid") for device, each in found.items() if is_ready(each)}
        return {device: argv_of(pid)[-1] for device, pid in pids.items() if pid and is_alive(pid)}

    found = eventually(kube.processes, lambda found: seen(found) == wanted, what=f"the devices run {wanted}")
    return {device: each["status"]["pid"] for device, each in found.items()}


def reasons(kube: Kube) -> dict[str, int]:
    return dict(kube.deployment("agent").get("status", {}).get("reasons") or {})


def test_devices_run_what_the_first_matching_override_sets_and_only_changed_ones_restart(
    fleet: AgentFleet, kube: Kube, stack: Stack
) -> None:
    (x86,), (arm,) = fleet.add(labels={"cpu": "x86_64"}), fleet.add(labels={"cpu": "arm64"})
    later = {"matchExpressions": [{"key": "cpu", "operator": "Exists"}]}
    overrides = [
        override("arm", env=[{"name": "CPU", "value": "arm"}]),
        override("late", selector=later, env=[{"name": "CPU", "value": "late"}, {"name": "EXTRA", "value": "1"}]),
    ]
    kube.apply(deployment("agent", program(), overrides=overrides))
    pids = await_running(kube, {x86: "late", arm: "arm"})
    assert environment_of(pids[arm]).items() >= {"CPU": "arm", "SITE": "fra1", "EXTRA": "1"}.items()
    assert environment_of(pids[x86]).items() >= {"CPU": "late", "SITE": "fra1", "EXTRA": "1"}.items()

    overrides[0] = override("arm-2", env=[{"name": "CPU", "value": "arm"}])
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"overrides": overrides}})
    again = await_running(kube, {x86: "late", arm: "arm-2"})
    assert again[x86] == pids[x86]
    assert again[arm] != pids[arm]
    eventually(lambda: reasons(kube), lambda found: found == {"UpToDate": 2}, what="the new overrides are rolled out")

    fleet.label(x86, {"cpu": "arm64"})
    moved = await_running(kube, {x86: "arm-2", arm: "arm-2"})
    assert moved[arm] == again[arm]
    assert is_alive(moved[x86])

    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    said = ctl("render", "agent", x86)
    assert "- spec.overrides[0]\n- spec.overrides[1]\n" in said
    ctl("rollout", "undo", "agent")
    await_running(kube, {x86: "arm", arm: "arm"})
    assert kube.deployment("agent")["spec"]["overrides"][0]["execution"]["args"][-1] == "arm"


def test_what_overrides_make_of_a_template_that_cannot_run_holds_the_device(fleet: AgentFleet, kube: Kube) -> None:
    (x86,), (arm,) = fleet.add(labels={"cpu": "x86_64"}), fleet.add(labels={"cpu": "arm64"})
    kube.apply(deployment("agent", program()))
    pids = await_running(kube, {x86: "plain", arm: "plain"})
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"overrides": [override("arm", command=["bin/program"])]}})
    said = eventually(
        lambda: conditions(kube.deployment("agent")).get("OverrideInvalid", {}),
        lambda found: found.get("status") == "True",
        what="the deployment says that its override cannot run",
    )
    assert said["message"].startswith(
        f"1 device keeps what it has ({arm}): spec.overrides[0].execution.command: 'bin/program' is relative"
    )
    eventually(
        lambda: reasons(kube), lambda found: found == {"OverrideInvalid": 1, "UpToDate": 1}, what="so do reasons"
    )
    assert {device: each["status"]["pid"] for device, each in kube.processes().items()} == pids
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"overrides": [override("arm")]}})
    assert await_running(kube, {x86: "plain", arm: "arm"})[x86] == pids[x86]
    eventually(
        lambda: conditions(kube.deployment("agent")),
        lambda found: "OverrideInvalid" not in found,
        what="the condition is gone",
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"selector": ARM}, "an override needs artifact or execution"),
        ({"selector": {}, "execution": {"args": ["x"]}}, "the selector of an override may not be empty"),
        ({"selector": ARM, "execution": {}}, "should have at least 1 properties"),
    ],
)
@pytest.mark.needs("cel")
def test_the_api_refuses_an_override_that_says_nothing(kube: Kube, wrong: Object, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        kube.apply(deployment("agent", program(), overrides=[wrong]))
    assert await_ready(kube, []) == {}
