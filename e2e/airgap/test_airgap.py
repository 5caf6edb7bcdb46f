# SPDX-License-Identifier: Apache-2.0
"""The page for a network without an internet, run as printed on what `hatch run release --dry-run` wrote.

So is the step of the release workflow that makes the archive; what it asks of the forge, stand-ins answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import helm_python
import pytest
import yaml
from packaging.utils import parse_wheel_filename

from agent_testing import FakeGateway, item, process_spec
from e2e.clusters.api.kubectl import output_of
from e2e.clusters.errors import ClusterError
from e2e.release.build import PACKAGES, ROOT
from e2e.release.images import COMPONENTS
from e2e.stack.agent import Agent
from e2e.stack.stack import environment
from praetor_controller.ctl.airgap.images import images_in

pytestmark = pytest.mark.timeout(1800)  # half a minute on two idle cores; packages are downloaded
PAGE = ROOT / "docs" / "airgap.md"
PROVISIONING = ROOT / "docs" / "provisioning.md"
RELEASES = ROOT / "dist" / "release"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
ARCHIVE = "praetor-airgap-0.1.0"
GH = r"""#!/bin/bash
echo "gh $*" >> {log}
case "$1 $2" in
  "release download") mkdir -p "$5" && wheel=${{3%-v*}} && cp {releases}/"${{wheel//-/_}}-${{3##*-v}}"/* "$5";;
  "attestation verify") [ -f "$3" ];;
  *) exit 1;;
esac
"""
SKOPEO = r"""#!/bin/bash
echo "skopeo $*" >> {log}
case $1 in
  inspect) echo sha256:1;;
  copy) name=${{4##*/}} && buildah push --quiet "{made}-${{name%@*}}" "$5";;
esac
"""
RECORDED = '#!/bin/bash\necho "{name} $*" >> {log}\n'


def block(heading: str, number: int = 0, page: Path = PAGE) -> str:
    """Return a block of commands below a heading of *page*; on that of the air gap, one that is marked as sh."""
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    mark = "sh" if page == PAGE else ""
    return str(re.findall(rf"```{mark}\n(.*?)```", section, re.DOTALL)[number])


def run(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run commands of the page in *folder*, with the programs of this environment, and return what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", text]
    environ = {**os.environ, "PATH": path, **(environ or {})}
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def releases() -> dict[str, Path]:
    """Return the folder of each wheel's release, as the dry run wrote it."""
    found = {wheel: list(RELEASES.glob(f"{wheel.replace('-', '_')}-*/SHA256SUMS")) for wheel in PACKAGES}
    for wheel, lists in found.items():
        if len(lists) != 1:
            pytest.fail(f"{RELEASES} has {len(lists)} releases of {wheel} instead of 1: hatch run release --dry-run")
    return {wheel: lists[0].parent for wheel, lists in found.items()}


def commands_of_the_workflow() -> str:
    """Return the step that makes the archive."""
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["airgap"]["steps"]
    (made,) = (step["run"] for step in steps if "airgap bundle" in step.get("run", ""))
    return str(made)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the workflow has made its archive of bundle/; log has what it asked of the forge."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed, which makes the images")
    place, found = tmp_path_factory.mktemp("airgap"), releases()
    made = f"localhost/praetor-airgap-{os.getpid()}"
    programs = place / "bin"
    programs.mkdir()
    named = {"log": place / "log", "releases": RELEASES, "made": made}
    for name, text in {"gh": GH, "skopeo": SKOPEO, "docker": RECORDED, "cosign": RECORDED}.items():
        (programs / name).write_text(text.format(name=name, **named), encoding="utf-8")
        (programs / name).chmod(0o755)
    (place / "packages").symlink_to(ROOT / "packages")
    version = f"--python-version {sys.version_info.major}.{sys.version_info.minor} "
    text = commands_of_the_workflow().replace("--python-version 3.11 ", version)
    text = text.replace("ghcr.io/${GITHUB_REPOSITORY_OWNER,,}", registry(found["praetor-controller"]))
    environ = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ARCHITECTURE": "amd64",
        "MACHINE": "x86_64",
        "PIP_NO_COMPILE": "1",
        "GH_TOKEN": "token",
        "GITHUB_ACTOR": "me",
        "GITHUB_REPOSITORY": "owner/praetor",
        "GITHUB_SERVER_URL": "https://forge.example",
        "GITHUB_STEP_SUMMARY": str(place / "summary"),
    }
    try:
        for component in COMPONENTS:
            make_image(f"{made}-praetor-{component}", found[f"praetor-{component}"])
        run(text, place, environ)
        yield place
    finally:
        for component in COMPONENTS:
            with suppress(ClusterError):
                output_of(["buildah", "rmi", "--force", f"{made}-praetor-{component}"])


def registry(release: Path) -> str:
    """Return where the manifests of the controller's *release* have the images."""
    names = images_of([*yaml.safe_load_all((release / "install.yaml").read_text(encoding="utf-8"))])
    (found,) = {name.rpartition("/")[0] for name in names}
    return found


def make_image(name: str, release: Path) -> None:
    """Make an image of the wheel of *release* alone."""
    (wheel,) = release.glob("*.whl")
    container = output_of(["buildah", "from", "scratch"]).strip()
    try:
        output_of(["buildah", "add", "--quiet", container, str(wheel), "/"])
        output_of(["buildah", "commit", "--quiet", container, name])
    finally:
        output_of(["buildah", "rm", container])


@pytest.fixture(scope="module")
def unpacked(bundle: Path) -> Path:
    """What the archive unpacks to, in a folder of its own."""
    make = block("Make the archive", 2).splitlines()[-1]
    assert make == "praetorctl airgap bundle --from bundle"
    said = run(make, bundle)
    archive, of_workflow = bundle / f"{ARCHIVE}.tar", bundle / f"{ARCHIVE}-amd64.tar"
    assert archive.read_bytes() == of_workflow.read_bytes(), "two archives of the same files differ"
    assert said.split()[-1] == (bundle / "summary").read_text(encoding="utf-8").split()[-1]
    digest = said.split()[-1]
    site = bundle / "site"
    site.mkdir()
    archive.rename(site / archive.name)
    assert run(block("Check it, and unpack it").replace("DIGEST", digest), site).startswith("good: ")
    (folder,) = (path for path in site.iterdir() if path.is_dir())
    run("sha256sum --check --quiet SHA256SUMS", folder)
    return folder


def plain(text: str) -> str:
    """Return commands in one line, without what the shell takes away."""
    return " ".join(text.replace('"', "").replace("\\\n", " ").split())


def test_the_workflow_makes_it_as_the_page_says_of_what_it_has_verified(bundle: Path) -> None:
    downloads = plain(block("Make the archive", 1)).replace("x86_64", "$MACHINE")
    assert downloads in plain(commands_of_the_workflow())
    asked = (bundle / "log").read_text(encoding="utf-8").splitlines()
    verified = {Path(line.split()[3]).name for line in asked if line.startswith("gh attestation verify ")}
    released = {path.name for folder in releases().values() for path in folder.iterdir()}
    assert verified == released
    signed = [line.split()[2] for line in asked if line.startswith("cosign verify ")]
    copied = [line.split()[4].removeprefix("docker://") for line in asked if line.startswith("skopeo copy ")]
    assert signed == copied
    assert [image.rpartition("@")[2] for image in copied] == ["sha256:1"] * len(COMPONENTS)


def images_of(items: list[Any]) -> set[str]:
    """Return the images that objects of Kubernetes run."""
    specs = [item["spec"]["template"]["spec"] for item in items if "template" in item.get("spec", {})]
    specs += [item["spec"] for item in items if item["kind"] == "Pod"]
    return {container["image"] for spec in specs for container in spec.get("containers", ())}


def test_every_image_that_the_chart_or_the_manifests_name_is_inside(unpacked: Path) -> None:
    (chart,) = (unpacked / "chart").iterdir()
    shutil.unpack_archive(chart, unpacked / "chart")
    values = {"gateway": {"deviceTokens": {"existingSecret": "a"}, "peers": {"existingSecret": "b"}}}
    with helm_python.Chart.load(unpacked / "chart" / "praetor") as loaded:
        files = loaded.render(values, name="praetor", namespace="praetor-system")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    rendered = [item for text in texts for item in yaml.safe_load_all(text) if item]
    named = images_of(rendered) | images_of([*yaml.safe_load_all((unpacked / "install.yaml").read_text())])
    assert len(named) == 2
    held = set[str]()
    for path in (unpacked / "images").iterdir():
        with path.open("rb") as file:
            held |= images_in(file)
    assert named < held
    (registry,) = {name.rpartition("/")[0] for name in named}
    assert any(name.startswith(f"{registry}/praetor-agent:") for name in held)


def test_the_wheels_are_installed_without_an_index_and_work(unpacked: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "praetor", with_pip=True)
    _, install, _ = block("praetorctl, and agents").replace("\\\n", " ").splitlines()
    install = install.replace(" wheels ", f" {unpacked}/wheels ").replace(
        " requirements/", f" {unpacked}/requirements/"
    )
    environ = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_COMPILE": "1"}
    for component in (
        "agent",
        "gateway",
        "controller",
    ):  # one after the other, into one environment: it takes half the time
        run(install.replace("praetor_controller-", f"praetor_{component}-"), tmp_path, environ)
        command = "praetorctl" if component == "controller" else f"praetor-{component}"
        assert run(f"praetor/bin/{command} --version", tmp_path).strip().endswith("0.1.0")


def test_the_agent_of_the_archive_runs_alone(unpacked: Path) -> None:
    assert run(f"{sys.executable} -I -S ./praetor-agent.pyz --version", unpacked) == "praetor-agent 0.1.0\n"


@pytest.fixture
def index(unpacked: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an index of the archive's wheels."""
    for wheel in (unpacked / "wheels").iterdir():
        folder = tmp_path / "index" / "simple" / parse_wheel_filename(wheel.name)[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / wheel.name).symlink_to(wheel)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_agent_that_pip_installs_from_an_index_of_ones_own_runs_processes(
    unpacked: Path, index: str, tmp_path: Path
) -> None:
    text = block("Agents in the image", page=PROVISIONING)
    for named, here in {
        "https://index.example": index,
        "/opt/praetor": str(tmp_path / "praetor"),
        "praetor_agent-0.1.0.txt": str(unpacked / "requirements" / "praetor_agent-0.1.0.txt"),
        "/usr/local/bin/praetor-agent": str(tmp_path / "praetor-agent"),
    }.items():
        assert named in text
        text = text.replace(named, here)
    run(text, tmp_path, {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_COMPILE": "1"})
    with FakeGateway(token="t0ken", heartbeat_seconds=1) as gateway:
        gateway.desire(item("a", process_spec("/bin/sleep", "1000")))
        command = [str(tmp_path / "praetor-agent"), "run", "--start-splay=0"]
        agent = Agent("leaf-1", command, gateway=gateway.url, token="t0ken", workdir=tmp_path, env=environment())
        try:
            agent.start()
            gateway.wait_for(
                lambda: "a" in gateway.observations and bool(gateway.observations["a"].pid), "it runs", 120
            )
            assert gateway.observations["a"].pid in agent.processes()
            assert gateway.reports[-1].agent_version == "0.1.0"
        finally:
            agent.program.stop()
            agent.end_processes()
