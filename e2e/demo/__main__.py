# SPDX-License-Identifier: Apache-2.0
"""`hatch run demo`: watch a deployment reach devices, run real processes there and report back."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName
from e2e.demo.scenario import Demo, DemoFailed, Options
from e2e.stack.errors import StackError

INTERRUPTED = 130
CLUSTERS = click.Choice([name.value for name in ClusterName])


@click.command()
@click.option("--cluster", type=CLUSTERS, default=ClusterName.EMBEDDED.value, show_default=True, help="Where to run.")
@click.option("--devices", type=click.IntRange(2, 200), default=5, show_default=True, help="How many devices.")
@click.option("--stay", is_flag=True, help="Keep everything running at the end, to try it out.")
@click.option("--picture", type=click.Path(path_type=Path), help="SVG file of the steps and their results.")
@click.option("--assets", type=click.Path(path_type=Path), help="Folder of etcd and kube-apiserver, for envtest.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Kubeconfig, for an existing cluster.")
def main(
    cluster: str, devices: int, stay: bool, picture: Path | None, assets: Path | None, kubeconfig: Path | None
) -> None:
    """Run the whole system on this machine: roll out two versions, break things, and watch it recover."""
    console = Console(highlight=False, record=picture is not None, width=None if picture is None else 80)
    signal.signal(signal.SIGTERM, _interrupt)
    options = Options(
        cluster=cluster,
        devices=devices,
        stay=stay,
        picture=picture is not None,
        assets=assets,
        kubeconfig=kubeconfig,
    )
    with tempfile.TemporaryDirectory(prefix="praetor-demo-") as folder:
        try:
            Demo(options, Path(folder), console).run()
            if picture is not None:
                picture.write_text(drawn(console))
        except KeyboardInterrupt:
            console.print("\n[yellow]Stopped; all programs were ended.[/]")
            sys.exit(INTERRUPTED)
        except (ClusterError, StackError, AssertionError, DemoFailed) as error:
            Console(stderr=True, highlight=False).print(f"demo: {error}", style="red", markup=False)
            sys.exit(1)


def drawn(console: Console) -> str:
    """Return what *console* recorded as an SVG that loads nothing, fonts included."""
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
