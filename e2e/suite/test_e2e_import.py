# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices import` on a live fleet: devices come, move and go with the file, and so do their processes."""

from __future__ import annotations

from e2e.stack.ctl import Ctl
from e2e.stack.kube import SWITCHES, Kube, condition
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import is_alive
from e2e.suite.workloads import prompt


def test_an_imported_fleet_runs_what_its_labels_select_until_the_file_lacks_it(
    stack: Stack, kube: Kube, fleet: AgentFleet
) -> None:
    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    first, second = (f"{kube.namespace}-{number}" for number in (1, 2))
    header, rows = "Name;Role;IP Address\r\n", {each: f"{each};leaf;10.0.0.1/24\r\n" for each in (first, second)}
    inventory = "\ufeff" + header + "".join(rows.values())
    words = ("devices", "import", "-")

    assert "2 to create" in ctl(*words, text=inventory)
    assert kube.list(SWITCHES) == ()
    assert ctl(*words, "--yes", text=inventory).endswith("2 created\n")
    for device in (first, second):
        fleet.power_on(device)
        fleet.await_connected(device)
    kube.apply(deployment("sleeper", prompt(), match={"role": "leaf"}))
    pids = {name: process["status"]["pid"] for name, process in await_ready(kube, [first, second]).items()}

    assert ctl(*words, "--yes", text=inventory).endswith("nothing to write\n")
    kube.patch(SWITCHES, first, {"metadata": {"labels": {"role": "spine"}}})
    refused = ctl.run(*words, "--yes", text=inventory)
    assert (refused.returncode, f"conflict {first}: role is spine, the file has leaf" in refused.stdout) == (3, True)
    assert f"update {first}: role spine -> leaf" in ctl(*words, "--yes", "--force-conflicts", text=inventory)
    assert condition(kube.switch(first), "AgentConnected") == "True"

    await_ready(kube, [first, second])
    assert ctl(*words, "--yes", "--prune", text=header + rows[first]).endswith("1 deleted\n")
    eventually(lambda: not is_alive(pids[second]), what="its process ended on the device")
    assert [each["metadata"]["name"] for each in kube.list(SWITCHES)] == [first]
