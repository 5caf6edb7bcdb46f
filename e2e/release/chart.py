# SPDX-License-Identifier: Apache-2.0
"""`hatch run build-chart`: the Helm chart as an archive, and install.yaml for kubectl, both of deploy/."""

from __future__ import annotations

import base64
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
from contract.rawapi import RawApi

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.release.build import ROOT
from e2e.release.images import REGISTRY
from e2e.release.manifests import BASE, Object, install, read

CHART = ROOT / "deploy" / "chart"
NAME = "praetor"
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
RULES_SINCE = 25  # the minor version of Kubernetes that knows x-kubernetes-validations
TIME_S = 1580601600  # 2020-02-02, as in the other archives: the same sources give the same bytes


class Release:
    """A release of the chart on the cluster of *kubeconfig*, by Helm's own engine.

    Its CRDs are installed apart where the cluster does not know the rules in them (before Kubernetes 1.25): Helm
    validates what it sends.
    """

    def __init__(self, kubeconfig: Path, api: RawApi) -> None:
        self._api = api
        self._config = helm_python.Config(kubeconfig_path=kubeconfig, namespace=SYSTEM_NAMESPACE)
        self._with_crds = int(api.get("/version").body["minor"].rstrip("+")) >= RULES_SINCE

    def install(self, values: Mapping[str, Any], chart: Path = CHART, timeout_s: int = 600) -> str:
        """Install *chart*, a folder, and return its notes; Pods are not waited for."""
        release = self._config.install(
            chart,
            NAME,
            self._prepared(values, chart),
            namespace=SYSTEM_NAMESPACE,
            create_namespace=True,
            wait="hookOnly",
            timeout=timeout_s,
        )
        return str(release["notes"])

    def upgrade(self, values: Mapping[str, Any], chart: Path = CHART, timeout_s: int = 600) -> None:
        """Replace what is installed by *chart* with *values*; Pods are not waited for."""
        chosen = self._prepared(values, chart)
        self._config.upgrade(chart, NAME, chosen, namespace=SYSTEM_NAMESPACE, wait="hookOnly", timeout=timeout_s)

    def rollback(self, timeout_s: int = 600) -> None:
        """Go back to the revision before; Pods are not waited for."""
        self._config.rollback(NAME, wait="hookOnly", timeout=timeout_s)

    def test(self, timeout_s: int = 600) -> None:
        """Run the chart's own test; helm_python.HelmError when it fails."""
        self._config.test(NAME, timeout=timeout_s)

    def uninstall(self) -> str:
        """Remove the release; return what Helm says was kept."""
        return str(self._config.uninstall(NAME)["info"])

    def secret(self, name: str, key: str) -> str:
        """Return a value of a Secret in the release's namespace."""
        answer = self._api.get(f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets/{name}")
        return base64.b64decode(answer.body["data"][key]).decode()

    def _prepared(self, values: Mapping[str, Any], chart: Path) -> dict[str, Any]:
        if not self._with_crds:
            install(self._api, read(chart / "files" / "crds"))
        return {"crds": {"install": self._with_crds}, **values}


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
