# SPDX-License-Identifier: Apache-2.0
"""Devices that really reboot, under either init: versions that make them, and the firmware jobs of docs/firmware.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.clusters.cluster import Cluster
from e2e.lab import device as systemd
from e2e.lab import sysv
from e2e.lab.agent import PLACE, START, STATE, TOKEN
from e2e.lab.device import LabDevice
from e2e.lab.payload import install
from e2e.lab.requirements import required
from e2e.stack.kube import Kube, condition
from e2e.stack.manifests import deployment, network_switch
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import await_phase, await_process, await_ready, is_ready
from e2e.suite.test_e2e_docs_rollouts import environment_for
from e2e.suite.workloads import change_template, shell

pytestmark = pytest.mark.lab

INITS = {"systemd": (systemd, "systemd"), "sysv": (sysv, "initd")}
BOOT_S = 600
PAGE = Path(__file__).parents[2] / "docs" / "firmware.md"
VENDOR, IMAGES = "/opt/vendor", "/var/lib/firmware"
SCRIPT = """#!/bin/sh
### BEGIN INIT INFO
# Provides: lab-agent
# Required-Start: $local_fs
# Required-Stop: $local_fs
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
# Short-Description: agent
### END INIT INFO
[ "$1" = start ] || exit 0
"""
UNIT = """[Unit]
Description=agent
[Service]
Type=forking
ExecStart=/etc/init.d/lab-agent start
KillMode=process
[Install]
WantedBy=multi-user.target
"""
FLASH = f"""#!/bin/sh
# Writes a version that the next boot runs; records each flash.
set -eu
cd {IMAGES}
boot=$(cat /proc/sys/kernel/random/boot_id)
if [ "$1" = --running ]; then
    if [ -e next ] && [ "$(cat written-in)" != "$boot" ]; then mv next running; fi
    cat running 2>/dev/null || echo 2.0
    exit 0
fi
echo "$1" >>flashes
if [ -e slow ]; then sleep 1000; fi
case "$1" in
    broken) exit 1 ;;
    bricks) poweroff; exec sleep 1000 ;;
esac
echo "$boot" >written-in
echo "$1" >next
"""


class Switch(LabDevice):
    """A device whose agent comes up with it, and whose /etc, agent's state and images outlive a reboot."""

    @property
    def flashes(self) -> list[str]:
        """The versions that were flashed, in order."""
        return self.kept("flashes")

    def kept(self, name: str) -> list[str]:
        """Return the lines of a file that outlives a reboot."""
        path = self.images / name
        return path.read_text().split() if path.exists() else []

    @property
    def images(self) -> Path:
        """Folder on the host of what outlives a reboot."""
        return self.program.workdir / "images"


@pytest.fixture(params=sorted(INITS))
def switch(request: pytest.FixtureRequest, stack: Stack, kube: Kube, tmp_path: Path) -> Iterator[Switch]:
    init, backend = INITS[request.param]
    root = required(request, init.rootfs(), init.why_unavailable(init.rootfs()))
    name = f"{kube.namespace}-{backend}"
    kube.apply(network_switch(name, {"role": "leaf", "ring": "canary"}))
    shutil.copytree(root / "etc", tmp_path / "etc", symlinks=True)
    for folder in ("state", "images", "vendor"):
        (tmp_path / folder).mkdir()
    flash = tmp_path / "vendor" / "flash"
    flash.write_text(FLASH)
    flash.chmod(0o755)
    shared = {PLACE: install(tmp_path / "payload"), VENDOR: flash.parent}
    kept = {"/etc": tmp_path / "etc", STATE: tmp_path / "state", IMAGES: tmp_path / "images"}
    with Switch(name, root, workdir=tmp_path, shared=shared, kept=kept) as booted:
        booted.write(TOKEN, stack.token(name))
        booted.run("chmod", "600", TOKEN)
        start = START.format(
            place=PLACE, gateway=stack.gateway_url, device=name, token=TOKEN, state=STATE, log="/var/log/agent.log"
        )
        booted.write("/etc/init.d/lab-agent", SCRIPT + start + "\n")
        booted.run("chmod", "755", "/etc/init.d/lab-agent")
        if backend == "systemd":
            booted.write("/etc/systemd/system/lab-agent.service", UNIT)
            booted.run("systemctl", "enable", "--now", "lab-agent.service")
        else:
            booted.run("update-rc.d", "lab-agent", "defaults")
            booted.run("/etc/init.d/lab-agent", "start")
        yield booted


def test_a_version_that_makes_the_device_reboot_is_rolled_back_after_three_reboots(
    request: pytest.FixtureRequest, switch: Switch, kube: Kube
) -> None:
    backend = INITS[request.node.callspec.params["switch"]][1]
    good = shell("exec sleep 100000")
    good["execution"]["backend"] = backend
    bad = shell(f"echo x >>{IMAGES}/starts; sync; sleep 4; reboot; exec sleep 100000")
    bad["execution"]["backend"] = backend
    kube.apply(deployment("fw", good))
    await_ready(kube, [switch.name])
    change_template(kube, "fw", bad)
    process = eventually(
        lambda: kube.processes()[switch.name],
        lambda item: condition(item, "RolledBack") == "True" and item["status"].get("pid"),
        what="the version that reboots is rolled back, and the good one runs",
        within_s=BOOT_S,
    )
    rolled_back = next(each for each in process["status"]["conditions"] if each["type"] == "RolledBack")
    assert rolled_back["reason"] == "CrashLoop"
    # the last one may be rolled back while the device shuts down, when a signal has ended it
    assert re.search(r"ended 3 times in a row, [23] of them because the device rebooted", rolled_back["message"])
    assert switch.kept("starts") == ["x"] * 3
    init = switch.init
    assert switch.run("pgrep", "-c", "-f", "sleep 100000").strip() == "1"
    assert switch.init == init


def test_the_firmware_example_does_what_the_page_says(
    cluster: Cluster, switch: Switch, kube: Kube, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    page = PAGE.read_text(encoding="utf-8")
    (manifest,) = re.findall(r"^```yaml\n(# firmware\.yaml\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "firmware.yaml").write_text(manifest, encoding="utf-8")
    install_one, next_one, again, broken, bricks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    name = yaml.safe_load(manifest)["metadata"]["name"]

    def run(commands: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env={**os.environ, **environment_for(cluster, kube)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def printed(started: subprocess.Popen[str]) -> str:
        text, _ = started.communicate(timeout=BOOT_S)
        assert started.returncode == 0, text
        return text

    def ended(reason: str) -> None:
        await_process(
            kube, switch.name, lambda item: item["status"].get("lastTerminationReason") == reason, f"it ends: {reason}"
        )

    assert "rolled out" in printed(run(install_one))
    assert is_ready(await_phase(kube, switch.name, "Succeeded"))
    assert switch.run(f"{VENDOR}/flash", "--running") == "2.1\n"

    (switch.images / "slow").touch()
    upgrade = run(next_one)
    eventually(lambda: switch.flashes, lambda flashes: flashes == ["2.1", "2.2"], what="the second flash has begun")
    switch.pull_the_plug()
    (switch.images / "slow").unlink()
    switch.power_on()
    ended("PostCheckFailed")
    text, _ = upgrade.communicate(timeout=BOOT_S)
    assert upgrade.returncode != 0, text
    assert switch.flashes == ["2.1", "2.2"], "not run again after the power cut"
    assert "rolled out" in printed(run(again))
    assert switch.run(f"{VENDOR}/flash", "--running") == "2.2\n"
    assert switch.flashes == ["2.1", "2.2", "2.2"]

    init = switch.init
    assert printed(run(broken)).endswith("stopped\n")
    assert (switch.init, switch.run(f"{VENDOR}/flash", "--running")) == (init, "2.2\n")

    assert printed(run(bricks)).endswith("stopped\n")
    assert "SilentSinceOffer" in printed(run(f"praetorctl explain {name}"))
    assert not switch.program.running
