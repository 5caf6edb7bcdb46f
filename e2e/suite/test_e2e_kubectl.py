# SPDX-License-Identifier: Apache-2.0
"""The everyday flow with an unmodified kubectl."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.cluster import Cluster
from e2e.stack.kube import Kube
from e2e.stack.manifests import deployment, network_switch
from e2e.stack.waiting import eventually, steadily
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import environment_of
from e2e.suite.workloads import change_template, sleeping

Kubectl = Callable[..., str]


@pytest.fixture
def kubectl(cluster: Cluster, kube: Kube, tmp_path: Path) -> Kubectl:
    """Run kubectl in the test's namespace; what it printed is returned."""
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    base = [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", f"--cache-dir={tmp_path / 'cache'}"]

    def run(*arguments: str, stdin: str | None = None) -> str:
        return output_of([*base, f"--namespace={kube.namespace}", *arguments], stdin=stdin, timeout_s=600)

    return run


def test_the_everyday_flow_works(kubectl: Kubectl, fleet: AgentFleet, kube: Kube) -> None:
    device = f"{kube.namespace}-k"
    switch = network_switch(device, {"role": "leaf"}, model="SN5600", managementAddress="192.0.2.1")
    manifests = [switch, deployment("sleeper", sleeping("1"), match={"role": "leaf"})]
    applied = kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
    assert f"networkswitch.azure.com/{device} created" in applied
    fleet.power_on(device)
    waited = kubectl("wait", "--for=condition=Available", "--timeout=300s", "dpd/sleeper")
    assert "condition met" in waited
    await_ready(kube, [device])
    _assert_columns(kubectl, device)
    described = kubectl("describe", "dp", f"sleeper-{device}")
    for word in ("Agent Connected", "AgentConnected", "ProcessStarted", "Running"):
        assert word in described or word.replace(" ", "") in described
    patch = {"spec": {"template": {"spec": sleeping("2")}}}
    assert "patched" in kubectl("patch", "dpd", "sleeper", "--type=merge", "-p", json.dumps(patch))
    eventually(lambda: _revision(kube, device) == "2", what="the device runs the patched template")
    assert "deleted" in kubectl("delete", "dpd", "sleeper")
    eventually(lambda: kubectl("get", "dp", "-o", "name") == "", what="its processes are gone")


def test_events_are_seen_by_kubectl(kubectl: Kubectl, fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping()))
    await_ready(kube, [device])
    eventually(
        lambda: kubectl("get", "events"),
        lambda printed: all(word in printed for word in ("ProcessStarted", "Healthy", f"sleeper-{device}")),
        what="kubectl get events shows them",
    )
    eventually(
        lambda: kubectl("describe", "dp", f"sleeper-{device}"),
        lambda printed: "ProcessStarted" in printed.partition("Events:")[2],
        what="kubectl describe shows them",
    )
    assert "<unknown>" not in kubectl("describe", "dp", f"sleeper-{device}").partition("Events:")[2]
    sorted_events = json.loads(kubectl("get", "events", "--sort-by=.lastTimestamp", "-o", "json"))["items"]
    times = [(event["lastTimestamp"], event["firstTimestamp"] is not None) for event in sorted_events]
    assert times == sorted(times)
    assert all(last and first for last, first in times)


def test_a_hold_on_a_device_is_shown_by_kubectl_get(kubectl: Kubectl, fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping("1")))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    assert _cells(kubectl, "Held") == _cells(kubectl, "RolledBack") == [""]
    hold = fleet.agent(device).hold_file
    hold.write_text("fans are being changed,\nask the night shift\n")
    eventually(lambda: _cells(kubectl, "Held"), lambda cells: cells == ["True"], what="the hold is seen")
    assert _cells(kubectl, "Hold") == [f"held by {hold}: fans are being changed, ask the night shift"]
    change_template(kube, "sleeper", sleeping("2"))
    steadily(lambda: _revision(kube, device), lambda found: found == "1", what="nothing changes", for_s=2)
    assert kube.processes()[device]["status"]["pid"] == pid
    assert kube.deployment("sleeper")["status"]["reasons"] == {"UpdateHeld": 1}
    hold.unlink()
    eventually(lambda: _revision(kube, device) == "2", what="the change is made")
    eventually(lambda: _cells(kubectl, "Held"), lambda cells: cells == ["False"], what="the release is seen")


def test_kubectl_reports_the_wrong_field_of_a_manifest(kubectl: Kubectl, kube: Kube) -> None:
    bad = deployment("bad", {"execution": {"backend": "magic", "command": ["x"]}})
    with pytest.raises(Exception, match=r"spec\.template\.spec\.execution\.backend"):
        kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(bad))


def _assert_columns(kubectl: Kubectl, device: str) -> None:
    """Check that the tables answer the everyday questions."""
    head, row = kubectl("get", "dpd").splitlines()
    assert {"NAME", "DESIRED", "READY", "AVAILABLE"} <= set(head.upper().replace("-", " ").split())
    assert row.startswith("sleeper")
    head, row = kubectl("get", "dp").splitlines()
    assert {"NAME", "DEVICE", "PHASE", "REVISION", "REASON"} <= set(head.split())
    assert (device in row, "Running" in row) == (True, True)
    (revision,) = _cells(kubectl, "Revision")
    assert kubectl("get", "dp", "-o", "name", "-l", f"azure.com/revision={revision}").split() == [
        f"deviceprocess.azure.com/{row.split()[0]}"
    ]
    head, row = kubectl("get", "nsw").splitlines()
    assert (head.startswith("NAME"), "True" in row) == (True, True)


def _cells(kubectl: Kubectl, column: str) -> list[str]:
    """Return what `kubectl get dp -o wide` shows in a column."""
    head, *rows = kubectl("get", "dp", "-o", "wide").splitlines()
    begin = re.search(rf"(^|\s){column.upper()}(\s|$)", head)
    assert begin is not None, head
    start = head.index(column.upper(), begin.start())
    following = re.compile(r"\S").search(head, start + len(column))
    return [row[start : following.start() if following else None].strip() for row in rows]


def _revision(kube: Kube, device: str) -> str:
    pid = kube.processes()[device].get("status", {}).get("pid")
    try:
        return environment_of(pid).get("REVISION", "") if pid else ""
    except OSError:
        return ""
