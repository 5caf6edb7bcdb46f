# SPDX-License-Identifier: Apache-2.0
"""`praetorctl airgap`: what goes into the archive is verified, nothing is missing, and damage is found."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from praetor_controller.ctl.cli import main

REGISTRY = "registry.example:5000/net"
IMAGES = {program: f"{REGISTRY}/praetor-{program}:1.0.0" for program in ("agent", "controller", "gateway")}
VALUES = f"image: {{registry: '{REGISTRY}'}}\ncontroller: {{tag: 1.0.0}}\ngateway: {{tag: 1.0.0}}\n"
INSTALL = "".join(
    f"---\nkind: Deployment\nspec: {{template: {{spec: {{containers: [{{image: '{IMAGES[program]}'}}]}}}}}}\n"
    for program in ("controller", "gateway")
)
CLICK = "click-3-cp311-cp311-linux_x86_64.whl"
FOREIGN = {"attrs-2-py3-none-any.whl": b"attrs", CLICK: b"click"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def docker_archive(*names: str) -> bytes:
    return tar({"manifest.json": json.dumps([{"RepoTags": [name], "Layers": []} for name in names]).encode()})


def oci_archive(name: str) -> bytes:
    manifests = [{"annotations": {"org.opencontainers.image.ref.name": name}}, {"digest": "sha256:0"}]
    return tar({"oci-layout": b"{}", "index.json": json.dumps({"manifests": manifests}).encode()})


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def release(folder: Path, program: str, extras: Mapping[str, bytes]) -> None:
    """Write a release as the workflow publishes it."""
    stem = f"praetor_{program}-1.0.0"
    wheel = program.encode()
    pins = f"praetor-{program}==1.0.0 --hash=sha256:{sha256(wheel)}\n"
    for name, content in FOREIGN.items():
        package, version, *_ = name.split("-")
        pins += f"{package}=={version} \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{sha256(content)}\n"
    files = {
        f"{stem}-py3-none-any.whl": wheel,
        f"{stem}.tar.gz": b"an sdist",
        f"{stem}.txt": pins.encode(),
        f"{stem}.cdx.json": b"{}",
        **extras,
    }
    sums = "".join(f"{sha256(content)}  {name}\n" for name, content in files.items())
    write(folder, {**files, "SHA256SUMS": sums.encode()})


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """Return a folder from which a whole archive can be made."""
    folder = tmp_path / "from"
    chart = gzip.compress(tar({"praetor/values.yaml": VALUES.encode()}))
    release(folder / "api", "api", {})
    release(
        folder / "controller",
        "controller",
        {"praetor-1.0.0.tgz": chart, "install.yaml": INSTALL.encode(), "airgap.md": b"# Read me\n"},
    )
    release(folder / "gateway", "gateway", {"praetor-gateway.service": b"[Unit]\n"})
    release(folder / "agent", "agent", {"praetor-agent.pyz": b"#!"})
    write(folder / "wheels", {**FOREIGN, "praetor_api-1.0.0-py3-none-any.whl": b"api"})
    write(folder, {"two.tar": docker_archive(IMAGES["controller"], IMAGES["gateway"]), "notes.md": b"notes"})
    write(folder, {"agent.tar": oci_archive(IMAGES["agent"])})
    return folder


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["airgap", *map(str, args)], env={"COLUMNS": None})


def bundled(releases: Path) -> Path:
    target = releases.parent / "a.tar"
    result = run("bundle", "--from", releases, "--to", target)
    assert result.exit_code == 0, result.output
    return target


def test_the_archive_holds_what_installs_everything_and_says_its_digest(releases: Path) -> None:
    target = releases.parent / "a.tar"
    said = run("bundle", "--from", releases, "--to", target).output.splitlines()
    assert said == [
        f"{target}: 21 files, 6 wheels, the chart, and the images",
        *(f"  {image}" for image in sorted(IMAGES.values())),
        f"sha256 {sha256(target.read_bytes())}",
    ]
    with tarfile.open(target) as archive:
        archive.extractall(releases.parent)  # noqa: S202 - our own; Debian's Python 3.11 has no filters
    top = releases.parent / "praetor-airgap-1.0.0"
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    sums = found.pop("SHA256SUMS").decode()
    assert sums == "".join(f"{sha256(content)}  {name}\n" for name, content in sorted(found.items()))
    assert {"README.md", "install.yaml", "praetor-gateway.service", "images/two.tar", "images/agent.tar"} < set(found)
    assert os.access(top / "praetor-agent.pyz", os.X_OK)
    result = run("verify", target, "--sha256", sha256(target.read_bytes()))
    assert (result.exit_code, result.output.splitlines()[1:]) == (0, said[1:-1])
    assert result.output.startswith(f"good: {target}: 21 files")


def test_the_same_files_give_the_same_bytes_wherever_and_whenever(releases: Path) -> None:
    first = bundled(releases).read_bytes()
    again = releases.parent / "elsewhere" / "from"
    shutil.copytree(releases, again)
    for path in again.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert bundled(again).read_bytes() == first


def change(name: str, content: bytes | None) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    return act


def unlist(release: str, name: str) -> Callable[[Path], None]:
    """Publish a release without one of its files."""

    def act(folder: Path) -> None:
        sums = folder / release / "SHA256SUMS"
        sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if name not in line))
        (folder / release / name).unlink()

    return act


def lose(release: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / release)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (change("agent/praetor-agent.pyz", b"changed"), "pyz is not what SHA256SUMS says; download it again"),
        (change("agent/praetor-agent.pyz", None), "lists praetor-agent.pyz, which is not beside it; download it"),
        (change("agent/SHA256SUMS", b"a page of the forge"), "it is not what sha256sum writes; download it again"),
        (change("more/SHA256SUMS", f"{'0' * 64}  ../agent.tar\n".encode()), "../agent.tar, which is not beside it"),
        (change("wheels/attrs-9-py3-none-any.whl", b"foreign"), "has a digest that no release pins; remove it"),
        (change("other.tar", docker_archive("busybox:1")), "other.tar holds none of registry.example:5000/net"),
        (change("other.tar", b"no archive"), "other.tar holds none of"),
        (change("agent.tar", None), f"image {IMAGES['agent']} is missing; save it"),
        (change("two.tar", docker_archive(IMAGES["gateway"])), f"image {IMAGES['controller']} is missing"),
        (change(f"wheels/{CLICK}", None), "agent-1.0.0.txt: no file of click==3; get"),
        (lose("gateway"), "praetor-gateway: 0 releases instead of 1; put the folder of one release there"),
        (unlist("controller", "praetor-1.0.0.tgz"), "0 files chart/praetor-*.tgz instead of 1; download"),
        (unlist("controller", "install.yaml"), "praetor-controller: 0 files install.yaml instead of 1"),
        (unlist("controller", "airgap.md"), "praetor-controller: 0 files README.md instead of 1"),
        (unlist("agent", "praetor_agent-1.0.0.cdx.json"), "0 files sbom/praetor_agent-*.cdx.json instead of 1"),
    ],
)  # fmt: skip
def test_what_is_changed_foreign_or_missing_is_named(releases: Path, act: Callable[[Path], None], words: str) -> None:
    act(releases)
    result = run("bundle", "--from", releases, "--to", releases.parent / "a.tar")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--from: " in result.stderr
    assert words in result.stderr
    assert not list(releases.parent.glob("*.tar"))


def test_two_versions_of_a_wheel_are_refused(releases: Path) -> None:
    shutil.copytree(releases / "agent", releases / "older")
    sums = releases / "older" / "SHA256SUMS"
    for path in (releases / "older").iterdir():
        path.rename(path.with_name(path.name.replace("1.0.0", "0.9.0")))
    sums.write_text(sums.read_text().replace("1.0.0", "0.9.0"))
    result = run("bundle", "--from", releases)
    assert (result.exit_code, "praetor-agent: 2 releases instead of 1" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bundle", "--from", "none"), "--from: none has no SHA256SUMS; download the release of each wheel"),
        (
            ("verify", "none.tar"),
            "FILE: cannot read none.tar: No such file or directory; name what airgap bundle wrote",
        ),
    ],
)
def test_a_place_that_is_not_there_is_named(words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_a_place_that_cannot_be_written_is_named_and_left_alone(releases: Path) -> None:
    result = run("bundle", "--from", releases, "--to", releases / "none" / "a.tar")
    assert (result.exit_code, "--to: cannot write" in result.stderr) == (2, True)


def rewritten(file: Path, act: Callable[[dict[str, bytes]], None]) -> None:
    with tarfile.open(file) as archive:
        files = {member.name: content.read() for member in archive if (content := archive.extractfile(member))}
    act(files)
    file.write_bytes(tar(files))


TOP = "praetor-airgap-1.0.0"


def consistently(name: str) -> Callable[[dict[str, bytes]], None]:
    """Take a file out, and out of the checksums, too."""

    def act(files: dict[str, bytes]) -> None:
        del files[f"{TOP}/{name}"]
        sums = files[f"{TOP}/SHA256SUMS"].decode().splitlines(keepends=True)
        files[f"{TOP}/SHA256SUMS"] = "".join(line for line in sums if name not in line).encode()

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda files: files.update({f"{TOP}/install.yaml": b"changed"}), "install.yaml: missing, changed or not"),
        (lambda files: files.pop(f"{TOP}/README.md"), "README.md: missing, changed or not listed"),
        (lambda files: files.update({f"{TOP}/more": b""}), "more: missing, changed or not listed"),
        (lambda files: files.update({f"{TOP}/\x1b[2J": b""}), "[2J: missing, changed or not listed"),
        (lambda files: files.pop(f"{TOP}/SHA256SUMS"), "it has no SHA256SUMS"),
        (lambda files: files.update({"other/file": b""}), "it is not one folder of files"),
        (lambda files: files.update({f"{TOP}/../file": b""}), "it has a name that leads out of its folder"),
        (consistently("images/agent.tar"), f"image {IMAGES['agent']} is missing"),
        (consistently("wheels/attrs-2-py3-none-any.whl"), "no file of attrs==2"),
    ],
)  # fmt: skip
def test_a_damaged_or_incomplete_archive_is_found(
    releases: Path, act: Callable[[dict[str, bytes]], None], words: str
) -> None:
    file = bundled(releases)
    rewritten(file, act)
    result = run("verify", file)
    assert result.exit_code == 3
    assert result.output.startswith("bad: ")
    assert words in result.output
    assert "\x1b" not in result.output


def with_part(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    """Put *content* into the archive, and its checksum, as someone does who makes an archive to harm."""

    def act(files: dict[str, bytes]) -> None:
        files[f"{TOP}/{name}"] = content
        sums = [line for line in files[f"{TOP}/SHA256SUMS"].decode().splitlines() if line.split()[1] != name]
        files[f"{TOP}/SHA256SUMS"] = "\n".join([*sums, f"{sha256(content)}  {name}"]).encode() + b"\n"

    return act


def chart_of(values: str) -> bytes:
    return gzip.compress(tar({"praetor/values.yaml": values.encode()}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("requirements/praetor_api-1.0.0.txt", b"\xff", "cannot be understood"),
        ("install.yaml", b"- 7\n", "cannot be understood"),
        ("install.yaml", b"a: &a {x: 1}\nb: {<< : [*a, *a]}\n", "bad: install.yaml: it has merge keys"),
        ("install.yaml", b"[" * 2_000, "cannot be understood"),
        ("install.yaml", b"a: " + b"9" * 5_000, "bad: install.yaml: Exceeds the limit"),
        ("install.yaml", INSTALL.replace("image: '", "image: 7, x: '").encode(), "cannot be understood"),
        ("chart/praetor-1.0.0.tgz", chart_of(VALUES.replace("registry: '", "registry: {}, x: '")), "no chart"),
        ("chart/praetor-1.0.0.tgz", chart_of(VALUES + "x: " + "y" * (2 << 20)), "its values have more than 1 MiB"),
        ("images/x.tar", tar({"manifest.json": b"[" * 100_000}), ""),
        ("images/\x1b[2J.tar", b"", ""),
        ("wheels/praetor_agent-\x1b[2J-x.whl", b"", "2 releases instead of 1"),
    ],
)  # fmt: skip
def test_an_archive_that_was_made_to_harm_is_judged_in_sentences(
    releases: Path, name: str, content: bytes, words: str
) -> None:
    file = bundled(releases)
    rewritten(file, with_part(name, content))
    result = run("verify", file)
    assert result.exit_code == (3 if words else 0), result.output
    assert words in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("length", [0, 700, 5000])
def test_an_archive_that_was_cut_off_is_found(releases: Path, length: int) -> None:
    file = bundled(releases)
    file.write_bytes(file.read_bytes()[:length])
    result = run("verify", file)
    assert (result.exit_code, result.output[:5]) == (3, "bad: ")


def test_another_archive_than_the_one_that_was_made_is_found(releases: Path) -> None:
    file = bundled(releases)
    result = run("verify", file, "--sha256", "0" * 64)
    assert (result.exit_code, result.output.startswith(f"bad: the SHA-256 of {file} is ")) == (3, True)
