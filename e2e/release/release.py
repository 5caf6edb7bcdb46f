# SPDX-License-Identifier: Apache-2.0
"""`hatch run release WHEEL`: everything that a release of one wheel needs, up to the upload, which a workflow does.

What is released is what is committed. It is built twice, in two places that differ in all that may not matter, and the
bytes must be equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import click
from attrs import frozen
from packaging.utils import canonicalize_name, parse_wheel_filename

from e2e.release.build import PACKAGES, ROOT, build_package
from e2e.release.images import REGISTRY
from e2e.release.sbom import check_sbom, conclude_licences, make_sbom
from e2e.release.verify import install_alone, metadata_faults, needs_of
from e2e.release.version import Release, ReleaseError, check_changelog, check_tag, read_release, refusal
from e2e.release.zipapp import build_zipapp

SETTINGS = Path(__file__).with_name("release.toml")
API = "praetor-api"
AIRGAP_PAGE = Path("docs", "airgap.md")
GATEWAY_UNIT = Path("deploy", "systemd", "praetor-gateway.service")
AT_A_TIME = 2  # wheels; a release mostly waits for an index
CHECKSUMS, NOTES = "SHA256SUMS", "NOTES.md"
LOCKS = {API: None, "praetor-controller": "controller", "praetor-gateway": "gateway", "praetor-agent": "agent"}


@frozen(kw_only=True)
class Place:
    """Where a build runs; nothing of it may be visible in what is built."""

    folder: str
    environ: Mapping[str, str]
    umask: int
    modified: int


PLACES = (
    Place(folder="a", environ={"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"}, umask=0o022, modified=0),
    Place(
        folder="another/place",
        environ={"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "1"},
        umask=0o077,
        modified=1_700_000_001,
    ),
)


@frozen(kw_only=True)
class Prepared:
    """A release whose version, tag and changelog agree; *notes* are its entries of the changelog."""

    release: Release
    notes: str


def prepare(wheel: str, root: Path, *, dry_run: bool, api: Path | None) -> Prepared:
    """Return the release of *wheel* that the commit of the repository *root* holds; ReleaseError if it holds none.

    *api* is the released wheel of praetor-api. A dry run asks for no tag, no date and no such wheel.
    """
    release = _release_of(wheel, root)
    check_tag(release, _git(root, "tag", "--points-at", "HEAD").split(), required=not dry_run)
    today = _git(root, "log", "-1", "--format=%cs").strip()
    notes = check_changelog(release, _git(root, "show", f"HEAD:{release.changelog}"), today, dated=not dry_run)
    if wheel != API and not dry_run:
        check_api(release, _release_of(API, root), api)
    return Prepared(release=release, notes=notes)


def check_api(release: Release, needed: Release, api: Path | None) -> None:
    """Raise ReleaseError unless *api* is the wheel of *needed*, the praetor-api that *release* was made with."""
    if api is None:
        raise ReleaseError(
            f"{release.wheel} is released with a released praetor-api; write --api FILE with the wheel of {needed.tag}"
        )
    name, version, *_ = parse_wheel_filename(api.name)
    if (canonicalize_name(name), str(version)) != (needed.wheel, needed.version):
        raise ReleaseError(f"--api is {api.name}; write the path of the wheel of {needed.tag}")


def export(root: Path, folder: Path, place: Place) -> Path:
    """Write what is committed in the repository *root* below *folder*, as *place* has it, and return where."""
    target = folder / place.folder / "praetor"
    target.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(_git_bytes(root, "archive", "--format=tar", "HEAD"))) as archive:
        archive.extractall(target)  # noqa: S202  # our own commit; filters came with Python 3.11.4
    for path in target.rglob("*"):
        path.chmod(path.stat().st_mode & ~place.umask)
        os.utime(path, (place.modified, place.modified), follow_symlinks=False)
    return target


def build_twice(
    release: Release, root: Path, api: Path | None, folder: Path, registry: str = REGISTRY
) -> tuple[Path, tuple[Path, ...]]:
    """Build what is committed in the repository *root* twice below *folder*; ReleaseError if the builds differ.

    Return the root of the first build's sources, and its files. *api* is the wheel of praetor-api, which all others
    need; *registry* has the images that the manifests name.
    """
    places = [(place, export(root, folder, place)) for place in PLACES]

    def build(place: Place, source: Path) -> dict[str, Path]:
        out = folder / place.folder / "out"
        build_package(release.wheel, out, root=source, environ={**os.environ, **place.environ}, umask=place.umask)
        build_extras(release.wheel, source, [*out.glob("*.whl"), *([api] if api else [])], out, registry, place)
        return {path.name: path for path in sorted(out.iterdir())}

    with ThreadPoolExecutor() as pool:
        builds = list(pool.map(build, *zip(*places, strict=True)))
    first, second = builds
    digests = [{name: sha256(path) for name, path in build.items()} for build in builds]
    if digests[0] != digests[1]:
        names = sorted(name for name in {*first, *second} if digests[0].get(name) != digests[1].get(name))
        raise ReleaseError(
            f"two builds of {release.wheel} differ in {', '.join(names)}; "
            "compare them with diffoscope, and remove what depends on the place, the time or the order"
        )
    return places[0][1], tuple(first.values())


def build_extras(wheel: str, root: Path, wheels: Iterable[Path], out: Path, registry: str, place: Place) -> None:
    """Write into *out* what the release of *wheel* has beside it: a zipapp, a systemd unit or manifests.

    *wheels* are its own and praetor-api's; *root* has the sources in *place*, and *registry* the images.
    """
    match wheel:
        case "praetor-agent":
            build_zipapp(root, wheels, out)
        case "praetor-gateway":
            shutil.copyfile(root / GATEWAY_UNIT, out / GATEWAY_UNIT.name)
        case "praetor-controller":
            words = [sys.executable, "-m", "e2e.release.chart", f"--registry={registry}", f"--out={out}"]
            done = subprocess.run(
                words, cwd=root, env={**os.environ, **place.environ}, umask=place.umask,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise ReleaseError(f"the chart could not be built:\n{done.stdout.rstrip()}")
            shutil.copyfile(root / AIRGAP_PAGE, out / AIRGAP_PAGE.name)


def build_api(root: Path, folder: Path) -> Path:
    """Build what is committed of praetor-api in the repository *root* below *folder*, and return its wheel."""
    build_package(API, folder / "out", root=export(root, folder, PLACES[0]))
    return _only((folder / "out").iterdir(), ".whl")


def write_requirements(release: Release, root: Path, wheels: Iterable[Path], target: Path) -> None:
    """Write what `pip install --require-hashes` needs to install exactly this wheel: our files, then the lock's."""
    lock = LOCKS[release.wheel]
    lines = []
    for path in wheels:
        name, version, *_ = parse_wheel_filename(path.name)
        lines.append(f"{name}=={version} --hash=sha256:{sha256(path)}\n")
    locked = (root / "requirements" / f"{lock}.txt").read_text(encoding="utf-8") if lock else ""
    target.write_text("".join(sorted(lines)) + locked, encoding="utf-8")


def make_release(
    release: Release, root: Path, *, api: Path | None, registry: str, out: Path, say: Callable[[str], None]
) -> bool:
    """Build, verify and describe *release* of the repository *root* into the folder *out*.

    Return whether its wheel may go to the public index. *api* is the wheel of praetor-api that it needs; *registry* has
    the images that the manifests name; *say* gets a line of text per step.
    """
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="praetor-release-") as name:
        folder = Path(name)
        source, built = build_twice(release, root, api, folder, registry)
        say(f"built twice with equal bytes: {', '.join(path.name for path in built)}")
        wheel, sdist = (_only(built, suffix) for suffix in (".whl", ".tar.gz"))
        if faults := list(metadata_faults(release, wheel, sdist, (source / "LICENSE").read_bytes())):
            raise ReleaseError(f"{wheel.name} cannot be released: {'; '.join(faults)}")
        links = folder / "wheels"
        links.mkdir()
        for path in (wheel, *([api] if api else [])):
            shutil.copy(path, links)
        requirements = folder / f"{release.stem}.txt"
        write_requirements(release, source, links.glob("*.whl"), requirements)
        alone = install_alone(release, requirements, links, folder / "alone")
        commands = ", ".join(alone.commands) or "none"
        say(f"installed alone, with the {len(alone.hashes) - 1} packages that it needs; commands: {commands}")
        sbom = make_sbom(release, source / "packages" / release.wheel / "pyproject.toml", alone.python, alone.hashes)
        conclude_licences(sbom, settings["concluded_licences"])
        say(f"licences: {', '.join(check_sbom(sbom, alone.hashes, settings['licences']))}")
        bill = folder / f"{release.stem}.cdx.json"
        bill.write_text(json.dumps(sbom, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for path in (*built, requirements, bill):
            shutil.copy(path, out)
        write_checksums(out)
        say(f"files and {CHECKSUMS}: {out}")
        refused = refusal(release.wheel, needs_of(wheel), settings["confirmed_names"])
    if refused:
        say(refused)
    return not refused


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of the files in *folder*, which `sha256sum --check` reads."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@click.command()
@click.argument("wheels", nargs=-1, metavar="[WHEEL]...", type=click.Choice(PACKAGES))
@click.option("--dry-run", is_flag=True, help="Ask for no tag, no date in the changelog and no clean working tree.")
@click.option(
    "--api",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The released wheel of praetor-api; a dry run builds it if there is none.",
)
@click.option("--registry", default=REGISTRY, show_default=True, help="Where the images are that the manifests name.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist" / "release", help="Output folder.")
@click.option(
    "--outputs", type=click.Path(path_type=Path), help="File that gets public=true or public=false, for a workflow."
)
def main(
    wheels: tuple[str, ...], dry_run: bool, api: Path | None, registry: str, out: Path, outputs: Path | None
) -> None:
    """Make everything that a release of WHEEL needs, up to the upload; a dry run without WHEEL takes all four."""
    if not wheels and not dry_run:
        raise click.UsageError(f"a release is of one wheel; name {', '.join(PACKAGES)}, or write --dry-run")
    changed = _git(ROOT, "status", "--porcelain").splitlines()
    if changed and not dry_run:
        raise ReleaseError(f"{len(changed)} files are not committed; commit them, or write --dry-run")
    chosen = wheels or PACKAGES
    prepared = [prepare(wheel, ROOT, dry_run=dry_run, api=api) for wheel in chosen]
    with tempfile.TemporaryDirectory(prefix="praetor-api-") as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        if api is None and set(chosen) != {API}:
            api = build_api(ROOT, Path(folder))
        make = partial(_make, api=api, registry=registry, out=out)
        for public, lines in pool.map(make, prepared):
            click.echo("\n".join(lines))
            if outputs is not None:
                with outputs.open("a", encoding="utf-8") as file:
                    file.write(f"public={str(public).lower()}\n")
    if changed:
        click.echo(f"{len(changed)} files are not committed, and so are not in it")


def _make(prepared: Prepared, *, api: Path | None, registry: str, out: Path) -> tuple[bool, list[str]]:
    """Return whether the wheel may go to the public index, and the lines to print."""
    release = prepared.release
    lines = [f"{release.wheel} {release.version}, tag {release.tag}"]

    def say(line: str) -> None:
        lines.append(textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))

    public = make_release(release, ROOT, api=api, registry=registry, out=out / release.stem, say=say)
    (out / f"{release.stem}-{NOTES}").write_text(f"{prepared.notes}\n", encoding="utf-8")
    return public, lines


def _release_of(wheel: str, root: Path) -> Release:
    return read_release(wheel, _git(root, "show", f"HEAD:{Release(wheel=wheel, version='').about}"))


def _only(paths: Iterable[Path], suffix: str) -> Path:
    (found,) = (path for path in paths if path.name.endswith(suffix))
    return found


def _git(root: Path, *words: str) -> str:
    return _git_bytes(root, *words).decode()


def _git_bytes(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words)} failed: {done.stderr.decode().rstrip()}")
    return done.stdout


if __name__ == "__main__":
    main()
