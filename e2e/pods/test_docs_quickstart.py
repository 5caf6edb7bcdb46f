# SPDX-License-Identifier: Apache-2.0
"""docs/quickstart.md, run as printed: built files, a cluster with a kubelet, and two devices that boot.

It runs before the tests of Pods, on a cluster that has nothing of Praetor, and leaves it so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path

import pytest
from attrs import evolve, field, frozen, mutable

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.clusters.remote import PodCluster
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.requirements import required
from e2e.pods.newer import newer, newer_chart, newer_zipapp
from e2e.release.build import ROOT
from e2e.release.chart import package
from e2e.release.images import REGISTRY, Image
from e2e.release.manifests import Object
from e2e.release.release import write_requirements
from e2e.release.version import Release
from e2e.release.zipapp import build_zipapp
from e2e.stack.waiting import eventually

PAGE = ROOT / "docs" / "quickstart.md"
BLOCK = re.compile(r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.yaml)\n")
EXPORT = re.compile(r"^export (\w+)=\S+ +#", re.MULTILINE)
LAST = "Uninstall"
DEVICES = ("leaf-1", "leaf-2")
PROCESS = "/bin/sleep infinity"
MINUTES = 10
CLUSTER_COMMANDS = 8
STEP_S = 1800  # a slow machine fails by what it measures, not by this
NOT_OURS = ("PYTHON", "PRAETOR", "VIRTUAL", "HATCH", "KUBE")
"""Variables of this process with which a command could find what is not built and installed."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STEP = 'touch "$0"; . "$0"; set -euo pipefail; eval "$1"; export -p >"$0"'
SHELL = """\
#!/bin/sh
# what ssh root@DEVICE COMMAND does, on a device without an sshd
device=${{1#root@}}; shift
exec nsenter -t "$(cat {folder}/$device.init)" -m -u -i -p -- \\
  /usr/bin/env -i HOME=/root PATH={path} /bin/sh -c "cd /root && $*"
"""
COPY = """\
#!/bin/sh
# what scp -q FILE root@DEVICE: does
[ "$1" = -q ] && [ $# = 3 ] && exec {folder}/ssh "${{3%:}}" "cat >${{2##*/}}" <"$2"
"""
COUNTED = '#!/bin/sh\necho "{name} $*" >>{log}\nexec {command} "$@"\n'
CHANGES_BY_ITSELF = ("/var/log/", "/var/cache/", "/var/lib/systemd/", "/tmp/", "/run/", "/proc/", "/sys/", "/dev/")


@frozen
class Step:
    """Commands of a part of the page, and what the page says they print, None where it does not say."""

    part: str
    commands: str
    printed: str | None


def steps() -> Iterator[Step]:
    """Yield the commands of the page in order, without those that say what is where."""
    part, found = "", list(BLOCK.finditer(PAGE.read_text(encoding="utf-8")))
    for number, block in enumerate(found):
        part = block["heading"] or part
        if block["language"] == "sh" and not EXPORT.search(block["text"]):
            following = found[number + 1] if number + 1 < len(found) else None
            printed = following["text"] if following and following["language"] == "" else None
            yield Step(part, block["text"], printed)


@mutable
class Place:
    """Where a user follows the page: a folder with the built files, and commands that reach cluster and devices."""

    folder: Path
    devices: Mapping[str, LabDevice]
    node: PodCluster
    variables: dict[str, str] = field(factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """What the reader says of their place, by the names of the page."""
        path = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
        address = self.kubectl("get", "nodes", f"--output={path}")
        return {"REGISTRY": REGISTRY, "GATEWAY": f"http://{address}:30080", "NEXT": str(self.folder / "newer")}

    def prepare(self, image: Image) -> None:
        """Put the built files there, those of a newer release beside them, and the commands on the PATH."""
        files, later, programs = (self.folder / name for name in ("files", "newer", "bin"))
        for each in (files, later, programs):
            each.mkdir()
        wheels = [path for name in ("api", "controller", "agent") for path in ROOT.glob(f"dist/praetor_{name}-*.whl")]
        chart = package(files)
        agent = build_zipapp(ROOT, [path for path in wheels if "controller" not in path.name], files)
        ours = [path for path in wheels if "agent" not in path.name]
        for path in ours:
            (files / path.name).write_bytes(path.read_bytes())
        release = Release(wheel="praetor-controller", version=image.version)
        write_requirements(release, ROOT, ours, files / f"{release.stem}.txt")
        newer_chart(chart, later)
        newer_zipapp(agent, later)
        for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
            if named := NAMED.match(block["text"] or ""):
                (files / named[1]).write_text(block["text"], encoding="utf-8")
        self._write_programs(programs)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        path_variable = f"{programs}:{Path(sys.base_prefix, 'bin')}:{PATH}"
        self.variables = kept | self.named | {"KUBECONFIG": str(self.node.kubeconfig), "PATH": path_variable}

    def run(self, step: Step) -> str:
        """Run the commands of *step* as printed, in a shell that knows what earlier ones exported."""
        done = subprocess.run(
            ["bash", "-c", STEP, str(self.folder / "exported"), step.commands],
            cwd=self.folder / "files",
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        assert done.returncode == 0, f"{step.commands}\n{done.stdout}"
        return done.stdout

    def cluster_commands(self) -> list[str]:
        """Return the calls of kubectl and helm so far."""
        log = self.folder / "calls"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def kubectl(self, *words: str) -> str:
        """Return what kubectl prints to the test itself."""
        return output_of([str(self.node.kubectl), f"--kubeconfig={self.node.kubeconfig}", *words], timeout_s=STEP_S)

    def items(self, *words: str) -> list[Object]:
        """Return the objects that `kubectl get` with *words* lists."""
        found: list[Object] = json.loads(self.kubectl("get", *words, "--output=json"))["items"]
        return found

    def objects(self) -> set[str]:
        """Return every object of the cluster but events, and the kinds that it serves."""
        kinds = list(self.kubectl("api-resources", "--verbs=list", "--output=name").split())
        columns = "--output=custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name"
        asked = ",".join(name for name in kinds if not name.startswith("events"))
        return {*kinds, *self.kubectl("get", asked, "--all-namespaces", "--no-headers", columns).splitlines()}

    def _write_programs(self, folder: Path) -> None:
        for name, device in self.devices.items():
            (folder / f"{name}.init").write_text(str(device.init), encoding="utf-8")
        helm = f"env PYTHONPATH={os.pathsep.join(sys.path)} {sys.executable} -W ignore -m e2e.pods.helm"
        log = self.folder / "calls"
        for name, text in {
            "ssh": SHELL.format(folder=folder, path=PATH),
            "scp": COPY.format(folder=folder),
            "kubectl": COUNTED.format(name="kubectl", log=log, command=self.node.kubectl),
            "helm": COUNTED.format(name="helm", log=log, command=helm),
        }.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)


@pytest.fixture
def place(
    request: pytest.FixtureRequest, node: PodCluster, tmp_path: Path, progress: Callable[[str], None]
) -> Iterator[Place]:
    """Two devices that are up, and the built files; the node has the images."""
    root = required(request, rootfs(), why_unavailable(rootfs()))
    image = request.getfixturevalue("images")["controller"]
    progress("booting two devices")
    with ExitStack() as opened:
        devices = {name: opened.enter_context(LabDevice(name, root, workdir=tmp_path, apart=True)) for name in DEVICES}
        place = Place(tmp_path, devices, node)
        place.prepare(image)
        yield place


def test_the_quick_start_does_what_it_says_and_leaves_nothing(place: Place, progress: Callable[[str], None]) -> None:
    assert set(EXPORT.findall(PAGE.read_text(encoding="utf-8"))) == place.named.keys()
    before = all_of(place)
    spent: dict[str, float] = {}
    try:
        follow(place, spent)
    except BaseException:
        for step in steps():
            if step.part == LAST:
                with suppress(AssertionError):  # what did not come so far cannot be removed
                    place.run(step)
        raise
    finally:
        for part, seconds in spent.items():
            progress(f"  {part:<20} {seconds:6.1f} s")
    calls, whole = place.cluster_commands(), sum(spent.values())
    progress(f"  {'all of it':<20} {whole:6.1f} s, with {len(calls)} commands of kubectl and helm")
    assert all_of(place) == before
    assert len(calls) <= CLUSTER_COMMANDS, calls
    assert whole <= MINUTES * 60, spent


def follow(place: Place, spent: dict[str, float]) -> None:
    """Run the page, compare what it prints, and check what it says of each part; *spent* gets the seconds by part."""
    for part, group in groupby(steps(), key=lambda step: step.part):
        started = time.monotonic()
        for step in group:
            output = place.run(step)
            assert plain(step.printed or "") in plain(output), output
        spent[part] = time.monotonic() - started
        match part:
            case "Watch":
                fleet = Fleet.of(place)
            case "A bad version":
                fleet = spared(place, fleet)
            case "Upgrade":
                await_upgrade(place, fleet)
    assert list(spent) == ["Install", "Enrol two devices", "Watch", "A bad version", "Upgrade", LAST]


def spared(place: Place, fleet: Fleet) -> Fleet:
    """Return the fleet: the first device had the bad version and went back, and the other one never got it."""
    now = Fleet.of(place)
    first, other = DEVICES
    assert now.processes[other] == fleet.processes[other]
    assert now.processes[first] != fleet.processes[first]
    return now


def await_upgrade(place: Place, fleet: Fleet) -> None:
    """Return once programs and the first agent are of the newer version, and nothing else has changed."""
    images = {newer(version) for version in fleet.images}
    agents = {**fleet.agents, DEVICES[0]: newer(fleet.agents[DEVICES[0]])}
    expected = evolve(fleet, images=images, agents=agents)
    eventually(lambda: Fleet.of(place), lambda now: now == expected, what=f"the fleet is {expected}")


@frozen
class Fleet:
    """The one process of each device, since when devices are connected, and which versions run where."""

    processes: Mapping[str, int]
    connected: Mapping[str, str]
    agents: Mapping[str, str]
    images: set[str]

    @classmethod
    def of(cls, place: Place) -> Fleet:
        """Return what is so now."""
        switches = {item["metadata"]["name"]: item for item in place.items("networkswitches")}
        programs = place.items("deployments", f"--namespace={SYSTEM_NAMESPACE}")
        containers = [each for item in programs for each in item["spec"]["template"]["spec"]["containers"]]
        return cls(
            processes={name: process_of(device) for name, device in place.devices.items()},
            connected={
                name: condition["lastTransitionTime"]
                for name, item in switches.items()
                for condition in item["status"]["conditions"]
                if condition["type"] == "AgentConnected"
            },
            agents={name: item["status"]["agentVersion"] for name, item in switches.items()},
            images={container["image"].rpartition(":")[2] for container in containers},
        )


def all_of(place: Place) -> tuple[set[str], dict[str, set[str]]]:
    """Return what the cluster and the devices have."""
    return place.objects(), {name: left_on(device) for name, device in place.devices.items()}


def process_of(device: LabDevice) -> int:
    """Return the id of the one process of the fleet that *device* runs."""
    found = eventually(
        lambda: device.run("/bin/sh", "-c", f"pgrep -x -f '{PROCESS}' || true").split(),
        lambda pids: len(pids) == 1,
        what=f"{device.name} runs {PROCESS}",
    )
    return int(found[0])


def left_on(device: LabDevice) -> set[str]:
    """Return the files of *device*, but for those that any device writes by itself, and all of ours that it runs."""
    files = device.run("find", "/", "-xdev").splitlines()
    ours = device.run("find", "/run", "/tmp", "/var/log", "/sys/fs/cgroup", "-name", "*praetor*").splitlines()
    run = [line for line in device.run("ps", "-e", "-o", "args=").splitlines() if re.search("praetor|sleep", line)]
    return {*(path for path in files if not path.startswith(CHANGES_BY_ITSELF)), *ours, *run}


def plain(text: str) -> str:
    """Return *text* without what differs between runs and releases: ages, versions, and so the width of columns."""
    text = re.sub(r"\b\d+\.\d+\.\d+\b", "VERSION", re.sub(r"\b(\d+m)?\d+s\b", "AGE", text))
    return re.sub(r" +", " ", text)
