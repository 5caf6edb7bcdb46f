"""A changed template: every device gets it, never more are down than may be, judged from watch events."""

from __future__ import annotations

import pytest

from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, condition
from e2e.stack.manifests import deployment
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually, steadily
from e2e.suite.fleet import Fleet
from e2e.suite.judging import await_ready, is_ready, revision, unavailable
from e2e.suite.running import environment_of, is_alive
from e2e.suite.workloads import change_template, probed, sleeping


@pytest.mark.parametrize(("number", "limit", "most"), [(4, 1, 1), (4, "50%", 2), (3, "10%", 1)])
def test_no_more_devices_are_down_at_a_time_than_may_be(
    stack: Stack, fleet: Fleet, kube: Kube, number: int, limit: int | str, most: int
) -> None:
    devices = fleet.add(number)
    kube.apply(deployment("sleeper", sleeping("1"), max_unavailable=limit))
    before = {device: item["status"]["pid"] for device, item in await_ready(kube, devices).items()}
    _await_done(kube, number)
    with Recorder(stack.cluster.kubeconfig, kube.path(PROCESSES)) as record:
        change_template(kube, "sleeper", sleeping("2"))
        _await_revision(kube, devices, "2")
        _await_done(kube, number)
    assert 1 <= record.worst(unavailable(devices)) <= most
    for device, item in kube.processes().items():
        pid = item["status"]["pid"]
        assert (environment_of(pid)["REVISION"], is_alive(before[device])) == ("2", False)


def test_each_device_is_written_once_by_an_update(stack: Stack, fleet: Fleet, kube: Kube) -> None:
    devices = fleet.add(2)
    kube.apply(deployment("sleeper", sleeping("1"), max_unavailable=1))
    await_ready(kube, devices)
    change_template(kube, "sleeper", sleeping("2"))
    _await_revision(kube, devices, "2")
    assert {item["metadata"]["generation"] for item in kube.list(PROCESSES)} == {2}


def test_a_version_that_does_not_become_healthy_goes_no_further_than_it_may(fleet: Fleet, kube: Kube) -> None:
    devices = fleet.add(3)
    kube.apply(deployment("sleeper", sleeping("1"), max_unavailable=1))
    await_ready(kube, devices)
    change_template(kube, "sleeper", sleeping("bad", healthCheck=probed(["/bin/false"])))
    eventually(
        lambda: [revision(item) for item in kube.list(PROCESSES)],
        lambda found: found.count("bad") == 1,
        what="one device got it",
    )
    eventually(
        lambda: [condition(item, "RolledBack") for item in kube.list(PROCESSES)].count("True") == 1,
        what="the device found it unhealthy, and went back",
    )

    def spread() -> tuple[int, int]:
        items = kube.list(PROCESSES)
        return sum(revision(item) == "bad" for item in items), sum(map(is_ready, items))

    steadily(spread, lambda seen: seen == (1, 2), what="one device has it and two are ready", for_s=2)
    change_template(kube, "sleeper", sleeping("3", healthCheck=probed(["/bin/true"])))
    _await_revision(kube, devices, "3")


def test_recreate_updates_all_at_once(fleet: Fleet, kube: Kube) -> None:
    devices = fleet.add(3)
    kube.apply(deployment("sleeper", sleeping("1"), updateStrategy={"type": "Recreate"}))
    await_ready(kube, devices)
    change_template(kube, "sleeper", sleeping("2", healthCheck=probed(["/bin/false"])))
    eventually(
        lambda: {revision(item) for item in kube.list(PROCESSES)}, lambda seen: seen == {"2"}, what="all have it"
    )


def test_a_paused_deployment_changes_nothing(fleet: Fleet, kube: Kube) -> None:
    devices = fleet.add(2)
    kube.apply(deployment("sleeper", sleeping("1"), max_unavailable=1))
    await_ready(kube, devices)
    kube.patch(DEPLOYMENTS, "sleeper", {"spec": {"paused": True}})
    change_template(kube, "sleeper", sleeping("2"))
    generation = kube.deployment("sleeper")["metadata"]["generation"]
    eventually(
        lambda: kube.deployment("sleeper")["status"]["observedGeneration"] == generation, what="the change was seen"
    )
    steadily(
        lambda: {revision(item) for item in kube.list(PROCESSES)}, lambda seen: seen == {"1"}, what="all old", for_s=1
    )
    kube.patch(DEPLOYMENTS, "sleeper", {"spec": {"paused": False}})
    _await_revision(kube, devices, "2")


def test_a_changed_label_of_the_template_reaches_processes_without_restarting_them(fleet: Fleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping(), labels={"app": "sleeper"}))
    before = await_ready(kube, [device])[device]
    kube.patch(DEPLOYMENTS, "sleeper", {"spec": {"template": {"metadata": {"labels": {"tier": "gold"}}}}})
    eventually(
        lambda: kube.processes()[device]["metadata"]["labels"].get("tier") == "gold", what="the process has the label"
    )
    after = kube.processes()[device]
    assert (after["status"]["pid"], is_alive(before["status"]["pid"])) == (before["status"]["pid"], True)


def _await_revision(kube: Kube, devices: tuple[str, ...], wanted: str) -> None:
    eventually(
        kube.processes,
        lambda found: (
            set(found) == set(devices) and all(revision(item) == wanted and is_ready(item) for item in found.values())
        ),
        what=f"all run revision {wanted}",
    )


def _await_done(kube: Kube, number: int) -> None:
    """Wait until the deployment says that the rollout is done."""

    def done(item: dict[str, object]) -> bool:
        status = kube.deployment("sleeper")["status"]
        names = ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable")
        return all(status.get(name) == number for name in names) and condition(item, "Available") == "True"

    eventually(lambda: kube.deployment("sleeper"), done, what="the deployment says that it is done")
