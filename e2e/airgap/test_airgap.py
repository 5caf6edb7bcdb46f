# SPDX-License-Identifier: Apache-2.0
"""The page for a network without an internet, run as printed on what `hatch run release --dry-run` wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from e2e.clusters.api.kubectl import output_of
from e2e.release.build import PACKAGES, ROOT
from e2e.release.images import COMPONENTS, Image
from praetor_controller.ctl.airgap.images import images_in

pytestmark = pytest.mark.timeout(1800)  # half a minute on two idle cores; packages are downloaded
PAGE = ROOT / "docs" / "airgap.md"
RELEASES = ROOT / "dist" / "release"
KINDS = {"controller": "docker-archive", "gateway": "docker-archive", "agent": "oci-archive"}


def block(heading: str, number: int = 0) -> str:
    """Return a block of commands below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return str(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[number])


def run(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run commands of the page in *folder*, with the programs of this environment, and return what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", text]
    environ = {**os.environ, "PATH": path, **(environ or {})}
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds bundle/ with the four releases, as the page has them downloaded."""
    place = tmp_path_factory.mktemp("airgap")
    for wheel in PACKAGES:
        found = list(RELEASES.glob(f"{wheel.replace('-', '_')}-*/SHA256SUMS"))
        if len(found) != 1:
            pytest.fail(f"{RELEASES} has {len(found)} releases of {wheel} instead of 1: hatch run release --dry-run")
        shutil.copytree(found[0].parent, place / "bundle" / wheel)
    return place


@pytest.fixture(scope="module")
def bundle(releases: Path) -> Path:
    """The same with the packages that the wheels need, and with images of a real engine under the components' names."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed, which makes the images")
    version = f"--python-version {sys.version_info.major}.{sys.version_info.minor} "
    run(block("Make the archive", 1).replace("--python-version 3.11 ", version), releases)
    for component in COMPONENTS:
        save_image(component, releases)
    return releases


def save_image(component: str, place: Path) -> None:
    """Save an image of the component's wheel alone."""
    (wheel,) = (place / "bundle" / f"praetor-{component}").glob("*.whl")
    image = Image(component=component, version=wheel.name.split("-")[1])
    kind, made = KINDS[component], f"localhost/praetor-airgap-{os.getpid()}-{component}"
    container = output_of(["buildah", "from", "scratch"]).strip()
    try:
        output_of(["buildah", "add", "--quiet", container, str(wheel), "/"])
        output_of(["buildah", "commit", "--quiet", container, made])
        target = f"{kind}:{place}/bundle/praetor-{component}-amd64.tar:{image.name}"
        output_of(["buildah", "push", "--quiet", made, target])
    finally:
        output_of(["buildah", "rm", container])
        output_of(["buildah", "rmi", "--force", made])


@pytest.fixture(scope="module")
def unpacked(bundle: Path) -> Path:
    """What the archive unpacks to, in a folder of its own."""
    make = block("Make the archive", 2).splitlines()[-1]
    assert make == "praetorctl airgap bundle --from bundle"
    said = run(make, bundle)
    (archive,) = bundle.glob("praetor-airgap-*.tar")
    first = archive.read_bytes()
    assert run(make, bundle) == said
    assert archive.read_bytes() == first, "two archives of the same files differ"
    digest = said.split()[-1]
    site = bundle / "site"
    site.mkdir()
    archive.rename(site / archive.name)
    assert run(block("Check it, and unpack it").replace("DIGEST", digest), site).startswith("good: ")
    (folder,) = (path for path in site.iterdir() if path.is_dir())
    run("sha256sum --check --quiet SHA256SUMS", folder)
    return folder


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
