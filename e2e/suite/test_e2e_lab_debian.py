# SPDX-License-Identifier: Apache-2.0
"""The agent on releases of Debian: the wheels with the distribution's own requests, then the single file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab import debian
from e2e.lab.device import LabDevice
from e2e.release.build import ROOT, build_all
from e2e.release.zipapp import OURS, build_zipapp
from e2e.stack.kube import Kube, Object
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import await_ready, is_ready
from e2e.suite.site import served
from e2e.suite.workloads import GRACE_S, change_template

pytestmark = pytest.mark.lab

FILES, TOKEN, VENV = "/opt/files", "/etc/token", "/opt/venv"
SCRIPT = "#!/bin/sh\necho version {}\nexec sleep infinity\n"
LINES = 'two\tlines\n"$HOME" \\\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of the agent, and the single file with what its lock names."""
    folder = tmp_path_factory.mktemp("files")
    wheels = [built.path for built in build_all(OURS, folder) if built.path.suffix == ".whl"]
    build_zipapp(ROOT, wheels, folder)
    return folder


@pytest.fixture(params=sorted(debian.SUITES))
def suite(request: pytest.FixtureRequest) -> str:
    """A release of Debian whose root file system is here; the gate says which is not, for archives move."""
    name: str = request.param
    if missing := debian.why_unavailable(name):
        pytest.skip(missing)
    return name


@pytest.fixture
def device(suite: str, kube: Kube, tmp_path: Path, files: Path) -> Iterator[LabDevice]:
    root = debian.rootfs(suite)
    assert root is not None
    name = f"{kube.namespace}-d"
    kube.apply(network_switch(name))
    with LabDevice(name, root, workdir=tmp_path, shared={FILES: files}) as booted:
        yield booted


def _agent(device: LabDevice, *words: str) -> str:
    script = 'PATH=/usr/local/bin:/usr/bin:/bin; exec praetor-agent "$@"'
    return device.run("/bin/sh", "-c", script, "sh", *words)


def test_the_wheels_run_a_rollout_with_the_distributions_requests_and_the_single_file_takes_over(
    suite: str, device: LabDevice, stack: Stack, kube: Kube, tmp_path: Path
) -> None:
    python, requests = debian.SUITES[suite]
    device.write(TOKEN, stack.token(device.name))
    device.run("chmod", "600", TOKEN)
    device.run("/usr/bin/python3", "-m", "venv", "--system-site-packages", VENV)
    device.run("/bin/sh", "-c", f"{VENV}/bin/pip install --no-index {FILES}/*.whl")
    flags = (f"--gateway={stack.gateway_url}", f"--device={device.name}", f"--token-file={TOKEN}", "--start-splay=0")
    assert "is installed in" in device.run(f"{VENV}/bin/praetor-agent", "install", *flags)
    device.run("rm", "-r", VENV)  # the installed agent needs nothing of it
    assert f"Python {python}." in _agent(device, "doctor")
    assert f"requests {requests}" in _agent(device, "doctor")

    site = tmp_path / "site"
    site.mkdir()
    with served(site) as url:
        kube.apply(deployment("tool", _tool(site, url, 1)))
        first = await_ready(kube, [device.name])[device.name]
        _rolls_out(kube, device, _tool(site, url, 2), 2)

        before = kube.processes()[device.name]["status"]["pid"]
        assert f"LINES={LINES}" in device.words(f"/proc/{before}/environ")  # as each systemd reads it
        assert "runs; the old one is" in _agent(device, "upgrade", f"{FILES}/praetor-agent.pyz")
        assert f"requests {requests}" not in _agent(device, "doctor")
        assert device.words(f"/proc/{before}/cmdline")
        _rolls_out(kube, device, _tool(site, url, 3), 3)
    assert kube.processes()[device.name]["metadata"]["uid"] == first["metadata"]["uid"]


def _tool(site: Path, url: str, version: int) -> Object:
    path = site / f"tool-{version}"
    path.write_text(SCRIPT.format(version))
    artifact = {
        "type": "http", "url": f"{url}/{path.name}", "checksumSHA256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip
    execution = {"terminationGracePeriodSeconds": GRACE_S, "env": [{"name": "LINES", "value": LINES}]}
    command = ["/bin/sh", f"./{path.name}"]
    return process_spec(command, backend="systemd", execution=execution, artifact=artifact)


def _rolls_out(kube: Kube, device: LabDevice, spec: Object, version: int) -> None:
    change_template(kube, "tool", spec)
    eventually(
        lambda: kube.processes()[device.name],
        lambda item: is_ready(item) and item["metadata"]["generation"] == version,
        what=f"version {version} runs",
    )
    assert f"version {version}" in _agent(device, "logs", f"tool-{device.name}")
