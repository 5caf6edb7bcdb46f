"""`python -m e2e.release.images`: the components' images, built from dist/ and tried as a cluster would run them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path

import click
from attrs import frozen

from e2e.release.build import ROOT, build_all, files_of
from e2e.release.pipsettings import PipSettings, settings_here

COMPONENTS = ("controller", "gateway", "agent")
REGISTRY = "localhost"
BUILD_S = 900
RUN_S = 60
LIMITS = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
PYTHON = "/opt/praetor/bin/python3"
PROOF = "import os, sys; sys.exit(os.getuid() == 0 or os.access('/opt/praetor', os.W_OK))"


class Engine(StrEnum):
    """What builds images; all but buildah run them, too."""

    DOCKER = "docker"
    PODMAN = "podman"
    BUILDAH = "buildah"


class ImageError(click.ClickException):
    """An image could not be built, or does not run as it must."""


@frozen(kw_only=True)
class Image:
    """The image of a component; its tag is the version of the component's wheel."""

    component: str
    version: str

    @property
    def name(self) -> str:
        """The full name, of a registry that nobody can pull from by mistake."""
        return f"{REGISTRY}/praetor-{self.component}:{self.version}"


def find_engine(*, able_to_run: bool = False) -> Engine:
    """Return the first engine that is installed."""
    usable = [engine for engine in Engine if not (able_to_run and engine is Engine.BUILDAH)]
    found = next((engine for engine in usable if shutil.which(engine)), None)
    if found is None:
        raise ImageError(f"no container engine is installed; install one of {', '.join(usable)}")
    return found


def image_of(component: str, dist: Path) -> Image:
    """Return the image that the wheel of *component* in *dist* goes into."""
    wheels = [path for path in files_of(f"praetor-{component}", dist) if path.suffix == ".whl"]
    if len(wheels) != 1:
        raise ImageError(f"dist/ has {len(wheels)} wheels of praetor-{component} instead of 1; run `hatch run build`")
    return Image(component=component, version=wheels[0].name.split("-")[1])


def build_argv(engine: Engine, image: Image, *, base: str | None, pip: PipSettings, secrets: Path) -> list[str]:
    """Return the command line that builds *image*; *secrets* is a folder with pip.conf in it."""
    own = [] if engine is Engine.DOCKER else ["--isolation=chroot", "--network=host"]  # no kernel privilege is needed
    if engine is not Engine.DOCKER:
        own += [f"--volume={folder}:{folder}:ro" for folder in pip.folders]
    if base is not None:
        own += [f"--build-arg=BASE={base}"]
    if pip.ca is not None:
        own += [f"--secret=id=ca.pem,src={pip.ca}"]
    return [
        str(engine),
        "build",
        f"--file={ROOT / 'deploy' / 'images' / image.component / 'Dockerfile'}",
        f"--tag={image.name}",
        f"--build-arg=VERSION={image.version}",
        f"--secret=id=pip.conf,src={secrets / 'pip.conf'}",
        *own,
        str(ROOT),
    ]


def run_argv(engine: Engine, image: Image, *words: str, entrypoint: str | None = None) -> list[str]:
    """Return the command line that runs *image* once, under the limits that deploy/base sets and without a network."""
    other = [] if entrypoint is None else [f"--entrypoint={entrypoint}"]
    return [str(engine), "run", "--rm", *LIMITS, "--network=none", *other, image.name, *words]


def output_of(argv: list[str], *, timeout_s: float) -> str:
    """Run a program; return what it printed, or raise ImageError with it."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise ImageError(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout.rstrip()}")
    return done.stdout


def build_images(components: tuple[str, ...], *, engine: Engine, base: str | None) -> tuple[Image, ...]:
    """Build the images of *components* from the wheels in dist/, which are made when there are none."""
    dist = ROOT / "dist"
    wanted = ("praetor-api", *(f"praetor-{component}" for component in components))
    if missing := tuple(package for package in wanted if not files_of(package, dist)):
        build_all(missing, dist)
    pip = settings_here()
    images = tuple(image_of(component, dist) for component in components)
    with tempfile.TemporaryDirectory(prefix="praetor-images-") as secrets:
        (Path(secrets) / "pip.conf").write_text(pip.config, encoding="utf-8")
        for image in images:
            output_of(build_argv(engine, image, base=base, pip=pip, secrets=Path(secrets)), timeout_s=BUILD_S)
    return images


_components = click.argument("components", nargs=-1, type=click.Choice(COMPONENTS))
_engine = click.option(
    "--engine", type=click.Choice([engine.value for engine in Engine]), help="Else the first one that is installed."
)


@click.group()
def main() -> None:
    """Build the images of COMPONENTS, all three by default, and try them."""


@main.command()
@_components
@_engine
@click.option("--base", help="Base image with Python 3.11 or later; else the one that the Dockerfiles name.")
def build(components: tuple[str, ...], engine: str | None, base: str | None) -> None:
    """Build images from dist/ and print their names."""
    chosen = Engine(engine) if engine else find_engine()
    for image in build_images(components or COMPONENTS, engine=chosen, base=base):
        click.echo(image.name)


@main.command()
@_components
@_engine
def check(components: tuple[str, ...], engine: str | None) -> None:
    """Run each image's --help as the cluster would: not as root, on a read-only root, without capabilities."""
    chosen = Engine(engine) if engine else find_engine(able_to_run=True)
    for component in components or COMPONENTS:
        image = image_of(component, ROOT / "dist")
        output_of(run_argv(chosen, image, "-c", PROOF, entrypoint=PYTHON), timeout_s=RUN_S)
        output_of(run_argv(chosen, image, "--help"), timeout_s=RUN_S)
        click.echo(f"{image.name} runs")


if __name__ == "__main__":
    main()
