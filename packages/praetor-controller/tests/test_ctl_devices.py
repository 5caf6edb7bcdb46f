# SPDX-License-Identifier: Apache-2.0
"""`praetorctl devices`, its options, and the errors of requests that every command shares."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ctl_testing import Lab
from kube_testing import body_of
from praetor_api.kube.client.errors import Forbidden, KubeError, Unreachable, api_error
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICES, EVENTS, LEASES, NETWORK_SWITCHES, Key
from praetor_api.names import DEVICE_BINDINGS, GATEWAY_LEASE
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.cli import main
from praetor_controller.ctl.cluster import Target
from praetor_controller.ctl.commands.devices import DeviceLine, DevicePage, changes, device_line
from praetor_controller.ctl.output import painted, table, wants_colour


def connected(status: str, **rest: Any) -> dict[str, Any]:
    since = "2026-01-01T00:00:00Z"
    return {"conditions": [{"type": "AgentConnected", "status": status, "lastTransitionTime": since}], **rest}


@pytest.fixture
def lab() -> Lab:
    lab = Lab()
    lab.switch(
        "leaf-2",
        {"rack": "r1"},
        spec={"model": "SN4600", "maintenance": {"reason": "new fan", "until": "2026-01-02T00:00:00Z"}},
        status=connected("False", agentVersion="0.1.0", processes={"desired": 2, "running": 1}),
    )
    lab.switch("leaf-1", status=connected("True", processes={}))
    lab.switch("leaf-3", spec={"maintenance": {}}, status=connected("True", processes={"desired": 1}))
    return lab


def test_the_fleet_is_a_table_in_order(lab: Lab) -> None:
    result = lab.run("devices")
    assert result.output.splitlines() == [
        "DEVICE   CONNECTED   SINCE   AGENT   RUNNING   MAINTENANCE                           MODEL",
        "leaf-1   yes         1h      -       -         -                                     -",
        "leaf-2   no          1h      0.1.0   1/2       new fan, until 2026-01-02T00:00:00Z   SN4600",
        "leaf-3   yes         1h      -       0/1       yes                                   -",
    ]


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        pytest.param("2026-01-01T01:00:00Z", None, id="over-in-this-moment"),
        pytest.param("2025-12-31T00:00:00Z", None, id="over-long-ago"),
        pytest.param("2026-01-01T01:00:01Z", "new fan, until 2026-01-01T01:00:01Z", id="not-over-yet"),
    ],
)
def test_maintenance_ends_in_the_table_when_it_ends_for_the_rollout(until: str, expected: str | None) -> None:
    lab = Lab()
    lab.switch("leaf-1", spec={"maintenance": {"reason": "new fan", "until": until}})
    assert json.loads(lab.run("devices", "-o", "json").output)[0]["maintenance"] == expected
    assert ("new fan" in lab.run("devices").output) is (expected is not None)


def test_devices_are_selected_by_label(lab: Lab) -> None:
    assert [line.split()[0] for line in lab.run("devices", "-l", "rack=r1").output.splitlines()] == ["DEVICE", "leaf-2"]


def test_programs_read_the_fleet(lab: Lab) -> None:
    lines = json.loads(lab.run("devices", "-o", "json").output)
    assert lines[1] == {
        "namespace": "lab",
        "device": "leaf-2",
        "connected": False,
        "since": "2026-01-01T00:00:00Z",
        "agentVersion": "0.1.0",
        "running": 1,
        "desired": 2,
        "maintenance": "new fan, until 2026-01-02T00:00:00Z",
        "model": "SN4600",
        "refused": None,
        "address": None,
        "serial": None,
        "kind": "NetworkSwitch",
    }


@pytest.fixture
def kinds(lab: Lab) -> Lab:
    """Return a lab with a DPU and a server, one of which has the name of a switch."""
    for kind, name in ((DeviceKind.DPU, "leaf-1"), (DeviceKind.SERVER, "box-1")):
        lab.put(DEVICES[kind], name, {"labels": {"rack": "r9"}}, spec={}, status=connected("True"))
    return lab


def test_devices_of_other_kinds_are_listed_with_their_kind(kinds: Lab) -> None:
    lines = [line.split()[:2] for line in kinds.run("devices", "-l", "rack=r9").output.splitlines()[1:]]
    assert lines == [["DPU/leaf-1", "yes"], ["Server/box-1", "yes"]]
    assert kinds.run("devices", "-l", "rack=r9", "-o", "name").output.splitlines() == [
        "dpu.azure.com/leaf-1",
        "server.azure.com/box-1",
    ]
    found = json.loads(kinds.run("devices", "-l", "rack=r9", "-o", "json").output)
    assert [(each["kind"], each["device"]) for each in found] == [("DPU", "leaf-1"), ("Server", "box-1")]


@pytest.mark.parametrize("status", [403, 404])
def test_kinds_that_the_cluster_lacks_or_the_user_may_not_read_are_left_out(kinds: Lab, status: int) -> None:
    before = kinds.run("devices", "-l", "rack!=r9").output
    for kind in (DeviceKind.DPU, DeviceKind.SERVER):
        kinds.kube.fail_next(api_error(status, "", "no"), verb="list", resource=DEVICES[kind])
    result = kinds.run("devices")
    assert (result.exit_code, result.output) == (0, before)


@pytest.fixture
def two(lab: Lab) -> Lab:
    """Return a lab with a device in another namespace, too."""
    spec = {"managementAddress": "192.0.2.7", "serialNumber": "S7"}
    asyncio.run(lab.kube.create(NETWORK_SWITCHES, "other", body_of(NETWORK_SWITCHES, "spine-1", spec=spec)))
    return lab


@pytest.mark.parametrize("args", [["devices", "-A"], ["-A", "devices"], ["devices", "--all-namespaces", "-n", "lab"]])
def test_the_devices_of_every_namespace(two: Lab, args: list[str]) -> None:
    rows = [line.split()[:2] for line in two.run(*args).output.splitlines()]
    assert rows == [["NAMESPACE", "DEVICE"], *(["lab", f"leaf-{n}"] for n in (1, 2, 3)), ["other", "spine-1"]]
    found = json.loads(two.run(*args, "-o", "json").output)
    assert [each["namespace"] for each in found] == ["lab", "lab", "lab", "other"]


def test_names_are_for_kubectl(two: Lab) -> None:
    assert two.run("devices", "-n", "other", "-o", "name").output == "networkswitch.azure.com/spine-1\n"
    assert Lab().run("devices", "-o", "name").output == ""


def test_wide_shows_every_column(two: Lab) -> None:
    header, row = two.run("-n", "other", "devices", "-o", "wide").output.splitlines()
    assert header.split()[-3:] == ["MODEL", "ADDRESS", "SERIAL"]
    assert row.split()[-2:] == ["192.0.2.7", "S7"]


async def follow(lab: Lab, everywhere: bool, known: list[DeviceLine]) -> AsyncGenerator[DeviceLine]:
    async with lab.open(Target()) as cluster, aclosing(changes(cluster, known, None, everywhere=everywhere)) as changed:
        async for line in changed:
            yield line


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_watched_device_is_shown_when_its_line_changes_and_when_it_goes(everywhere: bool) -> None:
    lab = Lab()
    switch = await lab.kube.create(NETWORK_SWITCHES, "lab", body_of(NETWORK_SWITCHES, "leaf-1", spec={}))
    known = [
        device_line(switch, lab.clock.now()),
        device_line(body_of(NETWORK_SWITCHES, "went", {"namespace": "lab"}), lab.clock.now()),
    ]
    page = DevicePage(known, "table", everywhere=everywhere, now=lab.clock.now())
    async with aclosing(follow(lab, everywhere, known)) as lines:
        asked = asyncio.ensure_future(anext(lines))
        await lab.clock.advance(1)
        assert ((await asked).device, (await asked).deleted) == ("went", True)
        for namespace, change in (("other", {"model": "X"}), ("lab", {"serialNumber": None}), ("lab", {"model": "Y"})):
            if namespace == "other":
                await lab.kube.create(NETWORK_SWITCHES, namespace, body_of(NETWORK_SWITCHES, "leaf-1", spec=change))
            else:
                await lab.kube.patch(NETWORK_SWITCHES, Key(namespace, "leaf-1"), {"spec": change})
        expected = ["X", "Y"] if everywhere else ["Y"]
        found = [await anext(lines) for _ in expected]
        assert [each.model for each in found] == expected
        assert click.unstyle(page.again(found[-1])).split()[int(everywhere) :] == [
            "leaf-1",
            "unknown",
            "-",
            "-",
            "-",
            "-",
            "Y",
        ]
        assert (
            json.loads(DevicePage([], "json", everywhere=False, now=lab.clock.now()).again(found[-1]))["model"] == "Y"
        )
        await lab.kube.delete(NETWORK_SWITCHES, Key("lab", "leaf-1"))
        last = await anext(lines)
        assert click.unstyle(page.again(last)).split()[int(everywhere) :][:2] == ["leaf-1", "deleted"]


async def test_a_watch_that_is_refused_ends_with_the_reason() -> None:
    lab = Lab()
    lab.kube.fail_next(api_error(403, "Forbidden", "you may not watch"), verb="watch")
    lines = follow(lab, False, [])
    asked = asyncio.ensure_future(anext(lines))
    await lab.clock.advance(1)
    with pytest.raises(Forbidden, match="you may not watch"):
        await asked


def test_a_device_without_a_condition_has_an_unknown_connection() -> None:
    lab = Lab()
    lab.switch("leaf-1")
    assert lab.run("devices").output.splitlines()[1].split() == ["leaf-1", "unknown", "-", "-", "-", "-", "-"]


def test_an_empty_fleet_is_said_on_standard_error() -> None:
    result = Lab().run("devices", "-l", "a=b")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no devices in namespace lab match a=b\n")
    assert Lab().run("devices").stderr == "no devices in namespace lab\n"
    assert json.loads(Lab().run("devices", "-o", "json").stdout) == []


def test_all_pages_are_read(lab: Lab) -> None:
    for number in range(600):
        lab.switch(f"spine-{number}")
    assert len(lab.run("devices").output.splitlines()) == 604


def test_options_say_which_cluster(lab: Lab) -> None:
    lab.run("devices", "--kubeconfig", "file", "--context", "prod", "-n", "fleet")
    lab.run("devices", env={"PRAETOR_CTL_NAMESPACE": "other", "PRAETOR_CTL_OUTPUT": "json"})
    assert lab.asked == [Target(kubeconfig="file", context="prod", namespace="fleet"), Target(namespace="other")]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unreachable("connection refused"), "the cluster is not reachable: connection refused; check --kubeconfig"),
        (api_error(401, "Unauthorized", "no"), "the cluster refuses the credentials"),
        (api_error(403, "Forbidden", "you may not list"), "not allowed: you may not list"),
        (api_error(404, "NotFound", "no such kind"), "not found: no such kind; check the name and --namespace"),
        (api_error(500, "InternalError", "etcd"), "500 InternalError: etcd"),
    ],
)
def test_a_failed_request_is_one_sentence(lab: Lab, error: KubeError, words: str) -> None:
    lab.kube.fail_next(error)
    result = lab.run("devices")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert words in result.stderr


def test_without_a_kubeconfig_the_message_names_the_option(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["devices", "--kubeconfig", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "does not exist; give --kubeconfig or set KUBECONFIG" in result.stderr


def test_a_context_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\nclusters: [{name: x, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
    )
    result = CliRunner().invoke(main, ["--context", "nope", "devices", "--kubeconfig", str(config)])
    assert result.exit_code == 1
    assert result.stderr.endswith("has no context nope; there are: x; choose one with --context\n")


def test_a_cluster_that_is_down_is_no_traceback(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
    )
    result = CliRunner().invoke(main, ["devices", "--kubeconfig", str(config)])
    assert result.exit_code == 1
    assert "the cluster is not reachable" in result.stderr


def test_columns_are_as_wide_as_their_text_not_its_colour() -> None:
    lines = table(("A", "B"), [[("x", "red"), "y"], ["long", "z"]]).splitlines()
    assert lines == ["A      B", painted("x", "red") + "      y", "long   z"]


@pytest.mark.parametrize(
    ("environ", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_for_terminals(environ: dict[str, str], terminal: bool, wanted: bool) -> None:
    assert wants_colour(environ, terminal=terminal) is wanted


SYSTEM = "praetor-system"
BINDINGS = Key(SYSTEM, DEVICE_BINDINGS)


@pytest.fixture
def contested(lab: Lab) -> Lab:
    """Return a lab with a gateway's Lease, in which the namespace other declares leaf-1, too."""
    conflict = {"type": "NameConflict", "status": "True", "reason": "BoundElsewhere", "message": "is another's"}
    lab.patch(NETWORK_SWITCHES, "leaf-1", "status", status={"conditions": [conflict]})

    async def make() -> None:
        await lab.kube.create(LEASES, SYSTEM, body_of(LEASES, GATEWAY_LEASE, spec={}))
        await lab.kube.create(NETWORK_SWITCHES, "other", body_of(NETWORK_SWITCHES, "leaf-1", spec={}))

    asyncio.run(make())
    return lab


def test_a_device_whose_name_another_namespace_has_is_shown_as_a_conflict(contested: Lab) -> None:
    assert contested.run("devices").output.splitlines()[1].split()[:2] == ["leaf-1", "conflict"]
    found = json.loads(contested.run("devices", "-o", "json").output)[0]
    assert found["refused"] == "NameConflict, BoundElsewhere: is another's"


def test_a_transfer_is_written_beside_the_gateways_lease_and_leaves_other_names_alone(contested: Lab) -> None:
    assert contested.run("devices", "transfer", "leaf-1", "--to", "other").output == "leaf-1: belongs to other\n"
    assert contested.kube.objects(CONFIG_MAPS)[BINDINGS]["data"] == {"leaf-1": "other"}
    asyncio.run(contested.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-9": "three"}}))
    assert contested.run("devices", "transfer", "leaf-1", "--to", "lab").exit_code == 0
    assert contested.kube.objects(CONFIG_MAPS)[BINDINGS]["data"] == {"leaf-1": "lab", "leaf-9": "three"}


def test_a_transfer_to_another_kind_names_it_where_the_namespace_has_several(contested: Lab) -> None:
    contested.put(DEVICES[DeviceKind.DPU], "leaf-1", spec={})
    result = contested.run("devices", "transfer", "leaf-1", "--to", "lab")
    assert (result.exit_code, "lab has leaf-1 as NetworkSwitch and as DPU; write --kind DPU" in result.stderr) == (
        1,
        True,
    )
    assert contested.kube.objects(CONFIG_MAPS) == {}
    result = contested.run("devices", "transfer", "leaf-1", "--to", "lab", "--kind", "dpu")
    assert result.output == "leaf-1: belongs to lab, as DPU\n"
    assert contested.kube.objects(CONFIG_MAPS)[BINDINGS]["data"] == {"leaf-1": "lab/DPU"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["leaf-1", "--to", "three"], "three has no device leaf-1; declare the device there first"),
        (["leaf-1", "--to", "other", "--kind", "DPU"], "other has no DPU leaf-1; declare the device there first"),
        (["leaf-1", "--to", "other", "--gateway-namespace", "one"], "no gateway has its Lease in one; give its"),
    ],
)
def test_a_transfer_that_nothing_would_follow_is_refused(contested: Lab, args: list[str], words: str) -> None:
    result = contested.run("devices", "transfer", *args)
    assert (result.exit_code, words in result.stderr) == (1, True)
    assert contested.kube.objects(CONFIG_MAPS) == {}


@pytest.mark.parametrize("over", [False, True])
def test_a_storm_is_said_until_it_is_over(lab: Lab, over: bool) -> None:
    reasons = {"ManyAgentsSilent": "2026-01-01T00:30:00.000000Z"} | (
        {"StormOver": "2026-01-01T00:40:00.000000Z"} if over else {}
    )
    for reason, at in reasons.items():
        regarding = {"kind": "NetworkSwitch", "name": "leaf-1", "namespace": "lab", "apiVersion": "azure.com/v1alpha1"}
        lab.put(
            EVENTS, reason.lower(), reason=reason, eventTime=at, action="JudgeLiveness", type="Warning",
            note="40 devices of site a fell silent at once", regarding=regarding,
            reportingController="praetor-gateway", reportingInstance="g",
        )  # fmt: skip
    assert ("fell silent at once" in lab.run("devices").stderr) is not over
