# SPDX-License-Identifier: Apache-2.0
"""`hatch run skew`: old and new programs beside each other, from built wheels, on a control plane of this machine."""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName, launch
from e2e.skew.fleet import Upgrade
from e2e.skew.pairs import FULL, SHORT, Journey, Pairs
from e2e.skew.parts import MIXED, NEW, OLD
from e2e.skew.releases import NoHistory, SkewError, both, previous_ref
from e2e.skew.report import HEADINGS, Row, lines, table
from e2e.stack.errors import StackError
from e2e.stack.stack import DEFAULT_NAMESPACE, Release, Stack, StackSettings

CLUSTERS = click.Choice([ClusterName.EMBEDDED.value, ClusterName.ENVTEST.value])
HEARTBEAT_S = 10  # a program that is replaced is away for less than three of them, on a slow machine, too


@click.command()
@click.option(
    "--from", "ref", metavar="REF", help="The old version; default: the newest release tag, or the pinned ref."
)
@click.option("--cluster", type=CLUSTERS, default=ClusterName.EMBEDDED.value, show_default=True, help="Where to run.")
@click.option(
    "--devices", type=click.IntRange(min=100), default=1000, show_default=True, help="How many are simulated."
)
@click.option("--short", is_flag=True, help="Only old agents with a new gateway, and new agents with an old gateway.")
@click.option("--only", type=click.Choice(["pairs", "fleet"]), help="Half of the full form: real or simulated agents.")
@click.option("--assets", type=click.Path(path_type=Path), help="Folder of etcd and kube-apiserver, for envtest.")
def main(ref: str | None, cluster: str, devices: int, short: bool, only: str | None, assets: Path | None) -> None:
    """Replace CRDs, controller, gateway and agents one by one, forwards and back, and check what must not happen.

    Nothing may be restarted, no spec written, no device lost, and in every state a bad version must stop at one device.
    Ends with 1 if any of that happened. The short form is left out where the checkout does not hold the old version.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    old = ref or previous_ref()
    click.echo(f"old is {old}, new is the working tree")
    with tempfile.TemporaryDirectory(prefix="praetor-skew-") as folder:
        try:
            releases = dict(zip((OLD, NEW, MIXED), both(old, Path(folder, "built")), strict=True))
            with launch(cluster, Path(folder, "cluster"), assets=assets) as started:
                journeys = () if only == "fleet" else SHORT if short else FULL
                rows = _run(started, Path(folder), releases, journeys, 0 if short or only == "pairs" else devices)
        except NoHistory as error:
            if ref is not None or not short:
                raise click.UsageError(str(error)) from error
            click.echo(f"skipped: {error}")
            return
        except (ClusterError, SkewError, StackError, AssertionError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(table(rows))
    sys.exit(not all(row.passed for row in rows))


def _run(
    cluster: Cluster, folder: Path, releases: Mapping[str, Release], journeys: Sequence[Journey], simulated: int
) -> list[Row]:
    """Make *journeys* with real agents, and an upgrade and downgrade with *simulated* ones."""
    began = time.monotonic()
    click.echo(HEADINGS)

    def say(row: Row) -> None:
        click.echo("\n".join(lines(row)))

    rows: list[Row] = []
    if journeys:
        with _stack(cluster, folder / "pairs", releases[OLD]) as stack:
            pairs = Pairs(stack, stack.kube(_namespace()).create_namespace(), releases, say)
            pairs.prepare()
            rows += pairs.travel(journeys)
    if simulated:
        with _stack(cluster, folder / "fleet", releases[OLD]) as stack:
            kube = stack.kube(_namespace()).create_namespace()
            rows += Upgrade(stack, kube, releases, say, simulated).run()
    click.echo(f"{len(rows)} states in {time.monotonic() - began:.0f} s\n")
    return rows


@contextmanager
def _stack(cluster: Cluster, folder: Path, release: Release) -> Iterator[Stack]:
    """Run the programs of *release*; what they logged stands below a failure."""
    settings = StackSettings(release=release, heartbeat=HEARTBEAT_S, system_namespace=DEFAULT_NAMESPACE)
    with Stack(cluster, folder, settings) as stack:
        try:
            yield stack
        except AssertionError as error:
            raise AssertionError(f"{error}\n{stack.logs()}") from error


def _namespace() -> str:
    return f"skew-{secrets.token_hex(2)}"


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
