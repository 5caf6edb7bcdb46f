# SPDX-License-Identifier: Apache-2.0
"""`hatch run build-chart`: the Helm chart as an archive, and install.yaml for kubectl, both of deploy/."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import helm_python
import yaml

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.release.build import ROOT
from e2e.release.images import REGISTRY
from e2e.release.manifests import BASE, Object, read

CHART = ROOT / "deploy" / "chart"
NAME = "praetor"
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
TIME_S = 1580601600  # 2020-02-02, as in the other archives: the same sources give the same bytes


def render(values: Mapping[str, Any], namespace: str = SYSTEM_NAMESPACE) -> tuple[Object, ...]:
    """Return the objects that a release with *values* would install, without a cluster, in no certain order.

    helm_python.HelmError for values that the chart refuses.
    """
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        files = chart.render(dict(values), name=NAME, namespace=namespace)
    manifests = (text for path, text in files.items() if path.endswith(".yaml"))
    return tuple(item for text in manifests for item in yaml.safe_load_all(text) if item)


def package(out: Path, registry: str = REGISTRY) -> Path:
    """Write the chart, whose images are in *registry*, as an archive into *out* and return it."""
    with tempfile.TemporaryDirectory(prefix="praetor-chart-") as folder:
        tree = Path(folder) / NAME
        shutil.copytree(CHART, tree, symlinks=False)
        values = tree / "values.yaml"
        values.write_text(_with_registry(values.read_text(encoding="utf-8"), registry), encoding="utf-8")
        with helm_python.Chart.load(tree) as chart:  # an archive that Helm cannot read is not written
            target = out / f"{chart.name}-{chart.version}.tgz"
        out.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(_tar(tree), mtime=TIME_S))
    return target


def write_install_yaml(out: Path, registry: str = REGISTRY) -> Path:
    """Write what `kubectl apply -k deploy/base` applies, with images of *registry*, into *out* and return the file."""
    target = out / "install.yaml"
    out.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump_all(_in_registry(read(BASE), registry), sort_keys=False, width=120)
    target.write_text(f"{LICENCE}---\n{text}", encoding="utf-8")
    return target


def _with_registry(values: str, registry: str) -> str:
    line = f"  registry: {REGISTRY}\n"
    if values.count(line) != 1:
        raise click.ClickException(f"values.yaml of the chart must have the line {line.strip()!r} once")
    return values.replace(line, f"  registry: {registry}\n")


def _in_registry(objects: Iterable[Object], registry: str) -> Iterable[Object]:
    for item in objects:
        if item["kind"] == "Deployment":
            for container in item["spec"]["template"]["spec"]["containers"]:
                container["image"] = f"{registry}/{container['image'].removeprefix(f'{REGISTRY}/')}"
        yield item


def _tar(tree: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            data = path.read_bytes()
            info = tarfile.TarInfo(path.relative_to(tree.parent).as_posix())
            info.size, info.mtime, info.mode = len(data), TIME_S, 0o644
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@click.command(help=__doc__)
@click.option("--registry", default=REGISTRY, show_default=True, help="where the images are")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="folder to write to [dist]")
def main(registry: str, out: Path) -> None:
    """Write both and say where they are."""
    for path in (package(out, registry), write_install_yaml(out, registry)):
        click.echo(f"{path.name:<24} {path.stat().st_size / 1000:6.1f} kB")


if __name__ == "__main__":
    main()
