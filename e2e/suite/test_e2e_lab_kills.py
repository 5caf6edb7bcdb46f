# SPDX-License-Identifier: Apache-2.0
"""The agent killed, and the device's power cut, at random moments on real devices: what is desired runs in the end.

Whatever the moment: never two instances of a process, never an artifact that is not whole, a state that can be read,
jobs run once, and what was running is not restarted for it. `--agent-kills` and `--power-cuts` make it a longer loop.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from e2e.lab import disk as disks
from e2e.lab import sysv
from e2e.lab.agent import PLACE, STATE, await_agent, kill_agent, start_agent
from e2e.lab.canary_process import PLACE as SEEN
from e2e.lab.canary_process import CanaryLog, files_of, write_archive
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.disk import Disk
from e2e.lab.payload import install
from e2e.lab.podman import OPTIONS, PODMAN, busybox, podman
from e2e.lab.registry import PROGRAM, push_runnable, serving
from e2e.lab.requirements import required
from e2e.stack.kube import PROCESSES, Kube, Object, condition
from e2e.stack.manifests import device_process, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import is_ready, phase
from e2e.suite.site import served
from praetor_agent.state import JsonFile

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

WORST_MOMENT_S = 0.8
KILLS_A_CHANGE = 3
PAUSE_S = 0.005
SLEEP = ("sleep", "100000")
BACKENDS = {"systemd": ("systemd", "process"), "sysv": ("initd", "process")}


class KillTarget(ABC):
    """A device with a process of each of its backends, a job, and one that comes and goes."""

    backends: tuple[str, ...]
    slowness = 1
    """It gets one kill in that many, so that all devices are done at a time."""

    def __init__(self, name: str, state: Path, folder: Path, kube: Kube) -> None:
        self.name = name
        self.state = state
        self.canary = CanaryLog(folder)
        self._kube = kube

    @abstractmethod
    def start(self) -> None:
        """Start the agent; returns when it is at work."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the agent."""

    @abstractmethod
    def spec(self, words: Sequence[str], backend: str, revision: str) -> Object:
        """Return the spec of the canary process with *words*, out of an artifact of that revision."""

    @abstractmethod
    def check_definitions(self, revision: int) -> None:
        """Check that init or runtime has a definition of what lasts, and none of what is gone."""

    def desire(self, revision: int) -> None:
        """Ask for *revision* of everything; the process `guest` is there for every other one only."""
        for backend in self.backends:
            self._apply(f"{backend}", str(revision), backend)
            self._apply(f"job-{backend}", str(revision), backend, ("true",), restartPolicy="Never")
            if revision % 2:
                self._apply(f"guest-{backend}", str(revision), backend)
            elif revision:
                self._kube.delete(PROCESSES, f"{self.name}-guest-{backend}")

    def desire_bystanders(self) -> None:
        """Ask for processes that never change."""
        for backend in self.backends:
            self._apply(f"still-{backend}", "0", backend)

    def settle(self, revision: int) -> None:
        """Wait until *revision* of everything runs or has run."""
        for backend in self.backends:
            for name in (f"{backend}", f"still-{backend}"):
                eventually(lambda name=name: is_ready(self._process(name)), what=f"{name} runs")  # type: ignore[misc]
            eventually(lambda backend=backend: self._ended(f"job-{backend}"), what="the job ended")  # type: ignore[misc]
        lasting = sorted(self.lasting(revision))
        eventually(self.present, lambda found: found == lasting, what=f"{', '.join(lasting)} run, and nothing else")

    def lasting(self, revision: int) -> list[str]:
        """Return the names of what runs for good when *revision* is desired."""
        kinds = ("", "still-", *(("guest-",) if revision % 2 else ()))
        return [f"{kind}{backend}" for kind in kinds for backend in self.backends]

    def present(self) -> list[str]:
        """Return the names of what lives, asked of the processes themselves."""
        locks = (path.stem for path in self.canary.folder.glob("*.lock"))
        return sorted(name for name in locks if self.canary.lives(name))

    def check(self, revision: int, *, boots: int) -> None:
        """Check what the device has become once *revision* is settled, after it was switched on *boots* times."""
        assert self.canary.wrong() == []
        assert self.present() == sorted(self.lasting(revision))
        started = self.canary.started()
        for (name, at), times in started.items():
            assert times <= (1 if name.startswith("job-") else boots), f"{name} {at} was started {times} times"
        for backend in self.backends:
            assert started[f"still-{backend}", "0"] == boots
            assert started[backend, str(revision)] >= 1
            lost = self._process(f"job-{backend}")["status"].get("lastTerminationReason") == "Lost"
            assert started[f"job-{backend}", str(revision)] == 1 or (lost and boots > 1)
        for name in ("desired.json", "memory.json"):
            assert JsonFile(self.state / name).load() is not None, f"{name} cannot be read"
        entries = (entry for entry in (self.state / "artifacts").iterdir() if not entry.name.startswith("."))
        assert all((entry / "READY").is_file() for entry in entries)
        self.check_definitions(revision)

    def _apply(self, name: str, revision: str, backend: str, become: Sequence[str] = SLEEP, **more: object) -> None:
        body = {**self.spec([name, revision, SEEN, *become], backend, revision), **more}
        self._kube.apply(device_process(f"{self.name}-{name}", self.name, body))

    def _process(self, name: str) -> Object:
        return self._kube.process(f"{self.name}-{name}")

    def _ended(self, name: str) -> bool:
        process = self._process(name)
        current = process["status"]["observedGeneration"] >= process["metadata"]["generation"]
        lost = process["status"].get("lastTerminationReason") == "Lost"  # so it is unknown whether it ran
        return current and (phase(process) == "Succeeded" or lost) and condition(process, "SpecObserved") == "True"


class Booted(KillTarget):
    """A device of its own init system, on a disk of its own."""

    def __init__(self, init: str, root: Path, folder: Path, kube: Kube, stack: Stack, site: tuple[Path, str]) -> None:
        self.backends = BACKENDS[init]
        self.disk = Disk(folder / f"disk-{init}")
        self._stack, self._site, self._etc = stack, site, root / "etc"
        super().__init__(f"{kube.namespace}-{init}", self.disk.place / "state", folder / f"canary-{init}", kube)
        kept = {"/etc": self.disk.place / "etc", STATE: self.state, SEEN: self.canary.folder}
        self.device = LabDevice(self.name, root, workdir=folder, shared={PLACE: folder / "payload"}, kept=kept)

    def prepare(self) -> None:
        """Put on the disk what the device boots from."""
        shutil.copytree(self._etc, self.disk.place / "etc", symlinks=True)
        self.state.mkdir()
        os.sync()
        self._kube.apply(network_switch(self.name))

    def start(self) -> None:
        start_agent(self.device, self._stack.gateway_url, self._stack.token(self.name), log=f"{SEEN}/agent.log")
        await_agent(self.state, runs=True)

    def kill(self) -> None:
        kill_agent(self.device)
        await_agent(self.state, runs=False)

    def cut_power(self) -> None:
        """Switch the device and its disk off, and on again; the agent is not started."""
        self.device.pull_the_plug()  # first, or what still runs would see a broken disk
        self.disk.cut_power()
        self.disk.restore_power()
        self.device.power_on()

    def spec(self, words: Sequence[str], backend: str, revision: str) -> Object:
        folder, url = self._site
        archive, checksum = write_archive(folder, revision)
        execution = {"args": list(words), "terminationGracePeriodSeconds": 5}
        artifact = {"type": "http", "url": f"{url}/{archive}", "checksumSHA256": checksum}
        return process_spec(["bin/run"], backend=backend, execution=execution, artifact=artifact)

    def check_definitions(self, revision: int) -> None:
        lasting = sum(not name.endswith("process") for name in self.lasting(revision))
        eventually(
            self._definitions,
            lambda found: [len(each) for each in found] == [lasting, lasting],
            what="each service is defined once, and for the next boot, its version being proven",
        )

    def _definitions(self) -> tuple[list[Path], list[Path]]:
        """Return the definitions of services, and those that init starts at boot."""
        etc = self.disk.place / "etc"
        if "systemd" in self.backends:
            begun = list((etc / "systemd/system/multi-user.target.wants").glob("praetor-*"))
            known = [path for path in (etc / "systemd/system").glob("praetor-*") if "-job-" not in path.name]
        else:
            begun = list((etc / "rc2.d").glob("S*praetor-*"))
            known = [path for path in (etc / "init.d").glob("praetor-*") if "-job-" not in path.name]
        return known, begun


class WithPodman(KillTarget):
    """This machine, whose podman cannot pull what the agent can: from a registry without TLS."""

    backends = ("container",)
    slowness = 2

    def __init__(self, folder: Path, kube: Kube, stack: Stack, host: str) -> None:
        name = f"{kube.namespace}-podman"
        super().__init__(name, stack.workdir / "devices" / name / "state", folder / "canary-podman", kube)
        self._stack, self._host = stack, host
        self._images: dict[str, str] = {}
        kube.apply(network_switch(name))

    def start(self) -> None:
        if self.name in self._stack.agents:
            self._stack.agents[self.name].program.start()
        else:
            settings = {
                "CONTAINER_RUNTIME": " ".join(PODMAN),
                "CONTAINER_OPTIONS": f"{OPTIONS} --volume {self.canary.folder}:{SEEN}",
                "INSECURE_REGISTRY": self._host,
            }
            self._stack.add_agent(
                self.name, variables={f"PRAETOR_AGENT_{name}": value for name, value in settings.items()}
            )
        await_agent(self.state, runs=True)

    def kill(self) -> None:
        self._stack.agents[self.name].program.kill()

    def spec(self, words: Sequence[str], backend: str, revision: str) -> Object:
        if revision not in self._images:
            files = {f"app/{name}": content for name, content in files_of(revision).items()}
            self._images[revision] = push_runnable(self._host, busybox(), files)
        execution = {"args": list(words), "terminationGracePeriodSeconds": 5}
        artifact = {"type": "oci", "url": self._images[revision]}
        return process_spec(["/bin/sh", "/app/bin/run"], backend=backend, execution=execution, artifact=artifact)

    def check_definitions(self, revision: int) -> None:
        assert len(self._containers()) == len(self.lasting(revision)), self._containers()

    def close(self) -> None:
        """Remove everything from this machine."""
        self._stack.remove_agents([self.name] if self.name in self._stack.agents else [])
        for container in self._containers("--all"):
            podman("rm", "-f", "-t", "0", container)
        for reference in self._images.values():
            with suppress(subprocess.CalledProcessError):  # not every revision was loaded
                podman("rmi", "-f", f"localhost/praetor-image:{reference.rpartition(':')[2]}")

    def _containers(self, *flags: str) -> list[str]:
        return podman("ps", "-q", *flags, "--filter", f"label=azure.com/praetor-device={self.name}").split()


def why_no_podman() -> str | None:
    missing = [program for program in ("podman", "runc", "busybox", PROGRAM) if shutil.which(program) is None]
    return f"{', '.join(missing)} not installed" if missing else None


@pytest.fixture
def targets(request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path) -> Iterator[list[KillTarget]]:
    """A device of each init system, and one that has podman."""
    systemd = required(request, rootfs(), why_unavailable(rootfs()) or disks.why_unavailable() or why_no_podman())
    plain = required(request, sysv.rootfs(), sysv.why_unavailable(sysv.rootfs()))
    install(tmp_path / "payload")
    (tmp_path / "site").mkdir()
    with ExitStack() as opened:
        site = (tmp_path / "site", opened.enter_context(served(tmp_path / "site", pause=PAUSE_S)))
        found = [
            Booted(init, root, tmp_path, kube, stack, site) for init, root in (("systemd", systemd), ("sysv", plain))
        ]
        for target in found:
            opened.enter_context(target.disk)
            target.prepare()
        pool = opened.enter_context(ThreadPoolExecutor())
        for booted in pool.map(lambda target: opened.enter_context(target.device), found):
            assert booted.init
        contained = WithPodman(tmp_path, kube, stack, opened.enter_context(serving(tmp_path)))
        opened.callback(contained.close)
        yield [*found, contained]


def test_processes_survive_killed_agents_and_power_cuts_at_random_moments(
    targets: list[KillTarget], pytestconfig: pytest.Config
) -> None:
    kills, cuts = (pytestconfig.getoption(option) for option in ("agent_kills", "power_cuts"))
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # pytest shows it only when the test fails
    with ThreadPoolExecutor() as pool:
        scenarios = [
            pool.submit(_scenario, target, kills // target.slowness, cuts, random.Random(seed))  # noqa: S311
            for target in targets
        ]
        for scenario in scenarios:
            scenario.result()


def _scenario(target: KillTarget, kills: int, cuts: int, chance: random.Random) -> None:
    target.desire_bystanders()
    target.desire(0)
    target.start()
    target.settle(0)
    revision = 0
    while kills > 0:
        revision += 1
        target.desire(revision)
        for _ in range(min(kills, KILLS_A_CHANGE)):
            time.sleep(chance.uniform(0, WORST_MOMENT_S))
            target.kill()
            target.start()
        kills -= KILLS_A_CHANGE
        target.settle(revision)
        target.check(revision, boots=1)
    for number in range(cuts if isinstance(target, Booted) else 0):
        assert isinstance(target, Booted)
        revision += 1
        target.desire(revision)
        time.sleep(chance.uniform(0, 2 * WORST_MOMENT_S))
        target.cut_power()
        target.start()
        target.settle(revision)
        target.check(revision, boots=number + 2)
