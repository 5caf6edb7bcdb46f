# SPDX-License-Identifier: Apache-2.0
"""One deployment on devices that have little in common: what each runs is what `praetorctl render` says."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.lab import debian, sysv
from e2e.lab.agent import PLACE, STATE, start_agent
from e2e.lab.device import LabDevice
from e2e.lab.payload import install
from e2e.lab.podman import OPTIONS, PODMAN, kept_in_storage, made_image, podman
from e2e.lab.requirements import lacking, required
from e2e.stack.ctl import Ctl
from e2e.stack.kube import Kube, Object
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.delivered import put_config_map, put_secret, reading_gateway
from e2e.suite.readiness import is_ready
from e2e.suite.running import argv_of, environment_of
from e2e.suite.site import served

pytestmark = pytest.mark.lab

LABEL = "azure.com/praetor-device"
NASTY = 'it\'s "50 %" of $HOME, $(NAME), \\n; `true` && {} ~ *'  # a unit cannot carry control characters
PROGRAM = """#!/bin/sh
show() { read -r line < "$PRAETOR_FILES/etc/limits"; echo "$1 $line"; }
trap 'show reloaded' HUP
show "CPU started"
while :; do sleep 0.2; done
"""


def value(kind: str, name: str, key: str) -> Object:
    return {f"{kind}KeyRef": {"name": name, "key": key}}


ADDED = {
    "systemd": {
        "PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID",
    },
    "sysv": {"PATH", "PRAETOR_PROCESS_DIR", "PRAETOR_PROCESS_UID"},
    "podman": {"PATH", "HOME", "HOSTNAME", "TERM", "container"},
}  # fmt: skip
"""The variables that the backend of each init system adds."""
PROGRAMS = {"d12": "x86", "d11": "arm", "sysv": "arm", "host": "image"}
"""The program that runs in the end on each device, by its first word."""
TEMPLATE = {
    "backend": "process",
    "command": ["/bin/sh", "./tool"],
    "args": ["--name=$(NAME)", "--level=$(LEVEL)", "--price=$$(NAME)", "--other=$(OTHER)"],
    "env": [
        {"name": "NAME", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LEVEL", "valueFrom": value("configMap", "settings", "level")},
        {"name": "LOGIN", "valueFrom": value("secret", "login", "user")},
        {"name": "PASSWORD", "valueFrom": value("secret", "keys", "password")},
        {"name": "ACCOUNT", "value": "$(LOGIN):$(PASSWORD)@$(NAME)"},
    ],
    "expandVariables": True,
    "files": [
        {"path": "etc/limits", "configMapKeyRef": {"name": "settings", "key": "limits"}, "onChange": "Signal"},
        {"path": "etc/key", "secretKeyRef": {"name": "keys", "key": "key"}, "onChange": "None"},
    ],
    "terminationGracePeriodSeconds": 1,
}


@dataclass
class Device:
    """A device of the mixed fleet, with the init system that the deployment is to use on it."""

    name: str
    labels: dict[str, str]
    booted: LabDevice | None = None

    def words(self, pid: int, of: str) -> tuple[str, ...]:
        """Return the words of /proc/PID/*of*, where the process runs."""
        if self.booted is not None:
            return self.booted.words(f"/proc/{pid}/{of}")
        return argv_of(pid) if of == "cmdline" else tuple(map("=".join, environment_of(pid).items()))

    def file(self, pid: int, path: str) -> tuple[str, bytes]:
        """Return the mode and the bytes of a file below the process's own directory, as it sees it."""
        folder = dict(word.partition("=")[::2] for word in self.words(pid, "environ"))["PRAETOR_FILES"]
        script = 'stat -L -c %a "$1" && base64 -w0 "$1"'
        where = f"/proc/{pid}/root{folder}/{path}"
        if self.booted is not None:
            printed = self.booted.run("/bin/sh", "-c", script, "sh", where)
            mode, _, text = printed.partition("\n")
            return mode, base64.b64decode(text)
        return f"{Path(where).stat().st_mode & 0o777:o}", Path(where).read_bytes()


@pytest.fixture
def gateway(stack: Stack, kube: Kube, api: RawApi) -> Iterator[Server]:
    """The only gateway, which may read ConfigMaps and Secrets of the test's namespace."""
    with reading_gateway(stack, kube, api) as server:
        yield server


@pytest.fixture
def fleet(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, gateway: Server, tmp_path: Path
) -> Iterator[dict[str, Device]]:
    """Debian 12 and 11 with systemd, a device with SysV init, a host with podman, and one that is too old."""
    for suite in ("bookworm", "bullseye"):
        if missing := debian.why_unavailable(suite):
            pytest.skip(missing)  # a release moves to an archive some day, and then it cannot be fetched
    if not all(map(shutil.which, ("podman", "runc", "busybox"))):
        lacking(request, "needs podman, runc and busybox-static")
    sysv_root = required(request, sysv.rootfs(), sysv.why_unavailable(sysv.rootfs()))
    payload = install(tmp_path / "payload")
    for package in payload.iterdir():  # the distribution has its own requests
        if not package.name.startswith("praetor_"):
            shutil.rmtree(package)
    url = stack.url_of(gateway)
    fleet = {
        role: Device(f"{kube.namespace}-{role}", {"init": init} | ({"cpu": cpu} if cpu else {}))
        for role, init, cpu in (
            ("d12", "systemd", "x86"), ("d11", "systemd", "arm"), ("d10", "systemd", "arm"),
            ("sysv", "sysv", "arm"), ("host", "podman", ""),
        )
    }  # fmt: skip
    for device in fleet.values():
        kube.apply(network_switch(device.name, device.labels))
    with ExitStack() as opened:
        for role, suite in (("d12", "bookworm"), ("d11", "bullseye"), ("d10", "bullseye")):
            root, folder, name = debian.rootfs(suite), tmp_path / role, fleet[role].name
            assert root is not None
            folder.mkdir()
            booted = LabDevice(name, root, workdir=folder, shared={PLACE: payload}, apart=True)
            fleet[role].booted = opened.enter_context(booted)
        old = fleet["d10"].booted
        assert old is not None
        old.run("rm", "/etc/os-release")
        old.write("/etc/os-release", 'ID=debian\nVERSION_ID="10"\nPRETTY_NAME="Debian GNU/Linux 10 (buster)"\n')
        folder = tmp_path / "sysv"
        folder.mkdir()
        shared = {PLACE: install(tmp_path / "whole")}
        late = sysv.SysvDevice(
            fleet["sysv"].name, sysv_root, workdir=folder, shared=shared, state=(STATE, folder / "state")
        )
        fleet["sysv"].booted = opened.enter_context(late)
        for each in fleet.values():
            if each.booted is not None:
                start_agent(each.booted, url, stack.token(each.name))
        host = fleet["host"].name
        runtime = {"PRAETOR_AGENT_CONTAINER_RUNTIME": " ".join(PODMAN), "PRAETOR_AGENT_CONTAINER_OPTIONS": OPTIONS}
        stack.add_agent(host, gateway=gateway, variables=runtime)
        try:
            yield fleet
        finally:
            stack.remove_agents([host])
            for container in podman("ps", "-aq", "--filter", f"label={LABEL}={host}").split():
                podman("rm", "-f", "-t", "0", container)


def published(site: Path, url: str, cpu: str) -> Object:
    """Publish the program for *cpu*; return its artifact."""
    path = site / cpu / "tool"
    path.parent.mkdir()
    path.write_text(PROGRAM.replace("CPU", cpu))
    return {
        "type": "http", "url": f"{url}/{cpu}/tool", "checksumSHA256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip


def pids_of(kube: Kube) -> dict[str, int]:
    return {name: process["status"].get("pid") for name, process in kube.processes().items() if "status" in process}


def last_lines(fleet: dict[str, Device]) -> dict[str, str]:
    """Return the last line that the process of each device printed."""
    lines = {}
    for role in PROGRAMS:
        device = fleet[role]
        if device.booted is not None:
            command = f"PYTHONPATH={PLACE} python3 -m praetor_agent logs tool-{device.name} --state-dir {STATE} || true"
            printed = device.booted.run("/bin/sh", "-c", command)
        else:
            containers = podman("ps", "-q", "--filter", f"label={LABEL}={device.name}").split()
            printed = podman("logs", containers[0]) if containers else ""
        lines[role] = (printed.splitlines() or [""])[-1]
    return lines


def files_with(device: LabDevice, secret: dict[str, str]) -> dict[str, str]:
    """Return the modes of the files, by path, that hold one of the secrets in plain, or that systemd shows."""
    patterns = "\n".join(secret.values())
    script = (
        'grep -rlF -e "$1" /etc /var /run /tmp /root /usr/local 2>/dev/null | xargs -r stat -c "%a %n"; '
        "systemctl show 'praetor*' 2>/dev/null | grep -qF -e \"$1\" && echo '644 systemctl show' || true"
    )
    printed = device.run("/bin/sh", "-c", script, "sh", patterns)
    return {path: mode for mode, _, path in (line.partition(" ") for line in printed.splitlines())}


def test_each_device_runs_what_render_says_and_one_that_is_too_old_keeps_what_it_has(
    fleet: dict[str, Device], stack: Stack, kube: Kube, api: RawApi, tmp_path: Path
) -> None:
    secret = {name: f"{name}-{secrets.token_hex(8)}" for name in ("user", "password", "key")}
    put_config_map(api, kube, level=NASTY, limits="one\n")
    put_secret(api, kube, user=secret["user"].encode())
    key = secret["key"].encode() + bytes(range(256))
    put_secret(api, kube, "keys", password=secret["password"].encode(), key=key)
    image = made_image(f"localhost/{kube.namespace}", tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    new = [device.name for role, device in fleet.items() if role != "d10"]
    old = fleet["d10"]
    with served(site) as url:
        artifacts = {cpu: published(site, url, cpu) for cpu in ("x86", "arm")}
        kube.apply(deployment("tool", process_spec(["/bin/sh"], execution={"args": ["-c", "sleep infinity & wait"]})))
        every = {device.name for device in fleet.values()}
        eventually(
            lambda: {name for name, process in kube.processes().items() if is_ready(process)},
            lambda ready: ready == every,
            what="every device runs the first version",
        )
        before = pids_of(kube)

        container = {"backend": "container", "command": ["/bin/sh", "-c", PROGRAM.replace("CPU", "image"), "tool"]}
        oci = {"type": "oci", "url": image}
        body = deployment("tool", {"execution": TEMPLATE}, max_unavailable="100%")
        body["spec"] |= {
            "overrides": [
                {"selector": {"matchLabels": {"init": "podman"}}, "artifact": oci, "execution": container},
                *({"selector": {"matchLabels": {"cpu": cpu}}, "artifact": each} for cpu, each in artifacts.items()),
                {"selector": {"matchLabels": {"init": "systemd"}}, "execution": {"backend": "systemd"}},
                {"selector": {"matchLabels": {"init": "sysv"}}, "execution": {"backend": "initd"}},
            ],
            "requirements": [{"fact": "os.version", "operator": "Ge", "values": ["11"]}],
        }
        kube.apply(body)
        eventually(
            lambda: kube.deployment("tool").get("status", {}).get("reasons"),
            lambda reasons: reasons == {"UpToDate": 4, "RequirementNotMet": 1},
            what="the device that is too old is the only one that waits",
        )
        eventually(
            lambda: {name: is_ready(kube.processes()[name]) for name in new},
            lambda ready: all(ready.values()),
            what="the other devices run the new version",
        )
        pids = pids_of(kube)
        assert pids[old.name] == before[old.name]
        assert old.words(before[old.name], "cmdline")[-1] == "sleep infinity & wait"
        assert "os.version 10" in Ctl(stack.cluster.kubeconfig, kube.namespace)("explain", old.name)

        rendered = {name: Ctl(stack.cluster.kubeconfig, kube.namespace).read("render", "tool", name) for name in new}
        for device in (fleet[role] for role in fleet if role != "d10"):
            pid, said = pids[device.name], rendered[device.name]
            assert device.words(pid, "cmdline") == (*said["command"], *said["args"])
            environment = dict(word.partition("=")[::2] for word in device.words(pid, "environ"))
            account = f"{secret['user']}:{secret['password']}@{device.name}"
            hidden = {"LOGIN": secret["user"], "PASSWORD": secret["password"], "ACCOUNT": account}
            own = {"PRAETOR_FILES": environment["PRAETOR_FILES"]}
            assert said["env"] | hidden | own == {
                name: value for name, value in environment.items() if name not in ADDED[device.labels["init"]]
            }
            assert said["env"].keys() == {"NAME", "LEVEL", *hidden, *own}
            assert said["env"]["PRAETOR_FILES"] == "<PRAETOR_FILES>"
            (limits,) = (file for file in said["files"] if file["path"] == "etc/limits")
            assert device.file(pid, "etc/limits") == (limits["mode"].lstrip("0"), limits["content"].encode())
            assert device.file(pid, "etc/key") == ("600", key)
            assert not [each for each in secret.values() if each in str(said)]
        started = {role: f"{cpu} started one" for role, cpu in PROGRAMS.items()}
        eventually(lambda: last_lines(fleet), lambda said: said == started, what="each runs the program of its CPU")

        began = time.monotonic()
        put_config_map(api, kube, limits="two\n")
        told = dict.fromkeys(PROGRAMS, "reloaded two")
        eventually(lambda: last_lines(fleet), lambda said: said == told, what="each is told of the changed ConfigMap")
        print(
            f"devices with three init systems were told of a changed ConfigMap {time.monotonic() - began:.1f} s later"
        )
        assert {name: pid for name, pid in pids_of(kube).items() if name in new} == {name: pids[name] for name in new}
        for role, device in fleet.items():
            if device.booted is not None:
                found = files_with(device.booted, secret)
                assert set(found.values()) <= {"600"}, found
                assert bool(found) == (role != "d10")
        kept = kept_in_storage(secret.values())
        assert kept, "podman keeps what it starts a container with"
        assert not [path for path, is_open in kept.items() if is_open], kept
        home = stack.agents[fleet["host"].name].home
        words = [each.encode() for each in secret.values()]
        held = {path for path in home.rglob("*") if path.is_file() and any(each in path.read_bytes() for each in words)}
        assert held
        assert {path.stat().st_mode & 0o777 for path in held} <= {0o600}, held
