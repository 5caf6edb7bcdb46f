# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles, the pinned requirements and the command lines that make images of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from e2e.clusters.api.kubectl import output_of
from e2e.release.build import ROOT
from e2e.release.images import (
    COMPONENTS,
    LIMIT_MB,
    SBOM,
    Added,
    Engine,
    Image,
    ImageError,
    added_of,
    build_argv,
    find_engine,
    image_of,
    import_base,
)
from e2e.release.pipsettings import PipSettings
from e2e.release.sbom import check_sbom

IMAGE = Image(component="gateway", version="1.2.3")
NO_SETTINGS = PipSettings(config="[global]\n", ca=None, folders=())
PIN = re.compile(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)")


def dockerfile(component: str) -> str:
    return (ROOT / "deploy" / "images" / component / "Dockerfile").read_text(encoding="utf-8")


def final_stage(component: str) -> list[str]:
    return ("FROM" + dockerfile(component).split("\nFROM")[-1]).replace("\\\n", " ").splitlines()


def project(package: str) -> dict[str, object]:
    data = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(data, dict)
    return data


def requirements(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    return {match[1]: match[2] for line in requirements(name).splitlines() if (match := PIN.match(line))}


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_program_is_what_an_image_runs_not_as_root_and_without_a_shell(component: str) -> None:
    stage = final_stage(component)
    assert f'ENTRYPOINT ["/opt/praetor/bin/praetor-{component}"]' in stage
    assert "USER 65532:65532" in stage
    assert not [line for line in stage if line.startswith(("RUN", "CMD ", "SHELL"))]


@pytest.mark.parametrize("component", COMPONENTS)
def test_both_stages_have_the_same_base_which_can_be_chosen(component: str) -> None:
    lines = dockerfile(component).splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert "ARG BASE=docker.io/library/python:3.13-slim" in lines


@pytest.mark.parametrize("component", COMPONENTS)
def test_labels_say_what_is_in_the_image(component: str) -> None:
    labels = " ".join(final_stage(component))
    metadata = project(f"praetor-{component}")
    assert f'org.opencontainers.image.title="praetor-{component}"' in labels
    assert f'org.opencontainers.image.licenses="{metadata["license"]}"' in labels
    assert f'org.opencontainers.image.description="{metadata["description"]}"' in labels
    assert 'org.opencontainers.image.version="${VERSION}"' in labels


@pytest.mark.parametrize("component", COMPONENTS)
def test_only_hashed_wheels_are_installed_and_our_own_come_from_no_index(component: str) -> None:
    text = dockerfile(component)
    assert "--require-hashes --only-binary :all:" in text
    assert "--no-index --no-deps /wheels/*.whl" in text
    assert f"COPY dist/praetor_api-*.whl dist/praetor_{component}-*.whl /wheels/" in text


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_image_holds_the_sbom_of_its_environment(component: str) -> None:
    text = dockerfile(component)
    assert "--report /report.json" in text
    assert f"/sbom.py praetor-{component} /report.json /wheels/*.whl > /{SBOM}" in text


def make_environment(folder: Path, packages: dict[str, str]) -> Path:
    """Make an environment below *folder* with *packages*, each with lines of metadata, and return its Python."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, lines in packages.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{lines}\n")
    return folder / "bin" / "python"


def run_sbom(python: Path, report: Path, *wheels: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "deploy" / "images" / "sbom.py"
    words = [str(python), "-I", str(program), "praetor-agent", str(report), *map(str, wheels)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_an_sbom_names_each_package_with_its_licence_and_the_digest_of_its_file(tmp_path: Path) -> None:
    packages = {
        "praetor_agent": "License-Expression: Apache-2.0",
        "Charset.Normalizer": "License: MIT\nClassifier: Programming Language :: Python",
        "certifi": "Classifier: License :: OSI Approved :: A\nLicense: not this",
    }
    python = make_environment(tmp_path / "environment", packages)
    digests = {"charset-normalizer": "1" * 64, "certifi": "2" * 64}
    installed = [
        {"metadata": {"name": name}, "download_info": {"archive_info": {"hash": f"sha256={digest}"}}}
        for name, digest in digests.items()
    ]
    report, wheel = tmp_path / "report.json", tmp_path / "praetor_agent-1.0-py3-none-any.whl"
    report.write_text(json.dumps({"install": installed}))
    wheel.write_bytes(b"a wheel")
    digests["praetor-agent"] = hashlib.sha256(b"a wheel").hexdigest()
    done = run_sbom(python, report, wheel)
    sbom = json.loads(done.stdout)
    licences = ("Apache-2.0", "License :: OSI Approved :: A", "MIT")
    assert check_sbom(sbom, digests, licences) == licences
    entries = [sbom["metadata"]["component"], *sbom["components"]]
    assert {each["name"]: each["hashes"] for each in entries} == {
        name: [{"alg": "SHA-256", "content": digest}] for name, digest in digests.items()
    }
    assert run_sbom(python, report).returncode, "a package whose file is not known fails the build"


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_what_an_image_adds_to_its_base_is_measured_and_its_sbom_is_found(tmp_path: Path) -> None:
    sbom = {"metadata": {"component": {"name": "praetor-agent"}}}
    layers = {
        "base.tar": tar_of({"lib": os.urandom(3_000_000)}),
        "ours.tar": tar_of(
            {"opt/a": os.urandom(1_000_000), "opt/b": bytes(2_000_000), SBOM: json.dumps(sbom).encode()}
        ),
    }
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar_of({"manifest.json": json.dumps([{"Layers": list(layers)}]).encode(), **layers}))
    added = added_of(archive, 1)
    assert 1_000_000 < added.size < 1_100_000
    assert added.sbom == sbom
    added.check("agent")
    assert added_of(archive, 0).size > 4_000_000


@pytest.mark.parametrize(
    ("component", "mb", "name", "message"),
    [
        ("agent", 20.1, "praetor-agent", "adds 20.1 MB to its base, compressed, and may add 20"),
        ("gateway", 60.1, "praetor-gateway", "adds 60.1 MB to its base, compressed, and may add 60"),
        ("agent", 1, "praetor-gateway", "the image of praetor-agent has no SBOM of its own"),
        ("agent", 1, None, "the image of praetor-agent has no SBOM of its own"),
    ],
)
def test_an_image_that_is_too_big_or_has_no_sbom_is_refused(
    component: str, mb: float, name: str | None, message: str
) -> None:
    sbom: dict[str, Any] | None = {"metadata": {"component": {"name": name}}} if name else None
    with pytest.raises(ImageError, match=message):
        Added(size=int(mb * 1e6), sbom=sbom).check(component)


def test_every_image_has_a_limit() -> None:
    assert set(LIMIT_MB) == set(COMPONENTS)


@pytest.mark.parametrize("component", COMPONENTS)
def test_requirements_ask_for_what_the_wheels_ask_for(component: str) -> None:
    asked = {line for line in requirements(f"{component}.in").splitlines() if not line.startswith("#")}
    own = project(f"praetor-{component}")["dependencies"]
    assert isinstance(own, list)
    shared: set[str] = extras(f"praetor-{component}", "fast")
    if any(line.startswith("praetor-api[kube]") for line in own):
        shared |= extras("praetor-api", "kube") | extras("praetor-api", "otel")
    assert asked == shared | {line for line in own if not line.startswith("praetor-api")}


def extras(wheel: str, name: str) -> set[str]:
    """Return what the extra *name* of *wheel* adds; nothing where there is none."""
    found = project(wheel).get("optional-dependencies", {})
    assert isinstance(found, dict)
    return set(found.get(name, ()))


@pytest.mark.parametrize("component", COMPONENTS)
def test_images_hold_the_versions_that_the_gate_ran_with(component: str) -> None:
    pinned, tested = pins(f"{component}.txt"), pins("dev.txt")
    assert pinned
    assert {name: tested.get(name) for name in pinned} == pinned


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_pin_has_a_hash_and_no_file_names_a_host(component: str) -> None:
    text = requirements(f"{component}.txt")
    entries = re.split(r"\n(?=[a-z])", text)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?://|file:|--index|--find-links|--extra-index", text)


def test_the_agents_image_holds_requests_and_its_own_four() -> None:
    assert set(pins("agent.txt")) == {"requests", "certifi", "charset-normalizer", "idna", "urllib3"}


def test_the_context_of_a_build_is_wheels_requirements_and_the_sboms_program_only() -> None:
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() == [
        "*",
        "!dist/*.whl",
        "!requirements/*.txt",
        "!deploy/images/sbom.py",
    ]


@pytest.mark.parametrize("engine", Engine)
def test_a_base_the_version_and_pips_settings_are_passed_on(engine: Engine, tmp_path: Path) -> None:
    pip = PipSettings(config="[global]\n", ca=tmp_path / "ca.pem", folders=(tmp_path / "index",))
    argv = build_argv(engine, IMAGE, base="localhost/base:1", pip=pip, secrets=tmp_path)
    assert argv[:2] == [engine.value, "build"]
    assert "--tag=localhost/praetor-gateway:1.2.3" in argv
    assert "--build-arg=VERSION=1.2.3" in argv
    assert "--build-arg=BASE=localhost/base:1" in argv
    assert f"--secret=id=pip.conf,src={tmp_path / 'pip.conf'}" in argv
    assert f"--secret=id=ca.pem,src={tmp_path / 'ca.pem'}" in argv
    folders = [word for word in argv if word.startswith("--volume=")]
    assert folders == ([] if engine is Engine.DOCKER else [f"--volume={tmp_path / 'index'}:{tmp_path / 'index'}:ro"])


def test_without_a_base_the_dockerfiles_own_is_used(tmp_path: Path) -> None:
    argv = build_argv(Engine.DOCKER, IMAGE, base=None, pip=NO_SETTINGS, secrets=tmp_path)
    assert not [word for word in argv if "BASE" in word]


@pytest.mark.containers
@pytest.mark.parametrize("engine", [Engine.BUILDAH, Engine.PODMAN])
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("buildah"), reason="needs root and buildah")
def test_a_folder_becomes_a_base_without_what_the_kernel_mounts(engine: Engine, tmp_path: Path) -> None:
    if not shutil.which(engine):
        pytest.skip(f"{engine} is not installed")
    root = tmp_path / "root"
    for place in ("etc/hostname", "proc/version"):
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text("leaf-1")
    name = import_base(engine, root, name=f"localhost/praetor-test-{os.getpid()}")
    try:
        container = output_of(["buildah", "from", "--pull-never", name]).strip()
        mounted = Path(output_of(["buildah", "mount", container]).strip())
        assert (mounted / "etc/hostname").read_text() == "leaf-1"
        assert (mounted / "proc").is_dir()
        assert not (mounted / "proc/version").exists()
        output_of(["buildah", "rm", container])
    finally:
        output_of(["buildah", "rmi", "--force", name])


WORKS = 'for word; do case $word in --iidfile=*) echo sha256:1 > "${word#*=}";; esac; done'
OLD = 'echo "DEPRECATED: use another"; echo; echo "unknown flag: --secret"; echo "See help"; exit 125'
NO_BUILDX = 'test "$DOCKER_BUILDKIT" = 1 && echo "ERROR: the buildx component is missing." && exit 1'
DOWN = 'echo "Cannot connect to the daemon"; exit 1'
SILENT = "exit 3"


@pytest.mark.parametrize(
    ("installed", "chosen", "reasons"),
    [
        ({"docker": WORKS, "podman": WORKS, "buildah": WORKS}, Engine.DOCKER, []),
        ({"docker": OLD, "podman": WORKS}, Engine.PODMAN, ["docker cannot build them: unknown flag: --secret"]),
        (
            {"docker": NO_BUILDX, "podman": DOWN, "buildah": WORKS},
            Engine.BUILDAH,
            [
                "docker cannot build them: ERROR: the buildx component is missing.",
                "podman cannot build them: Cannot connect to the daemon",
            ],
        ),
        (
            {"buildah": WORKS},
            Engine.BUILDAH,
            ["docker cannot build them: it is not installed", "podman cannot build them: it is not installed"],
        ),
        ({"podman": SILENT}, None, ["podman cannot build them: it says nothing", "install buildah"]),
        ({}, None, ["docker cannot build them: it is not installed", "install buildah"]),
    ],
    ids=["all", "old-docker", "last", "one", "broken", "none"],
)
def test_an_engine_that_can_is_taken_and_it_is_said_why_others_are_not(
    installed: dict[str, str],
    chosen: Engine | None,
    reasons: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, script in installed.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    if chosen is None:
        with pytest.raises(ImageError) as caught:
            find_engine(said.append)
        assert [each for each in reasons if each not in caught.value.message] == []
    else:
        assert find_engine(said.append) is chosen
        assert said == [*reasons, f"{chosen} builds the images; --engine chooses another one"]


@pytest.mark.parametrize("engine", [Engine.BUILDAH, Engine.PODMAN])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_real_engine_is_found_able(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which(engine)
    if program is None:
        pytest.skip(f"{engine} is not installed")
    for other in set(Engine) - {engine}:
        (tmp_path / other).write_text(f"#!/bin/sh\n{DOWN}\n")
        (tmp_path / other).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    assert find_engine(lambda _: None) is engine


def test_the_tag_is_the_version_of_the_wheel(tmp_path: Path) -> None:
    (tmp_path / "praetor_gateway-1.2.3-py3-none-any.whl").touch()
    (tmp_path / "praetor_gateway-1.2.3.tar.gz").touch()
    assert image_of("gateway", tmp_path) == IMAGE


@pytest.mark.parametrize("wheels", [(), ("1.2.3", "1.2.4")], ids=["none", "two"])
def test_no_image_is_made_of_a_wheel_that_is_missing_or_ambiguous(wheels: tuple[str, ...], tmp_path: Path) -> None:
    for version in wheels:
        (tmp_path / f"praetor_gateway-{version}-py3-none-any.whl").touch()
    with pytest.raises(ImageError, match="hatch run build"):
        image_of("gateway", tmp_path)
