# SPDX-License-Identifier: Apache-2.0
"""Time from a changed desired state to the report that its process runs, by backend; what an idle agent then costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from agent_testing import FakeGateway, item, process_spec
from e2e.bench.measure.context import Context, own_environment, progress, until
from e2e.bench.measure.figures import Figure, median_figure
from e2e.bench.measure.proc import cpu_seconds, cpu_seconds_of_ended_children, resident_kib
from e2e.lab import device as systemd_lab
from e2e.lab import sysv
from e2e.lab.agent import PLACE, STATE, await_agent, start_agent
from e2e.lab.device import LabDevice
from e2e.lab.payload import install
from e2e.lab.podman import OPTIONS, PODMAN, made_image, podman
from praetor_agent.backends import procfs
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.core.rollback import GOOD_SECONDS

DAY_S = 86400.0
SETTLE_S = GOOD_SECONDS + 5.0  # until then it still records which versions are good
PROCESSES = 20
MIB = 1024.0


@frozen
class Host:
    """Where an agent runs: its process as seen from here, and what it starts."""

    pid: int
    spec: Mapping[str, Any]


def measure(context: Context) -> tuple[Figure, ...]:
    """For each backend that this machine can run, let an agent start one process after the other, then stay idle."""
    figures: list[Figure] = []
    count = context.size(PROCESSES, 5)
    for backend, choice in BACKENDS.items():
        missing = choice.missing()
        if missing:
            progress(f"no backend {backend}: {missing}")
            continue
        with FakeGateway(token="t") as gateway, choice.host(context.folder(backend), gateway) as host:
            until(lambda gateway=gateway: len(gateway.requests) > 2, "the agent waits")  # type: ignore[misc]
            took = [_start(gateway, host.spec, number) for number in range(count)]
            figures.append(median_figure(f"desired state to ProcessStarted, backend {backend}", took, unit="ms"))
            figures += _idle(context, host.pid, f"{count} processes of the backend {backend}")
    return tuple(figures)


def _start(gateway: FakeGateway, spec: Mapping[str, Any], number: int) -> float:
    began = time.monotonic()
    name = f"p{number}"
    gateway.desire(*(item(f"p{n}", spec) for n in range(number + 1)))
    gateway.wait_for(
        lambda: name in gateway.observations and gateway.observations[name].process_started is True, name, 60
    )
    return (time.monotonic() - began) * 1000


def _idle(context: Context, pid: int, what: str) -> Iterator[Figure]:
    time.sleep(context.size(SETTLE_S, 5.0))
    used, began = _used(pid), time.monotonic()
    time.sleep(context.size(90.0, 15.0))
    share = (_used(pid) - used) / (time.monotonic() - began)
    detail = "heartbeat of 15 s, programs that it runs included"
    yield Figure(what=f"processor time a day, idle, {what}", value=share * DAY_S, unit="s", detail=detail)
    yield Figure(what=f"resident memory, {what}", value=resident_kib(pid) / MIB, unit="MiB")


def _used(pid: int) -> float:
    """Return the processor time of the agent and of the programs that it ran, such as systemctl."""
    return cpu_seconds(pid) + cpu_seconds_of_ended_children(pid)


@contextmanager
def _here(folder: Path, gateway: FakeGateway, *flags: str) -> Iterator[int]:
    """Run an agent on this machine; yield its process id."""
    command = (
        sys.executable, "-m", "praetor_agent", "run", "--device", "leaf-1", "--state-dir", str(folder / "state"),
        "--gateway", gateway.url, "--token", "t", "--start-splay", "0", "--log-level", "error", *flags,
    )  # fmt: skip
    agent = subprocess.Popen(command, env=own_environment())
    try:
        yield agent.pid
    finally:
        agent.kill()
        agent.wait()


@contextmanager
def _process(folder: Path, gateway: FakeGateway) -> Iterator[Host]:
    with _here(folder, gateway) as pid:
        yield Host(pid, process_spec("sleep", "1000"))
    backend = ProcessBackend(folder / "state" / "processes", procfs.boot_id() or "")
    for uid in backend.observe():
        backend.stop(uid, grace_seconds=0, force=True)


@contextmanager
def _container(folder: Path, gateway: FakeGateway) -> Iterator[Host]:
    name = f"localhost/praetor-bench-{os.getpid()}"
    image = made_image(name, folder)
    flags = ("--container-runtime", " ".join(PODMAN), "--container-options", OPTIONS)
    spec = process_spec(
        "/bin/sleep", "1000", execution={"backend": "container"}, artifact={"type": "oci", "url": image}
    )
    try:
        with _here(folder, gateway, *flags) as pid:
            yield Host(pid, spec)
    finally:
        for container in podman("ps", "-aq", "--filter", "label=azure.com/praetor-device=leaf-1").split():
            podman("rm", "-f", "-t", "0", container)
        podman("rmi", "-f", f"{name}:1")


@contextmanager
def _booted(device: LabDevice, state: Path, gateway: FakeGateway, backend: str) -> Iterator[Host]:
    with device:
        start_agent(device, gateway.url, "t")
        await_agent(state, runs=True)
        inside = device.run("pgrep", "-o", "-f", "praetor_agent run").strip()
        yield Host(_outside(device, inside), process_spec("/bin/sleep", "1000", execution={"backend": backend}))


def _outside(device: LabDevice, inside: str) -> int:
    """Return the process id, on this machine, of the device's process *inside*."""
    space = os.readlink(f"/proc/{device.init}/ns/pid")
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            ours = os.readlink(status.with_name("ns") / "pid") == space
            if ours and f"NSpid:\t{status.parent.name}\t{inside}\n" in status.read_text():
                return int(status.parent.name)
        except OSError:
            continue  # it ended meanwhile
    raise LookupError(f"process {inside} of {device.name} is not found here")


def _systemd(folder: Path, gateway: FakeGateway) -> AbstractContextManager[Host]:
    (folder / "state").mkdir()
    shared, kept = {PLACE: install(folder / "payload")}, {STATE: folder / "state"}
    root = systemd_lab.rootfs()
    assert root is not None
    device = LabDevice(f"bench-{os.getpid()}-s", root, workdir=folder, shared=shared, kept=kept)
    return _booted(device, folder / "state", gateway, "systemd")


def _initd(folder: Path, gateway: FakeGateway) -> AbstractContextManager[Host]:
    shared, state = {PLACE: install(folder / "payload")}, folder / "state"
    root = sysv.rootfs()
    assert root is not None
    device = sysv.SysvDevice(f"bench-{os.getpid()}-v", root, workdir=folder, shared=shared, state=(STATE, state))
    return _booted(device, state, gateway, "initd")


def _no_podman() -> str | None:
    missing = [program for program in ("podman", "runc", "busybox") if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "podman is run by root here"
    return f"{', '.join(missing)} not installed" if missing else None


@frozen
class BackendHost:
    """How to run an agent with one backend, and why that is impossible here (None: it is possible)."""

    host: Any
    missing: Any = lambda: None


BACKENDS = {
    "process": BackendHost(_process),
    "systemd": BackendHost(_systemd, lambda: systemd_lab.why_unavailable(systemd_lab.rootfs())),
    "initd": BackendHost(_initd, lambda: sysv.why_unavailable(sysv.rootfs())),
    "container": BackendHost(_container, _no_podman),
}
