"""`hatch run build`: the wheel and the sdist of every package, into dist/."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("praetor-api", "praetor-controller", "praetor-gateway", "praetor-agent")
SUFFIXES = (".whl", ".tar.gz")


class BuildError(click.ClickException):
    """A package could not be built."""


@frozen(kw_only=True)
class Built:
    """One file that was built."""

    package: str
    path: Path
    size: int


def build_package(package: str, out: Path) -> None:
    """Build the sdist of *package*, and the wheel out of that sdist, into *out*.

    Nothing is installed for it: the build backend is the running environment's own.
    """
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT / "packages" / package)],
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


@click.command()
@click.argument("packages", nargs=-1, type=click.Choice(PACKAGES))
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="Where the files go; else dist/.")
def main(packages: tuple[str, ...], out: Path) -> None:
    """Build PACKAGES, or all of them, and list the files."""
    click.echo(table(build_all(packages or PACKAGES, out)))


if __name__ == "__main__":
    main()
