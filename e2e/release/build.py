# SPDX-License-Identifier: Apache-2.0
"""`hatch run build`: the wheel and the sdist of every package, into dist/, and a check of what the wheels weigh.

The same sources give the same bytes, wherever and whenever they are built with the same hatchling, Python and zlib.
A wheel may grow by a twentieth over its recorded size. One that grows by more is refused until its changelog says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("praetor-api", "praetor-controller", "praetor-gateway", "praetor-agent")
SUFFIXES = (".whl", ".tar.gz")
RECORDED = Path(__file__).with_name("wheel-sizes.toml")
GROWTH = 1.05
EPOCH = "1580601600"  # 2020-02-02, the date of every file in an archive
UNRELEASED = re.compile(r"^## .*unreleased.*?$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
EXPLAINED = re.compile(r"\bwheel\b.*?([0-9]+) kB", re.IGNORECASE)


class BuildError(click.ClickException):
    """A package could not be built, or its wheel grew without an explanation."""


@frozen(kw_only=True)
class Built:
    """One file that was built."""

    package: str
    path: Path
    size: int


def build_package(
    package: str, out: Path, root: Path = ROOT, *, environ: Mapping[str, str] | None = None, umask: int = -1
) -> None:
    """Build the sdist of *package* below *root*, and the wheel out of that sdist, into *out*.

    *root* is the folder of the repository; *environ* and *umask* are those of the build, by default this process's.
    Nothing is installed for it: the build backend is the running environment's own.
    """
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(root / "packages" / package)],
        env={**(os.environ if environ is None else environ), "SOURCE_DATE_EPOCH": EPOCH},
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{package} could not be built:\n{done.stdout.rstrip()}")


def files_of(package: str, folder: Path) -> tuple[Path, ...]:
    """Return the built files of *package* in *folder*, of whatever version."""
    stem = package.replace("-", "_")
    return tuple(path for path in sorted(folder.glob(f"{stem}-*")) if path.name.endswith(SUFFIXES))


def build_all(packages: tuple[str, ...], out: Path) -> tuple[Built, ...]:
    """Build *packages* into *out*; older builds of them are replaced, and stay if anything fails."""
    built: list[Built] = []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".building-") as staging:
        for package in packages:
            build_package(package, Path(staging))
        for package in packages:
            for stale in files_of(package, out):
                stale.unlink()
            for fresh in files_of(package, Path(staging)):
                path = fresh.rename(out / fresh.name)
                built.append(Built(package=package, path=path, size=path.stat().st_size))
    return tuple(built)


def table(built: tuple[Built, ...]) -> str:
    """Return a line per file, with its size in bytes."""
    width = max(len(file.path.name) for file in built)
    return "\n".join(f"{file.path.name:<{width}}  {file.size:>9,} B" for file in built)


def unexplained_growth(package: str, size: int, recorded: int, changelog: str) -> str | None:
    """Return what is wrong with the wheel of *package*, which has *size* bytes and had *recorded*; None if nothing is.

    An entry of the unreleased section of *changelog* that has the word "wheel" and a size in kB, such as "The wheel has
    140 kB: it simulates devices", explains growth up to that size.
    """
    if size <= recorded * GROWTH or _explained(changelog) * 1000 >= size:
        return None
    return (
        f"the wheel of {package} grew by {size / recorded - 1:.1%}, from {recorded:,} to {size:,} bytes; "
        f"make it smaller, or add to the unreleased section of packages/{package}/CHANGELOG.md: "
        f"- The wheel has {-(-size // 1000)} kB: <what the rest is for>"
    )


def read_sizes(file: Path) -> dict[str, int]:
    """Return the recorded bytes of each package's wheel."""
    sizes: dict[str, int] = tomllib.loads(file.read_text(encoding="utf-8"))
    return sizes


def write_sizes(file: Path, sizes: Mapping[str, int]) -> None:
    """Record the bytes of each package's wheel."""
    lines = [f"{package} = {size}\n" for package, size in sorted(sizes.items())]
    file.write_text("# Bytes of each wheel, as `hatch run build --record` found them.\n" + "".join(lines))


def _explained(changelog: str) -> int:
    """Return the greatest size of the wheel, in kB, that the unreleased section has; 0 if it has none."""
    found = UNRELEASED.search(changelog)
    entries = re.split(r"^- ", found[1], flags=re.MULTILINE) if found else []
    return max((int(size) for entry in entries for size in EXPLAINED.findall(" ".join(entry.split()))), default=0)


@click.command()
@click.argument("packages", nargs=-1, type=click.Choice(PACKAGES))
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="Where the files go; default: dist/."
)
@click.option("--record", is_flag=True, help="Record what the wheels weigh, for instance at a release.")
@click.option(
    "--sizes", type=click.Path(path_type=Path), default=RECORDED, help="Recorded sizes; default: the repository's."
)
@click.option(
    "--changelogs",
    type=click.Path(path_type=Path, exists=True),
    default=ROOT / "packages",
    help="Folder with PACKAGE/CHANGELOG.md of each package; default: the repository's.",
)
def main(packages: tuple[str, ...], out: Path, record: bool, sizes: Path, changelogs: Path) -> None:
    """Build PACKAGES, or all of them, list the files, and check that no wheel grew without an explanation."""
    built = build_all(packages or PACKAGES, out)
    click.echo(table(built))
    wheels = {file.package: file.size for file in built if file.path.suffix == ".whl"}
    recorded = read_sizes(sizes) if sizes.exists() else {}
    if record:
        write_sizes(sizes, recorded | wheels)
        return
    faults = [
        unexplained_growth(
            package, size, recorded[package], (changelogs / package / "CHANGELOG.md").read_text(encoding="utf-8")
        )
        for package, size in wheels.items()
        if package in recorded
    ]
    if found := [fault for fault in faults if fault]:
        raise BuildError("\n".join(found))


if __name__ == "__main__":
    main()
