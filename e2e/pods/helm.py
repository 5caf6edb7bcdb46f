# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.pods.helm install|upgrade|uninstall`: the words of the helm command that our pages use.

Helm's own engine does it, out of a Python package, where there is no helm. A cluster that does not know the rules in
our CRDs (before Kubernetes 1.25) gets them apart, because Helm validates what it sends.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import helm_python
import yaml
from contract.rawapi import RawApi

from e2e.release.chart import RULES_SINCE
from e2e.release.manifests import install as create

TIMEOUT_S = 600
CRDS = "praetor/files/crds/azure.com_"


def values_of(settings: Iterable[str]) -> dict[str, Any]:
    """Return the values that `--set a.b=1,c=d` sets."""
    values: dict[str, Any] = {}
    for setting in (each for words in settings for each in words.split(",")):
        path, _, text = setting.partition("=")
        *folders, name = path.split(".")
        place = values
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = yaml.safe_load(text)
    return values


def with_crds(chart: Path, values: dict[str, Any], kubeconfig: Path) -> dict[str, Any]:
    """Return *values*, without CRDs for a cluster that would refuse them; it has those of *chart* then."""
    with RawApi.from_kubeconfig(kubeconfig) as api:
        if int(api.get("/version").body["minor"].rstrip("+")) >= RULES_SINCE:
            return values
        with tarfile.open(chart) as archive:
            files = [archive.extractfile(name) for name in archive.getnames() if name.startswith(CRDS)]
            create(api, [yaml.safe_load(file) for file in files if file])
    return {**values, "crds": {"install": False}}


@click.command()
@click.argument("command", type=click.Choice(["install", "upgrade", "uninstall"]))
@click.argument("name")
@click.argument("chart", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--namespace", required=True)
@click.option("--create-namespace", is_flag=True)
@click.option("--wait", "waiting", is_flag=True)
@click.option("--set", "settings", multiple=True)
@click.option("--reset-then-reuse-values", "reuse", is_flag=True)
def main(
    command: str,
    name: str,
    chart: Path | None,
    namespace: str,
    create_namespace: bool,
    waiting: bool,
    settings: tuple[str, ...],
    reuse: bool,
) -> None:
    """Do COMMAND with the release NAME on the cluster of KUBECONFIG, and print what helm says."""
    kubeconfig = Path(os.environ["KUBECONFIG"])
    config = helm_python.Config(kubeconfig_path=kubeconfig, namespace=namespace)
    if chart is None:
        click.echo(config.uninstall(name)["info"])
        return
    values = with_crds(chart, {**(config.get_values(name) if reuse else {}), **values_of(settings)}, kubeconfig)
    wait = "watcher" if waiting else "hookOnly"
    if command == "install":
        release = config.install(
            chart, name, values, namespace=namespace, create_namespace=create_namespace, wait=wait, timeout=TIMEOUT_S
        )
    else:
        release = config.upgrade(chart, name, values, namespace=namespace, wait=wait, timeout=TIMEOUT_S)
    click.echo(release["notes"])


if __name__ == "__main__":
    main()
