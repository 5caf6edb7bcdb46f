# SPDX-License-Identifier: Apache-2.0
"""docs/quickstart.md, run as printed: built files, a cluster with a kubelet, and two devices that boot.

It runs before the tests of Pods, on a cluster that has nothing of Praetor, and leaves it so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import field, frozen, mutable

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.node import Node
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.requirements import required
from e2e.pods.newer import newer_chart, newer_zipapp
from e2e.release.build import ROOT
from e2e.release.chart import package
from e2e.release.images import REGISTRY, Image
from e2e.release.release import write_requirements
from e2e.release.version import Release
from e2e.release.zipapp import build_zipapp
from e2e.stack.waiting import eventually

PAGE = ROOT / "docs" / "quickstart.md"
BLOCK = re.compile(r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.yaml)\n")
EXPORT = re.compile(r"^export (\w+)=\S+ +#", re.MULTILINE)
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
    node: Node
    variables: dict[str, str] = field(factory=dict)

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
        newer_chart(chart, image.version, later)
        newer_zipapp(agent, image.version, later)
        for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
            if named := NAMED.match(block["text"] or ""):
                (files / named[1]).write_text(block["text"], encoding="utf-8")
        self._write_programs(programs)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        self.variables = kept | {
            "KUBECONFIG": str(self.node.kubeconfig),
            "PATH": f"{programs}:{Path(sys.base_prefix, 'bin')}:{PATH}",
            "REGISTRY": REGISTRY,
            "GATEWAY": f"http://{self._address()}:30080",
            "NEXT": str(later),
        }

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

    def _address(self) -> str:
        path = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
        return self.kubectl("get", "nodes", f"--output={path}")


@pytest.fixture
def place(
    request: pytest.FixtureRequest, node: Node, tmp_path: Path, progress: Callable[[str], None]
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
    text = PAGE.read_text(encoding="utf-8")
    assert set(EXPORT.findall(text)) == {"REGISTRY", "GATEWAY", "NEXT"} <= place.variables.keys()
    before = place.objects(), {name: left_on(device) for name, device in place.devices.items()}
    checks = {"Watch": watched, "A bad version": spared, "Upgrade": upgraded}
    spent: dict[str, float] = {}
    ran: dict[str, int] = {}
    for step in steps():
        started = time.monotonic()
        output = place.run(step)
        spent[step.part] = spent.get(step.part, 0.0) + time.monotonic() - started
        if step.printed is not None:
            assert plain(step.printed) in plain(output), output
        if step.part in checks:
            ran = checks[step.part](place, ran)
    assert checks.keys() < spent.keys() >= {"Install", "Enrol two devices", "Uninstall"}
    calls = place.cluster_commands()
    whole = sum(spent.values())
    for part, seconds in spent.items():
        progress(f"  {part:<20} {seconds:6.1f} s")
    progress(f"  {'all of it':<20} {whole:6.1f} s, and {len(calls)} commands for the cluster")
    assert (place.objects(), {name: left_on(device) for name, device in place.devices.items()}) == before
    assert len(calls) <= CLUSTER_COMMANDS, calls
    assert whole <= MINUTES * 60, spent


def watched(place: Place, _: Mapping[str, int]) -> dict[str, int]:
    """Return the processes of the devices, each of which has one."""
    return {name: process_of(device) for name, device in place.devices.items()}


def spared(place: Place, ran: Mapping[str, int]) -> dict[str, int]:
    """Return the processes: one device kept the one that *ran*, and the other has one of the same version."""
    now = watched(place, ran)
    assert sum(now[name] == pid for name, pid in ran.items()) >= 1
    return now


def upgraded(place: Place, ran: Mapping[str, int]) -> dict[str, int]:
    """Return the processes, which are those that *ran*."""
    assert watched(place, ran) == ran
    return dict(ran)


def process_of(device: LabDevice) -> int:
    """Return the id of the one process of the fleet that *device* runs."""
    found = eventually(
        lambda: device.run("/bin/sh", "-c", f"pgrep -x -f '{PROCESS}' || true").split(),
        lambda pids: len(pids) == 1,
        what=f"{device.name} runs {PROCESS}",
    )
    return int(found[0])


def left_on(device: LabDevice) -> tuple[set[str], set[str]]:
    """Return the files of *device*, but for those that any device writes by itself, and what it has of ours in /run."""
    files = set(device.run("find", "/", "-xdev").splitlines())
    ours = device.run("find", "/run", "/tmp", "/var/log", "/sys/fs/cgroup", "-name", "*praetor*").splitlines()
    return {path for path in files if not path.startswith(CHANGES_BY_ITSELF)}, set(ours)


def plain(text: str) -> str:
    """Return *text* without what differs between runs and releases: ages, versions, and so the width of columns."""
    text = re.sub(r"\b\d+\.\d+\.\d+\b", "VERSION", re.sub(r"\b(\d+m)?\d+s\b", "AGE", text))
    return re.sub(r" +", " ", text)
