# SPDX-License-Identifier: Apache-2.0
"""A release: what makes two builds differ, what is wrong with a wheel, the wheel alone, its SBOM and its checksums."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.release.build import PACKAGES, ROOT
from e2e.release.release import (
    API,
    LOCKS,
    PLACES,
    SETTINGS,
    build_extras,
    build_twice,
    check_api,
    export,
    prepare,
    write_checksums,
    write_requirements,
)
from e2e.release.sbom import check_sbom, conclude_licences, licences_of, make_sbom
from e2e.release.verify import install_alone, metadata_faults, needs_of
from e2e.release.version import Release, ReleaseError

pytestmark = pytest.mark.timeout(1800)  # ten seconds on two idle cores
RELEASE = Release(wheel=API, version="1.2.3")
LICENCE = b"Do as you like.\n"
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "praetor-api"
dynamic = ["version"]
requires-python = ">=3.9"
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
dependencies = []
[project.scripts]
it-flies = "praetor_api.fly:main"
[tool.hatch.version]
path = "src/praetor_api/__about__.py"
[tool.hatch.build.targets.wheel]
packages = ["src/praetor_api"]
"""
PROJECT = {
    "pyproject.toml": PYPROJECT,
    "README.md": "# It flies\n",
    "CHANGELOG.md": "## 1.2.3 - 2026-11-29\n\n- It flies.\n",
    "LICENSE": LICENCE.decode(),
    "src/praetor_api/__init__.py": "",
    "src/praetor_api/__about__.py": '__version__ = "1.2.3"\n',
    "src/praetor_api/fly.py": "def main() -> None:\n    print('It flies')\n",
}
HOOK = """
import os, time
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        for i, seen in enumerate((os.getcwd(), time.time(), os.environ["TZ"], hash("a"), os.umask(18))):
            with open(f"src/praetor_api/built_{i}.py", "w") as file:
                file.write(repr(seen))
"""


class Built(NamedTuple):
    """A repository that holds one package, which nothing is wrong with, committed and tagged, and its release."""

    repository: Path
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = make_repository(tmp_path_factory.mktemp("built"))
    (root / "packages" / API / "src" / "praetor_api" / "later.py").touch()
    wheel, sdist = build_twice(RELEASE, root, None, root.parent)[1]
    return Built(root, wheel, sdist)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path)


def make_repository(folder: Path) -> Path:
    root = folder / "repository"
    for name, text in PROJECT.items():
        path = root / "packages" / API / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "LICENSE").write_bytes(LICENCE)
    git(root, "init", "--quiet")
    commit(root)
    git(root, "tag", RELEASE.tag)
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.example", *words], check=True)


def commit(root: Path) -> None:
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=All")


def rewritten(wheel: Path, change: tuple[str, str, str], folder: Path) -> Path:
    """Write a copy of *wheel* into *folder* with a pattern replaced in one member, which may be a new one."""
    name, pattern, text = change
    with zipfile.ZipFile(wheel) as archive:
        members = {member: archive.read(member).decode() for member in archive.namelist()}
    members[name] = re.sub(pattern, text, members.get(name, ""), count=1)
    with zipfile.ZipFile(folder / wheel.name, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return folder / wheel.name


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_two_builds_of_what_is_committed_have_equal_bytes(built: Built) -> None:
    assert built.wheel.name == "praetor_api-1.2.3-py3-none-any.whl"
    assert built.sdist.name == "praetor_api-1.2.3.tar.gz"
    assert list(metadata_faults(RELEASE, built.wheel, built.sdist, LICENCE)) == []
    assert "praetor_api/fly.py" in contents(built.wheel)
    assert "praetor_api/later.py" not in contents(built.wheel)


def test_a_build_that_depends_on_where_or_when_it_runs_is_refused(repository: Path, tmp_path: Path) -> None:
    project = repository / "packages" / API
    (project / "hatch_build.py").write_text(HOOK)
    with (project / "pyproject.toml").open("a") as file:
        file.write("[tool.hatch.build.hooks.custom]\n")
    commit(repository)
    with pytest.raises(
        ReleaseError, match=r"two builds of praetor-api differ in praetor_api-1\.2\.3-py3-none-any\.whl"
    ):
        build_twice(RELEASE, repository, None, tmp_path)
    first, second = (contents(wheel) for wheel in tmp_path.rglob("*.whl"))
    assert {name for name in first if first[name] != second[name]} >= {f"praetor_api/built_{i}.py" for i in range(5)}


def test_the_chart_and_install_yaml_are_of_the_exported_sources(tmp_path: Path) -> None:
    source = export(ROOT, tmp_path, PLACES[1])
    for name in ("deploy/base/namespace.yaml", "deploy/chart/values.yaml"):
        with (source / name).open("a") as file:
            file.write("---\nkind: Namespace\nmetadata: {name: other}\n" if "base" in name else "nodeSelector: {}\n")
    out = tmp_path / "out"
    build_extras("praetor-controller", source, [], out, "registry.example/a", PLACES[1])
    assert "name: other" in (out / "install.yaml").read_text()
    assert "image: registry.example/a/praetor-gateway:" in (out / "install.yaml").read_text()
    with tarfile.open(out / "praetor-0.1.0.tgz") as archive:
        values = archive.extractfile("praetor/values.yaml")
        assert values is not None
        assert values.read().endswith(b"nodeSelector: {}\n")


def test_a_gateways_release_has_its_systemd_unit(tmp_path: Path) -> None:
    build_extras("praetor-gateway", ROOT, [], tmp_path, "registry.example/a", PLACES[0])
    (unit,) = tmp_path.iterdir()
    assert "ExecStart=/opt/praetor/bin/praetor-gateway\n" in unit.read_text()


INFO = "praetor_api-1.2.3.dist-info"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ((f"{INFO}/licenses/LICENSE", "as you like", "nothing"), "its LICENSE is not the repository's"),
        (("tests/test_it.py", "^", "1"), "the wheel has tests beside the package"),
        (("praetor_api/fly.py", "flies", "sinks"), "its RECORD has another digest of praetor_api/fly.py"),
        ((f"{INFO}/METADATA", "Version: 1.2.3", "Version: 1.2.4"), "its metadata names praetor-api 1.2.4"),
        ((f"{INFO}/METADATA", "Expression: Apache-2.0", "Expression: MIT"), "has the licence MIT, not Apache-2.0"),
        ((f"{INFO}/METADATA", "# It flies", ""), "its metadata has no README in Markdown"),
        ((f"{INFO}/METADATA", ">=3.9", ">=3.8"), "its metadata asks for Python >=3.8"),
        (
            (f"{INFO}/METADATA", "Requires-P", "Requires-Dist: attrs @ https://a.example/a.whl\nRequires-P"),
            "it asks for attrs by URL; name a range of versions",
        ),
        (
            (f"{INFO}/METADATA", "Requires-P", "Requires-Dist: praetor-x>=0.1\nRequires-P"),
            "it asks for praetor-x>=0.1 without an upper bound; write praetor-x>=1.2,<1.3",
        ),
    ],
)
def test_what_is_wrong_with_a_wheel_is_named(
    change: tuple[str, str, str], fault: str, built: Built, tmp_path: Path
) -> None:
    wheel = rewritten(built.wheel, change, tmp_path)
    assert any(fault in found for found in metadata_faults(RELEASE, wheel, built.sdist, LICENCE))


def test_metadata_that_no_index_accepts_is_refused(built: Built, tmp_path: Path) -> None:
    wheel = rewritten(built.wheel, (f"{INFO}/METADATA", "Version: 1.2.3", "Version: one"), tmp_path)
    with pytest.raises(ReleaseError, match=r"its metadata is not valid: .*one"):
        list(metadata_faults(RELEASE, wheel, built.sdist, LICENCE))


def test_a_wheel_names_the_wheels_of_this_project_that_it_needs(built: Built, tmp_path: Path) -> None:
    more = "Requires-Dist: attrs\nRequires-Dist: Praetor_X[k]<2\nRequires-P"
    wheel = rewritten(built.wheel, (f"{INFO}/METADATA", "Requires-P", more), tmp_path)
    assert needs_of(wheel) == ("praetor-x",)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.usefixtures("offline")
def test_a_wheel_alone_runs_its_commands_and_has_an_sbom_with_the_digest_of_its_file(
    built: Built, tmp_path: Path
) -> None:
    requirements, wheel = tmp_path / "requirements.txt", tmp_path / "out" / built.wheel.name
    wheel.parent.mkdir()
    shutil.copy(built.wheel, wheel)
    write_requirements(RELEASE, built.repository, [wheel], requirements)
    alone = install_alone(RELEASE, requirements, wheel.parent, tmp_path / "alone")
    assert alone.commands == ("it-flies",)
    sbom = make_sbom(RELEASE, built.repository / "packages" / API / "pyproject.toml", alone.python, alone.hashes)
    assert check_sbom(sbom, alone.hashes, ["Apache-2.0"]) == ("Apache-2.0",)
    write_checksums(wheel.parent)
    digest, name = (wheel.parent / "SHA256SUMS").read_text().split()
    root = sbom["metadata"]["component"]
    assert (root["purl"], name) == ("pkg:pypi/praetor-api@1.2.3", wheel.name)
    assert root["hashes"] == [{"alg": "SHA-256", "content": digest}]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=wheel.parent, check=True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("locked", [True, False], ids=["a-foreign-file", "a-command-that-fails"])
def test_a_wheel_that_is_foreign_or_does_not_work_alone_is_refused(locked: bool, built: Built, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    wheel = rewritten(built.wheel, ("praetor_api/fly.py", "print", "raise OSError"), tmp_path)
    write_requirements(RELEASE, built.repository, [built.wheel if locked else wheel], requirements)
    expected = "THESE PACKAGES DO NOT MATCH THE HASHES" if locked else "it-flies --help ended with status"
    with pytest.raises(ReleaseError, match=expected):
        install_alone(RELEASE, requirements, tmp_path, tmp_path / "alone")


def licensed(name: str, *licences: dict[str, object]) -> dict[str, object]:
    return {"type": "library", "name": name, "licenses": list(licences)}


@pytest.mark.parametrize(
    ("component", "refused"),
    [
        (licensed("a", {"license": {"id": "MIT"}}, {"license": {"name": "License :: MIT"}}), None),
        (licensed("a", {"expression": "MIT OR (Apache-2.0 AND MIT)"}), None),
        (licensed("a", {"license": {"name": "License :: Apache"}}), None),
        (licensed("a", {"license": {"id": "GPL-3.0-only"}}), "a has GPL-3.0-only; replace it, or add that to licences"),
        (licensed("a", {"expression": "MIT AND GPL-3.0-only"}), "a has GPL-3.0-only"),
        (licensed("a", {"license": {"name": "Ours"}}), "a has Ours"),
        (licensed("a"), "a has no licence"),
        (licensed("b", {"license": {"id": "MIT"}}), "a is installed and not listed"),
        ({"type": "spaceship", "name": "a", "licenses": [{"license": {"id": "MIT"}}]}, "it is no V1_6: "),
    ],
)
def test_an_sbom_names_every_package_and_each_has_an_approved_licence(
    component: dict[str, object], refused: str | None
) -> None:
    root = licensed("praetor-api", {"license": {"id": "Apache-2.0"}})
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": [component],
    }
    approved, hashes = ("Apache-2.0", "MIT", "License :: Apache"), {"praetor-api": "0" * 64, "a": "0" * 64}
    if refused is None:
        assert check_sbom(sbom, hashes, approved)
    else:
        with pytest.raises(ReleaseError) as caught:
            check_sbom(sbom, hashes, approved)
        assert refused in caught.value.message


def test_a_licence_that_a_package_does_not_name_is_concluded_and_no_other() -> None:
    silent, named = {"name": "Proto_Buf"}, licensed("named", {"license": {"id": "MIT"}})
    sbom = {"metadata": {"component": {"name": "praetor-api"}}, "components": [silent, named]}
    conclude_licences(sbom, {"proto-buf": "BSD-3-Clause", "named": "ISC"})
    assert [sorted(licences_of(each)) for each in (silent, named)] == [["BSD-3-Clause"], ["MIT"]]


def test_a_tagged_commit_is_prepared_with_its_notes(repository: Path) -> None:
    prepared = prepare(API, repository, dry_run=False, api=None)
    assert (prepared.release, prepared.notes) == (RELEASE, "- It flies.")


def test_a_commit_after_the_tag_is_prepared_by_a_dry_run_alone(repository: Path) -> None:
    (repository / "new").touch()
    commit(repository)
    assert prepare(API, repository, dry_run=True, api=None).release == RELEASE
    with pytest.raises(ReleaseError, match=r"the commit has no tag praetor-api-v1\.2\.3"):
        prepare(API, repository, dry_run=False, api=None)


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (None, "write --api FILE with the wheel of praetor-api-v1.2.3"),
        (Path("praetor_api-1.2.2-py3-none-any.whl"), "write the path of the wheel of praetor-api-v1.2.3"),
        (Path("praetor_gateway-1.2.3-py3-none-any.whl"), "write the path of the wheel of praetor-api-v1.2.3"),
    ],
)
def test_another_wheel_is_released_with_the_released_praetor_api(api: Path | None, message: str) -> None:
    agent = Release(wheel="praetor-agent", version="0.1.0")
    with pytest.raises(ReleaseError, match=message):
        check_api(agent, RELEASE, api)
    check_api(agent, RELEASE, Path("praetor_api-1.2.3-py3-none-any.whl"))


def test_every_wheel_is_installed_with_a_lock_of_its_own() -> None:
    assert set(LOCKS) == set(PACKAGES)
    assert all((ROOT / "requirements" / f"{lock}.txt").exists() for lock in LOCKS.values() if lock)


def test_no_name_is_confirmed_on_the_public_index() -> None:
    assert tomllib.loads(SETTINGS.read_text())["confirmed_names"] == []
