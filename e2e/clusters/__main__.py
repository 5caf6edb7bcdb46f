# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.clusters up NAME`: run a cluster in the foreground until Ctrl-C."""

from __future__ import annotations

import signal
import tempfile
import threading
from pathlib import Path

import click

from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName, launch


@click.group()
def main() -> None:
    """Run clusters to try things on."""


@main.command()
@click.argument("name", type=click.Choice([name.value for name in ClusterName]), default=ClusterName.EMBEDDED.value)
@click.option("--assets", type=click.Path(path_type=Path, exists=True), help="Folder of etcd and kube-apiserver.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, exists=True), help="Of an existing cluster.")
@click.option("--workdir", type=click.Path(path_type=Path), help="Where files and logs go; else a temporary folder.")
def up(name: str, assets: Path | None, kubeconfig: Path | None, workdir: Path | None) -> None:
    """Start the cluster NAME, print the path of its kubeconfig and stay until Ctrl-C."""
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="praetor-") as temporary:
        try:
            with launch(name, workdir or Path(temporary), assets=assets, kubeconfig=kubeconfig) as cluster:
                click.echo(cluster.kubeconfig)
                ended.wait()
        except ClusterError as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
