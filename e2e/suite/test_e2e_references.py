# SPDX-License-Identifier: Apache-2.0
"""Values of ConfigMaps and Secrets on devices, and a rollout whose values are not there."""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import yaml
from contract.rawapi import RawApi

from e2e.clusters.cluster import Capability
from e2e.demo.playground import BLOCK
from e2e.release.build import ROOT
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, accepted, conditions
from e2e.stack.manifests import deployment
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually, steadily
from e2e.suite.delivered import put_config_map, put_secret, reading_gateway
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import argv_of, environment_of, is_alive, output_of
from e2e.suite.workloads import probed, shell
from secret_forms import forms, shown_in

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

LEVEL = {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}
STEADY_S = 3.0


@pytest.fixture
def gateway(stack: Stack, kube: Kube, api: RawApi) -> Iterator[Server]:
    with reading_gateway(stack, kube, api) as server:
        yield server


def power_on(fleet: AgentFleet, gateway: Server, count: int) -> list[str]:
    devices = [fleet.declare() for _ in range(count)]
    for device in devices:
        fleet.power_on(device, gateway)
    for device in devices:
        fleet.await_connected(device)
    return devices


def test_processes_start_with_values_of_a_config_map_and_say_when_it_changed(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server
) -> None:
    put_config_map(api, kube, level="info")
    (device,) = power_on(fleet, gateway, 1)
    spec = shell("sleep infinity & wait", "--level=$(LEVEL)")
    spec["execution"] |= {"env": [LEVEL], "expandVariables": True}
    kube.apply(deployment("agent", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    assert (environment_of(pid)["LEVEL"], argv_of(pid)[-1]) == ("info", "--level=info")

    began = time.monotonic()
    put_config_map(api, kube, level="debug")
    eventually(
        lambda: conditions(kube.processes()[device]).get("ValuesOutdated", {}).get("status"),
        lambda status: status == "True",
        what="the process says that it runs with the older value",
    )
    print(f"a changed ConfigMap was shown as ValuesOutdated after {time.monotonic() - began:.2f} s")
    assert is_alive(pid)
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": {"restartedAt": "2026-01-31T12:00:00Z"}}}})
    eventually(
        lambda: kube.processes()[device]["status"].get("pid"),
        lambda new: new not in (None, pid) and environment_of(new)["LEVEL"] == "debug",
        what="a restart gives it the new one",
    )


def test_a_rollout_offers_no_device_but_the_first_what_the_namespace_lacks(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server
) -> None:
    devices = power_on(fleet, gateway, 3)
    kube.apply(deployment("agent", shell("sleep infinity & wait", "old"), max_unavailable=1))
    ready = await_ready(kube, devices)
    pids = {device: ready[device]["status"]["pid"] for device in devices}
    spec = shell("sleep infinity & wait", "--level=$(LEVEL)")
    spec["execution"] |= {"env": [LEVEL], "expandVariables": True}
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": spec}}})

    def reasons() -> dict[str, int]:
        found: dict[str, int] = kube.deployment("agent").get("status", {}).get("reasons") or {}
        return found

    eventually(reasons, lambda found: found == {"ReferenceMissing": 3}, what="the rollout says what is missing")
    steadily(reasons, lambda found: found == {"ReferenceMissing": 3}, for_s=STEADY_S, what="and stays so")
    refer = [each for each in kube.processes().values() if "env" in each["spec"]["execution"]]
    assert len(refer) == 1
    assert conditions(refer[0])["UpdateHeld"]["message"].startswith("ReferenceMissing(configmap/settings key level): ")
    assert all(map(is_alive, pids.values()))

    put_config_map(api, kube, level="info")
    after = eventually(
        lambda: {device: process["status"].get("pid") for device, process in kube.processes().items()},
        lambda found: all(found.get(name) not in (None, pid) for name, pid in pids.items()),
        what="all devices have the new version",
    )
    await_ready(kube, devices)
    assert {argv_of(pid)[-1] for pid in after.values() if pid} == {"--level=info"}


def by_key(path: str, key: str, on_change: str = "Restart", **more: object) -> Object:
    return {"path": path, "configMapKeyRef": {"name": "settings", "key": key, **more}, "onChange": on_change}


def test_programs_are_told_of_new_contents_within_a_second(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server, tmp_path: Path
) -> None:
    put_config_map(api, kube, told="one", seen="one")
    (device,) = power_on(fleet, gateway, 1)
    out = tmp_path / "out"
    spec = shell(
        f'show() {{ cd "$PRAETOR_FILES"; for f in told seen opt; do cat $f || echo -; echo; done > {out}.new; '
        f"mv {out}.new {out}; }}; trap show HUP; show; while :; do sleep 0.05; done"
    )
    optional = by_key("opt", "opt", "Signal", optional=True)
    spec["execution"]["files"] = [
        by_key("told", "told", "Signal"),
        by_key("seen", "seen", "None"),
        optional,
    ]
    kube.apply(deployment("agent", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]

    def shown() -> list[str]:
        return [line for line in out.read_text().splitlines() if line] if out.exists() else []

    eventually(shown, ["one", "one", "-"].__eq__, what="the program has its files")
    took = []
    for turn, value in enumerate(("two", "three", "four", "five", "six")):
        began = time.monotonic()
        put_config_map(api, kube, told=value, seen=value, opt="here")
        eventually(shown, [value, value, "here"].__eq__, what=f"it was told of change {turn}")
        took.append(time.monotonic() - began)
    print("a changed ConfigMap was read by the program after", ", ".join(f"{each * 1000:.0f} ms" for each in took))
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps/settings"
    accepted(api.patch(path, {"data": {"opt": None}}))
    eventually(shown, ["six", "six", "-"].__eq__, what="it was told that a file is gone")
    assert kube.processes()[device]["status"]["pid"] == pid
    accepted(api.patch(path, {"data": {"told": None}}))
    eventually(
        lambda: conditions(kube.processes()[device]).get("UpdateHeld", {}).get("message", ""),
        lambda said: said.startswith("ReferenceMissing(configmap/settings key told): "),
        what="the process is held while its namespace lacks a key",
    )
    assert is_alive(pid)
    accepted(api.patch(path, {"data": {"told": "seven"}}))
    eventually(shown, lambda lines: lines[:1] == ["seven"], what="it goes on by itself")
    assert kube.processes()[device]["status"]["pid"] == pid
    kube.delete(DEPLOYMENTS, "agent")
    own = fleet.agent(device).state_dir / "files"
    eventually(lambda: [*own.rglob("*")], lambda found: not found, what="its files are gone with it")


def test_a_content_that_restarts_processes_is_rolled_out_in_waves(
    fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack, gateway: Server
) -> None:
    put_config_map(api, kube, level="one")
    first, other = (fleet.declare(labels={"wave": wave}) for wave in ("first", "other"))
    for device in (first, other):
        fleet.power_on(device, gateway)
        fleet.await_connected(device)
    spec = shell("sleep infinity & wait")
    spec["execution"]["files"] = [by_key("level", "level")]
    waves = [
        {"name": "first", "selector": {"matchLabels": {"wave": "first"}}},
        {"name": "others", "approval": "Manual"},
    ]
    kube.apply(deployment("agent", spec))
    ready = await_ready(kube, [first, other])
    pids = {device: ready[device]["status"]["pid"] for device in ready}
    files = {device: Path(environment_of(pid)["PRAETOR_FILES"]) / "level" for device, pid in pids.items()}
    rolling = {"maxUnavailable": 1, "waves": waves}
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}})
    began = time.monotonic()
    put_config_map(api, kube, level="two")
    eventually(files[first].read_text, "two".__eq__, what="the first wave has the new content")
    print(f"a changed content restarted the first wave after {time.monotonic() - began:.2f} s")
    assert not is_alive(pids[first])
    eventually(
        lambda: conditions(kube.processes()[other]).get("ValuesOutdated", {}).get("status"),
        lambda status: status == "True",
        what="the other process says that a new content waits",
    )
    assert (is_alive(pids[other]), files[other].read_text()) == (True, "one")
    os.kill(pids[other], signal.SIGKILL)
    again = eventually(
        lambda: kube.processes()[other]["status"].get("pid"),
        lambda pid: pid not in (None, pids[other]) and is_alive(pid),
        what="what dies meanwhile starts again",
    )
    assert files[other].read_text() == "one"
    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    eventually(
        lambda: (kube.deployment("agent").get("status") or {}).get("reasons", {}),
        lambda reasons: "WaitingForApproval" in str(reasons) or "WaitingForWave" in str(reasons),
        what="the other wave waits",
    )
    ctl("rollout", "approve", "agent")
    eventually(files[other].read_text, "two".__eq__, what="the approved wave has the new content")
    assert not is_alive(again)
    assert "approved" not in json.dumps(kube.deployment("agent")["spec"])


def test_the_example_of_the_page_is_told_of_its_new_content(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server
) -> None:
    blocks = [text for language, text in BLOCK.findall((ROOT / "docs" / "files.md").read_text("utf-8"))]
    (given,) = [list(yaml.safe_load_all(text)) for text in blocks if "kind: ConfigMap" in text]
    config_map, wanted = given
    accepted(api.post(f"/api/v1/namespaces/{kube.namespace}/configmaps", config_map))
    device = fleet.declare(labels={"role": "leaf"})
    fleet.power_on(device, gateway)
    kube.apply(wanted)
    process = await_ready(kube, [device])[device]
    output = partial(output_of, fleet.agent(device), process["metadata"]["name"])
    eventually(output, "listen is 9100\n".__eq__, what="the program prints its file")
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps/exporter"
    accepted(api.patch(path, {"data": {"exporter.conf": "listen 9200"}}))
    eventually(output, "listen is 9100\nlisten is 9200\n".__eq__, what="and the new content")


PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
KINDS = (
    "apis/azure.com/v1alpha1/{}/networkswitches",
    "apis/azure.com/v1alpha1/{}/deviceprocesses",
    "apis/azure.com/v1alpha1/{}/deviceprocessdeployments",
    "apis/apps/v1/{}/controllerrevisions",
    "apis/events.k8s.io/v1/{}/events",
    "apis/coordination.k8s.io/v1/{}/leases",
    "api/v1/{}/configmaps",
)
DIGESTS = "api/v1/namespaces/{}/configmaps/praetor-file-digests"


def forms_of(kube: Kube, value: bytes) -> frozenset[bytes]:
    """Return what could stand for *value* of the Secret, or for what holds it, without being it."""
    sources = (f"secret/{name} key {key}" for name in ("login", "restarts") for key in ("password", "image"))
    digested = (b"\0".join((b"content", kube.namespace.encode(), each.encode(), value)) for each in sources)
    return forms(value, b"PASSWORD=" + value, b'{"PASSWORD":"%b"}' % value, *digested)


@pytest.fixture
def decisions(stack: Stack) -> Iterator[Path]:
    """Return the file in which a controller records its decisions, in place of that of the other tests."""
    stack.controller.program.terminate()
    file = stack.workdir / "decisions"
    server = stack.new_controller("controller-recording", f"--record={file}", "--log-level=debug")
    server.start()
    yield file
    server.program.stop()


def test_a_secret_is_in_the_process_and_in_files_of_the_agents_user_alone(
    fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack, gateway: Server, decisions: Path
) -> None:
    marker = f"hunter2-{secrets.token_hex(8)}"
    image = secrets.token_bytes(24)  # no text
    found = forms_of(kube, marker.encode()) | forms_of(kube, image)
    put_secret(api, kube, password=marker.encode(), image=image)
    put_secret(api, kube, "restarts", password=marker.encode())
    (device,) = power_on(fleet, gateway, 1)
    spec = shell("trap : HUP; while :; do sleep 0.1; done", "--of=$(USER_NAME)")
    url = {"name": "URL", "value": "https://u:$(PASSWORD)@host"}
    env = [PASSWORD, url, {"name": "USER_NAME", "value": "u"}]
    files = [
        {"path": "etc/password", "secretKeyRef": {"name": "login", "key": "password"}, "onChange": "Signal"},
        {"path": "etc/image", "secretKeyRef": {"name": "login", "key": "image"}, "mode": "0400"},
        {"path": "etc/approved", "secretKeyRef": {"name": "restarts", "key": "password"}, "onChange": "Restart"},
    ]
    spec["execution"] |= {"env": env, "expandVariables": True, "files": files}
    kube.apply(deployment("agent", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    own = Path(environment_of(pid)["PRAETOR_FILES"]) / "etc"
    assert ((own / "password").read_text(), (own / "image").read_bytes()) == (marker, image)
    environment = environment_of(pid)
    assert (environment["PASSWORD"], environment["URL"]) == (marker, f"https://u:{marker}@host")

    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    manifest = json.dumps(deployment("agent", spec | {"restartPolicy": "OnFailure"}))
    said = {
        "render": ctl("render", "agent", device),
        "explain": ctl("explain", device),
        "plan": ctl("plan", "-f", "-", text=manifest),
        "agent status": json.dumps(fleet.agent(device).status()),
        "metrics": gateway.metrics(),
    }
    assert "(of secret/login key password)" in said["render"]
    assert "from: secret/login key image" in said["render"]
    gone = [{**files[0], "path": "etc/other"}]
    other = spec | {"execution": spec["execution"] | {"files": gone}}
    said["plan of files"] = ctl("plan", "-f", "-", text=json.dumps(deployment("agent", other)))
    assert "file etc/other: is new: mode 0600, from secret/login key password" in said["plan of files"]

    def look(when: str) -> None:
        namespaces = (kube.namespace, stack.settings.system_namespace)
        for collection in (kind.format(f"namespaces/{namespace}") for kind in KINDS for namespace in namespaces):
            said[f"{collection} {when}"] = json.dumps(accepted(api.get(f"/{collection}")))
        said[f"metrics {when}"] = gateway.metrics()

    eventually(
        lambda: json.dumps(accepted(api.get(f"/{DIGESTS.format(stack.settings.system_namespace)}"))),
        lambda text: "secret/restarts key password" in text,
        what="the gateways say which contents there are",
    )
    look("before the rotation")
    assert [name for name, text in said.items() if "approved" in text and "deviceprocesses" in name]
    put_secret(api, kube, password=b"another")
    eventually(
        lambda: conditions(kube.processes()[device]).get("ValuesOutdated", {}).get("status"),
        lambda status: status == "True",
        what="the process says that it runs with the older value",
    )
    look("after the rotation")
    said["decisions"] = eventually(decisions.read_text, lambda text: device in text, what="decisions are recorded")
    said["replay"] = ctl("replay", str(decisions))
    shown = {name: seen for name, text in said.items() if (seen := shown_in(text, found))}
    assert not shown
    arguments = [each.read_bytes() for each in Path("/proc").glob("[0-9]*/cmdline") if _readable(each)]
    assert not [each for each in arguments if shown_in(each, found)]
    kept = kept_in(stack.workdir, found)
    assert kept, "the agent keeps what it starts processes with"
    state = fleet.agent(device).state_dir
    assert all(mode in (0o600, 0o400) and each.is_relative_to(state) for each, mode in kept.items())
    assert {each.name for each in kept} >= {"desired.json", "memory.json", "image"}
    eventually(lambda: (own / "password").read_text(), "another".__eq__, what="the program's file has the new value")
    kube.delete(DEPLOYMENTS, "agent")
    # not rglob(), which fails where a folder goes while it looks
    left = partial(os.walk, own.parent)
    eventually(lambda: [*chain.from_iterable(each[1] + each[2] for each in left())], [].__eq__, what="they go")
    eventually(lambda: kept_in(stack.workdir, found), lambda kept: not kept, what="nothing of it is left on the device")


def kept_in(folder: Path, looked_for: frozenset[bytes]) -> dict[Path, int]:
    """Return the permissions of the files below *folder* that hold one of the forms *looked_for*."""
    kept = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # one that was replaced meanwhile
            if path.is_file() and shown_in(path.read_bytes(), looked_for):
                kept[path] = stat.S_IMODE(path.stat().st_mode)
    return kept


def test_a_program_and_a_probe_that_print_a_secret_as_they_fail_show_it_in_no_object(
    fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack, gateway: Server
) -> None:
    marker = f"hunter2-{secrets.token_hex(8)}"
    found = forms_of(kube, marker.encode())
    put_secret(api, kube, password=marker.encode())
    (device,) = power_on(fleet, gateway, 1)
    spec = shell('ulimit -c 0; echo "it is $PASSWORD" >&2; trap "kill -SEGV $$" TERM; sleep infinity & wait')
    spec["execution"]["env"] = [PASSWORD]
    spec["healthCheck"] = probed(["/bin/sh", "-c", 'echo "not $PASSWORD"; exit 3'])
    kube.apply(deployment("agent", spec))
    process = eventually(
        lambda: kube.processes().get(device, {}),
        lambda process: "health check failed" in json.dumps(conditions(process)) if process else False,
        what="the probe fails",
    )
    assert "exit status 3: not ***" in json.dumps(conditions(process))
    os.kill(process["status"]["pid"], signal.SIGTERM)
    tail = eventually(
        lambda: kube.processes()[device]["status"].get("outputTail"), bool, what="the output of the crash is shown"
    )
    assert tail == "it is ***\n"
    said = {kind: json.dumps(accepted(api.get(f"/{kind.format(f'namespaces/{kube.namespace}')}"))) for kind in KINDS}
    said["agent status"] = json.dumps(fleet.agent(device).status())
    said["log"] = fleet.agent(device).program.log.read_text() + gateway.program.log.read_text()
    assert "it is ***" in said["agent status"]
    assert not {name: seen for name, text in said.items() if (seen := shown_in(text, found))}


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_a_secret_in_an_argument_is_an_invalid_spec(fleet: AgentFleet, kube: Kube, gateway: Server) -> None:
    power_on(fleet, gateway, 1)
    spec = shell("sleep infinity & wait", "--password=$(PASSWORD)")
    spec["execution"] |= {"env": [PASSWORD], "expandVariables": True}
    kube.apply(deployment("agent", spec))
    eventually(
        lambda: conditions(kube.deployment("agent")).get("Progressing", {}),
        lambda said: said.get("reason") == "InvalidSpec" and "args[3] names the secret" in said.get("message", ""),
        what="the deployment says that its arguments would show a Secret",
    )
    assert kube.processes() == {}
