# SPDX-License-Identifier: Apache-2.0
"""`hatch run images`: the components' images, built from the wheels in dist/."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any

import click
from attrs import frozen

from e2e.release.build import ROOT, build_all, files_of
from e2e.release.pipsettings import PipSettings, settings_here

COMPONENTS = ("controller", "gateway", "agent")
REGISTRY = "localhost"
BASE_OF_FOLDER = f"{REGISTRY}/praetor-base:1"
GZIP = b"\x1f\x8b"
NOT_IN_BASE = ("./proc", "./sys", "./dev")
TRIAL_S = 120
_ERROR = re.compile(r"error|unknown|cannot|denied", re.IGNORECASE)
LIMIT_MB = {"controller": 60, "gateway": 60, "agent": 20}
"""What an image may add to its base, in MB of compressed layers."""
SBOM = "opt/praetor/sbom.cdx.json"
ARG_BASE = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)
BUILD_S = 1800  # packages are downloaded; on two cores it takes half a minute


class Engine(StrEnum):
    """What builds images."""

    DOCKER = "docker"
    PODMAN = "podman"
    BUILDAH = "buildah"


class ImageError(click.ClickException):
    """An image could not be built; *output* is what the engine printed."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


@frozen(kw_only=True)
class Image:
    """The image of a component; its tag is the version of the component's wheel."""

    component: str
    version: str

    @property
    def name(self) -> str:
        """The full name, in a registry from which nothing can be pulled by mistake."""
        return f"{REGISTRY}/praetor-{self.component}:{self.version}"


@frozen(kw_only=True)
class Added:
    """What an image adds to its base: *size* in bytes of compressed layers, and its SBOM, if it has one."""

    size: int
    sbom: dict[str, Any] | None

    def check(self, component: str) -> None:
        """Raise ImageError if that is more than the image of *component* may have, or there is no SBOM of it."""
        name = f"the image of praetor-{component}"
        if self.size > LIMIT_MB[component] * 1_000_000:
            raise ImageError(
                f"{name} adds {self.size / 1e6:.1f} MB to its base, compressed, and may add {LIMIT_MB[component]}; "
                f"remove packages from requirements/{component}.in, or files in its Dockerfile"
            )
        if self.sbom is None or self.sbom["metadata"]["component"]["name"] != f"praetor-{component}":
            raise ImageError(f"{name} has no SBOM of its own in /{SBOM}")


def added_of(archive: Path, base_layers: int) -> Added:
    """Return what an image adds to the first *base_layers* of its layers; *archive* is a docker-archive of it."""
    size, sbom = 0, None
    with tarfile.open(archive) as image:
        (manifest,) = json.load(_member(image, "manifest.json"))
        for name in manifest["Layers"][base_layers:]:
            content = _member(image, name).read()
            if content[:2] == GZIP:
                content = gzip.decompress(content)
            size += len(zlib.compress(content, level=1))  # a registry's are smaller, as they are compressed harder
            with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                for member in layer:
                    if member.name.removeprefix("./") == SBOM:
                        sbom = json.load(_member(layer, member))
    return Added(size=size, sbom=sbom)


def _member(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise ImageError(f"the engine wrote an archive in which {member} is no file")
    return file


def find_engine(progress: Callable[[str], None]) -> Engine:
    """Return the first engine that builds a small image with a secret, as the Dockerfiles need it."""
    reasons = []
    for engine in Engine:
        reason = _incapable(engine)
        if not reason:
            progress(f"{engine} builds the images; --engine chooses another one")
            return engine
        reasons.append(f"{engine} cannot build them: {reason}")
        progress(reasons[-1])
    raise ImageError("\n".join(["no container engine builds images with secrets; install buildah", *reasons]))


def _incapable(engine: Engine) -> str:
    """Return why *engine* cannot build an image with a secret; empty when it can."""
    if not shutil.which(engine):
        return "it is not installed"
    with tempfile.TemporaryDirectory(prefix="praetor-engine-") as name:
        folder = Path(name)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n", encoding="utf-8")
        (folder / "secret").touch()
        made = folder / "image"
        words = [f"--iidfile={made}", f"--secret=id=secret,src={folder / 'secret'}", *_unprivileged(engine)]
        try:
            _output_of([str(engine), "build", f"--file={folder / 'Dockerfile'}", *words, name], timeout_s=TRIAL_S)
            _output_of([str(engine), "rmi", "--force", made.read_text(encoding="utf-8").strip()], timeout_s=TRIAL_S)
        except subprocess.TimeoutExpired:
            return f"it did not build a small image within {TRIAL_S} s"
        except OSError as e:
            return str(e.strerror)
        except ImageError as e:
            lines = [line.strip() for line in e.output.splitlines() if line.strip()] or ["it says nothing"]
            return next((line for line in lines if _ERROR.search(line)), lines[-1])
    return ""


def _unprivileged(engine: Engine) -> list[str]:
    """Return the options with which a build needs no privilege of the kernel."""
    return [] if engine is Engine.DOCKER else ["--isolation=chroot", "--network=host"]


def image_of(component: str, dist: Path) -> Image:
    """Return the image that the wheel of *component* in *dist* goes into."""
    wheels = [path for path in files_of(f"praetor-{component}", dist) if path.suffix == ".whl"]
    if len(wheels) != 1:
        raise ImageError(f"dist/ has {len(wheels)} wheels of praetor-{component} instead of 1; run `hatch run build`")
    return Image(component=component, version=wheels[0].name.split("-")[1])


def build_argv(
    engine: Engine, image: Image, *, base: str | None, pip: PipSettings, secrets: Path, root: Path = ROOT
) -> list[str]:
    """Return the command line that builds *image* of the sources in *root*; *secrets* is a folder with pip.conf."""
    own = _unprivileged(engine)
    if engine is not Engine.DOCKER:
        own += [f"--volume={folder}:{folder}:ro" for folder in pip.folders]
    if base is not None:
        own += [f"--build-arg=BASE={base}"]
    if pip.ca is not None:
        own += [f"--secret=id=ca.pem,src={pip.ca}"]
    return [
        str(engine),
        "build",
        f"--file={_dockerfile(image, root)}",
        f"--tag={image.name}",
        f"--build-arg=VERSION={image.version}",
        f"--secret=id=pip.conf,src={secrets / 'pip.conf'}",
        *own,
        str(root),
    ]


def import_base(engine: Engine, folder: Path, name: str = BASE_OF_FOLDER) -> str:
    """Make an image *name* of the root file system in *folder* and return the name."""
    with tempfile.TemporaryDirectory(prefix="praetor-base-") as temporary:
        archive = Path(temporary, "base.tar")
        left_out = [f"--exclude={place}/*" for place in NOT_IN_BASE]
        _output_of(["tar", f"--directory={folder}", "--create", f"--file={archive}", *left_out, "."])
        if engine is Engine.BUILDAH:
            container = _output_of([str(engine), "from", "scratch"]).strip()
            try:
                _output_of([str(engine), "add", "--quiet", container, str(archive), "/"])
                _output_of([str(engine), "commit", "--quiet", container, name])
            finally:
                _output_of([str(engine), "rm", container])
        else:
            _output_of([str(engine), "import", str(archive), name])
    return name


def build_images(
    components: tuple[str, ...], *, engine: Engine, base: str | None, progress: Callable[[str], None]
) -> tuple[Image, ...]:
    """Build the images of *components* from the wheels in dist/, which are made when there are none.

    *base* is the name of an image, or a folder that holds a root file system; without it, the Dockerfiles' own is used.
    """
    dist = ROOT / "dist"
    wanted = ("praetor-api", *(f"praetor-{component}" for component in components))
    if missing := tuple(package for package in wanted if not files_of(package, dist)):
        build_all(missing, dist)
    if base is not None and Path(base).is_dir():
        base = import_base(engine, Path(base))
    images = tuple(image_of(component, dist) for component in components)
    for image in images:
        progress(f"building {image.name}")
        build_image(engine, image, base=base)
        added = _added_by(engine, image, base or ARG_BASE.findall(_dockerfile(image).read_text("utf-8"))[0])
        added.check(image.component)
        progress(f"  it adds {added.size / 1e6:.1f} MB to its base, compressed")
    return images


def build_image(engine: Engine, image: Image, *, base: str | None, root: Path = ROOT) -> None:
    """Build *image* of the sources in *root*, whose dist/ has the wheels, on the image *base*."""
    pip = settings_here()
    with tempfile.TemporaryDirectory(prefix="praetor-images-") as secrets:
        (Path(secrets) / "pip.conf").write_text(pip.config, encoding="utf-8")
        _output_of(build_argv(engine, image, base=base, pip=pip, secrets=Path(secrets), root=root))


def _added_by(engine: Engine, image: Image, base: str) -> Added:
    if engine is Engine.BUILDAH:
        words = ["inspect", "--type=image", "--format={{len .OCIv1.RootFS.DiffIDs}}"]
    else:
        words = ["inspect", "--type=image", "--format={{len .RootFS.Layers}}"]
    try:
        layers = int(_output_of([str(engine), *words, base]))
    except ImageError:  # what docker builds on need not be among its images
        _output_of([str(engine), "pull", "--quiet", base])
        layers = int(_output_of([str(engine), *words, base]))
    with tempfile.TemporaryDirectory(prefix="praetor-image-") as folder:
        archive = Path(folder, "image.tar")
        match engine:
            case Engine.BUILDAH:
                words = ["push", "--quiet", image.name, f"docker-archive:{archive}"]
            case _:
                words = ["save", f"--output={archive}", image.name]
        _output_of([str(engine), *words])
        return added_of(archive, layers)


def _dockerfile(image: Image, root: Path = ROOT) -> Path:
    return root / "deploy" / "images" / image.component / "Dockerfile"


def _output_of(argv: list[str], timeout_s: int = BUILD_S) -> str:
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},  # docker's older builder knows no secrets
    )
    if done.returncode:
        raise ImageError(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout.rstrip()}", done.stdout)
    return done.stdout


@click.command()
@click.argument("components", nargs=-1, type=click.Choice(COMPONENTS))
@click.option(
    "--engine",
    type=click.Choice([engine.value for engine in Engine]),
    help="Default: the first one that can.",
)
@click.option(
    "--base",
    help="Base image with Python 3.11 or later, or a folder with its root file system; "
    "default: the image that the Dockerfiles name.",
)
def main(components: tuple[str, ...], engine: str | None, base: str | None) -> None:
    """Build the images of COMPONENTS, all three by default, and print their names."""
    progress = partial(click.echo, err=True)
    chosen = Engine(engine) if engine else find_engine(progress)
    for image in build_images(components or COMPONENTS, engine=chosen, base=base, progress=progress):
        click.echo(image.name)


if __name__ == "__main__":
    main()
