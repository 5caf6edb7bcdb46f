# SPDX-License-Identifier: Apache-2.0
"""Every backend on the real thing: what /proc on the device says of a process is what its spec says, byte for byte."""

from __future__ import annotations

import json
import os
import random
import shutil
from base64 import b64decode
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import pytest

from e2e.lab import busybox, sysv
from e2e.lab.agent import PLACE, STATE, kill_agent, start_agent
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.errors import LabError
from e2e.lab.limits import Limits, limits_of, rlimits_of
from e2e.lab.payload import install
from e2e.lab.podman import OPTIONS, PODMAN, made_image, podman
from e2e.lab.requirements import lacking, required
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, conditions
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import await_ready, is_ready
from e2e.suite.running import argv_of, directory_of, environment_of, user_of
from e2e.suite.workloads import probed

pytestmark = pytest.mark.lab

ADDED = {"PATH", "PRAETOR_PROCESS_UID", "PRAETOR_PROCESS_DIR"}
BY_SYSTEMD = {"HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LOGNAME", "SHELL", "SYSTEMD_EXEC_PID", "USER"}
LABEL = "azure.com/praetor-device"
SCRIPT = "sleep 100000 & wait"
RESOURCES = {"memory": "64Mi", "cpu": "500m", "tasks": 32}
LIMITS = Limits(memory=64 * 2**20, cpu=0.5, tasks=32)
PIECES = (
    "$HOME", "$(id)", "`id`", "%n", "%%", ";", "&&", "|", "'", '"', "\\", "\\n", "-", "--", "@", "+", "!", ":", "#",
    "*", "?", "~", "{a,b}", "[x]", "=", " ", "  ", "\t", "\n", "\r", "\x1b[0m", "\x7f", "é", "日本", "<", ">", "^",
)  # fmt: skip


def nasty(count: int) -> list[str]:
    """Return strings that break code which interprets them; the same ones each time.

    None is empty: apply of Kubernetes 1.20 takes an empty string in a list for null, and refuses it.
    """
    chance = random.Random(7)  # noqa: S311 - no secret
    return ["".join(chance.choices(PIECES, k=chance.randrange(1, 6))) for _ in range(count)]


@pytest.fixture
def device(request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path) -> Iterator[LabDevice]:
    """A booted SysV device with an agent."""
    root = required(request, sysv.rootfs(), sysv.why_unavailable(sysv.rootfs()))
    name = f"{kube.namespace}-v"
    kube.apply(network_switch(name))
    shared = {PLACE: install(tmp_path / "payload")}
    with sysv.SysvDevice(name, root, workdir=tmp_path, shared=shared, state=(STATE, tmp_path / "state")) as booted:
        booted.open_control_groups()
        start_agent(booted, stack.gateway_url, stack.token(name))
        yield booted


def spec_of(backend: str, words: Sequence[str]) -> Object:
    env = [{"name": f"V{number}", "value": word} for number, word in enumerate(words)]
    execution = {
        "args": ["-c", SCRIPT, "sh", *words], "env": env, "workingDir": "/var/tmp", "user": "nobody",
        "terminationGracePeriodSeconds": 5, "resources": RESOURCES,
    }  # fmt: skip
    return process_spec(["/bin/sh"], backend=backend, execution=execution)


def pid_of(kube: Kube, device: LabDevice, backend: str) -> int:
    process = eventually(lambda: kube.process(f"{backend}-{device.name}"), is_ready, what=f"{backend} is ready")
    return int(process["status"]["pid"])


def words_of(device: LabDevice, path: str) -> tuple[str, ...]:
    """Return the words of a file in /proc; in base64, for text loses carriage returns."""
    return tuple(b64decode(device.run("base64", "-w0", path)).decode().split("\0")[:-1])


def assert_as_specified(device: LabDevice, pid: int, words: Sequence[str], added: Set[str] = ADDED) -> None:
    assert words_of(device, f"/proc/{pid}/cmdline") == ("/bin/sh", "-c", SCRIPT, "sh", *words)
    environment = dict(word.split("=", 1) for word in words_of(device, f"/proc/{pid}/environ"))
    assert {name: environment[name] for name in environment.keys() - added} == {
        f"V{number}": word for number, word in enumerate(words)
    }
    assert device.run("readlink", f"/proc/{pid}/cwd").strip() == "/var/tmp"
    assert device.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "nobody"


def assert_limited(kube: Kube, device: LabDevice, backend: str, pid: int) -> None:
    """Check that the kernel limits the process as its spec says, or that its status says that nothing does.

    Control groups limit it; what it may have as a process, its rlimits, is what its agent may have.
    """
    process = kube.process(f"{backend}-{device.name}")
    warning = str(conditions(process).get("SpecWarning", {}).get("message", ""))
    missing = {resource for resource in RESOURCES if resource in warning}
    expected = Limits(**{name: None if name in missing else getattr(LIMITS, name) for name in RESOURCES})
    assert limits_of(device.read, pid) == expected, warning
    agent = int(device.run("pgrep", "-o", "-f", "praetor_agent run"))
    assert rlimits_of(device.read, pid) == rlimits_of(device.read, agent)
    writable = device.run("sh", "-c", "test -w /sys/fs/cgroup/memory -o -w /sys/fs/cgroup/cgroup.procs; echo $?")
    assert (missing == set()) == (writable == "0\n"), warning


def test_init_scripts_and_processes_get_what_the_spec_says_and_outlive_agent_and_power(
    device: LabDevice, stack: Stack, kube: Kube
) -> None:
    words = nasty(200)
    for backend in ("initd", "process"):
        kube.apply(deployment(backend, spec_of(backend, words)))
    pids = {backend: pid_of(kube, device, backend) for backend in ("initd", "process")}
    for backend, pid in pids.items():
        assert_as_specified(device, pid, words)
        assert_limited(kube, device, backend, pid)
    (script,) = device.run("sh", "-c", "ls -d /etc/init.d/praetor-initd-*").split()
    assert f"process {pids['initd']}" in device.run(script, "status")
    eventually(
        lambda: device.run("sh", "-c", f"ls /etc/rc2.d/S*{Path(script).name} || true").split(),
        lambda links: len(links) == 1,
        what="its version is proven, so init starts it at boot",
    )

    kill_agent(device)
    start_agent(device, stack.gateway_url, stack.token(device.name))
    kube.apply(deployment("probe", process_spec(["/bin/sleep", "infinity"])))
    eventually(lambda: is_ready(kube.process(f"probe-{device.name}")), what="the new agent is at work")
    for backend, pid in pids.items():
        assert kube.process(f"{backend}-{device.name}")["status"]["pid"] == pid
        assert_as_specified(device, pid, words)

    device.pull_the_plug()
    device.power_on()  # and start no agent
    printed = eventually(
        lambda: device.run("/bin/sh", "-c", f"{script} status; true"),
        lambda said: " runs, process " in said,
        what="init has started it",
    )
    pid = int(printed.split()[-1])
    eventually(
        lambda: words_of(device, f"/proc/{pid}/cmdline")[0] == "/bin/sh", what="our stage gave way to the program"
    )
    assert_as_specified(device, pid, words)
    start_agent(device, stack.gateway_url, stack.token(device.name))
    eventually(lambda: kube.process(f"initd-{device.name}")["status"].get("pid") == pid, what="the agent has found it")
    assert device.run("pgrep", "-c", "-f", SCRIPT).strip() == "2", "one of each backend, and no more"

    kube.delete(DEPLOYMENTS, "initd")
    eventually(
        lambda: device.run("sh", "-c", "ls /etc/init.d /etc/rc?.d | grep -c praetor-initd || true") == "0\n",
        what="nothing is left",
    )
    eventually(lambda: device.run("sh", "-c", f"test ! -e /proc/{pid}; echo $?") == "0\n", what="its process is gone")


def test_an_init_script_comes_up_by_itself_under_the_init_of_busybox(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    root = required(request, sysv.rootfs(), busybox.why_unavailable(sysv.rootfs()))
    name, words, shared = f"{kube.namespace}-b", nasty(50), {PLACE: install(tmp_path / "payload")}
    kube.apply(network_switch(name))
    with busybox.BusyboxDevice(
        name, root, workdir=tmp_path, shared=shared, state=(STATE, tmp_path / "state")
    ) as device:
        assert "BusyBox" in device.run("/bin/sh", "-c", "/sbin/init --help 2>&1")
        start_agent(device, stack.gateway_url, stack.token(name))
        kube.apply(deployment("initd", spec_of("initd", words)))
        assert_as_specified(device, pid_of(kube, device, "initd"), words)
        (link,) = eventually(
            lambda: device.run("sh", "-c", "ls -d /etc/init.d/S95praetor-initd-* || true").split(),
            what="its version is proven, so init starts it at boot",
        )

        device.pull_the_plug()
        device.power_on()  # and start no agent
        pid = int(device.run(link, "status").split()[-1])
        assert_as_specified(device, pid, words)
        start_agent(device, stack.gateway_url, stack.token(name))
        eventually(lambda: kube.process(f"initd-{name}")["status"].get("pid") == pid, what="the agent has found it")
        kube.delete(DEPLOYMENTS, "initd")
        eventually(lambda: "praetor-" not in device.run("ls", "/etc/init.d"), what="nothing is left")


def test_units_get_what_the_spec_says(request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path) -> None:
    root = required(request, rootfs(), why_unavailable(rootfs()))
    words = [word for word in nasty(400) if word.isprintable()][:200]
    name = f"{kube.namespace}-u"
    kube.apply(network_switch(name))
    with LabDevice(name, root, workdir=tmp_path, shared={PLACE: install(tmp_path / "payload")}) as device:
        device.open_control_groups()
        start_agent(device, stack.gateway_url, stack.token(name))
        kube.apply(deployment("systemd", spec_of("systemd", words)))
        pid = pid_of(kube, device, "systemd")
        assert_as_specified(device, pid, words, ADDED | BY_SYSTEMD)
        (unit,) = device.units("praetor-*.service")
        limits = device.unit(unit, "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "NoNewPrivileges")
        assert limits == {
            "MemoryMax": str(64 * 2**20), "CPUQuotaPerSecUSec": "500ms", "TasksMax": "32", "NoNewPrivileges": "yes"
        }  # fmt: skip
        assert "NoNewPrivs:\t1" in device.read(f"/proc/{pid}/status").splitlines()
        files = device.unit(unit, "LimitNOFILESoft", "LimitNOFILE")
        soft, hard = rlimits_of(device.read, pid)["Max open files"]
        most = int(rlimits_of(device.read, 1)["Max open files"][1])  # systemd gives no more than it has
        assert (soft, int(hard)) == (files["LimitNOFILESoft"], min(most, int(files["LimitNOFILE"])))
        if not device.unit(unit, "ControlGroup")["ControlGroup"] or unit not in memory_group(device, pid):
            pytest.skip("systemd on this device is not let to limit memory: its control groups are read-only")
        assert limits_of(device.read, pid) == LIMITS


def test_containers_get_what_the_spec_says(
    request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("podman", "runc", "busybox"))):
        lacking(request, "needs root, podman, runc and busybox-static")
    name, words = f"{kube.namespace}-c", [word for word in nasty(400) if not {"\n", "\r"} & set(word)][:200]
    image = made_image(f"localhost/{name}", tmp_path)
    kube.apply(network_switch(name))
    stack.add_agent(
        name,
        variables={"PRAETOR_AGENT_CONTAINER_RUNTIME": " ".join(PODMAN), "PRAETOR_AGENT_CONTAINER_OPTIONS": OPTIONS},
    )
    try:
        spec = spec_of("container", words)
        spec["execution"] |= {"workingDir": "/tmp"}
        spec["artifact"] = {"type": "oci", "url": image}
        spec["healthCheck"] = probed(["/bin/test", "-e", "/only-in-the-image"])
        kube.apply(deployment("container", spec))
        pid = int(await_ready(kube, [name])[name]["status"]["pid"])
        assert argv_of(pid) == ("/bin/sh", "-c", SCRIPT, "sh", *words)
        environment = environment_of(pid)
        assert {key: value for key, value in environment.items() if key[0] == "V"} == {
            f"V{n}": word for n, word in enumerate(words)
        }
        assert (directory_of(pid), user_of(pid)) == (Path("/tmp"), 65534)
        (shown,) = json.loads(
            podman("container", "inspect", *podman("ps", "-q", "--filter", f"label={LABEL}={name}").split())
        )
        host = shown["HostConfig"]
        assert (host["Memory"], host["PidsLimit"], host["NetworkMode"]) == (64 * 2**20, 32, "host")
        assert host["CpuQuota"] / host["CpuPeriod"] == 0.5
        assert limits_of(read_here, pid) == LIMITS
        assert rlimits_of(read_here, pid)["Max open files"] == ("1024", "1024")
        kube.delete(DEPLOYMENTS, "container")
        eventually(lambda: podman("ps", "-aq", "--filter", f"label={LABEL}={name}") == "", what="the container is gone")
    finally:
        stack.remove_agents([name])
        for container in podman("ps", "-aq", "--filter", f"label={LABEL}={name}").split():
            podman("rm", "-f", "-t", "0", container)
        podman("rmi", "-f", f"localhost/{name}:1")


def memory_group(device: LabDevice, pid: int) -> str:
    """Return the control group that counts the memory of *pid*; that of all controllers in version 2."""
    lines = device.read(f"/proc/{pid}/cgroup").splitlines()
    groups = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}
    return groups.get("memory", groups.get("", ""))


def read_here(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
