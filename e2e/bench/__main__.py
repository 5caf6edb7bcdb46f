"""`hatch run bench [NAME...]`: measure, and print each figure next to its goal. Nothing here is a test."""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from pathlib import Path
from typing import Protocol, cast

import click

from e2e.bench.context import BenchError, Context
from e2e.bench.figures import Figure, as_json, markdown, table
from e2e.bench.proc import machine
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName
from e2e.stack.errors import Refused, StackError

BENCHMARKS = (
    "throughput",
    "propagation",
    "heartbeats",
    "writes",
    "fanout",
    "planner",
    "events",
    "gateway_memory",
    "agent_memory",
    "agent_start",
    "agent_size",
)
CLUSTERS = (ClusterName.EMBEDDED.value, ClusterName.ENVTEST.value)


class Benchmark(Protocol):
    """A module that measures one thing."""

    __doc__: str

    def measure(self, context: Context) -> tuple[Figure, ...]:
        """Return the figures."""
        ...


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(BENCHMARKS))
@click.option("--cluster", type=click.Choice(CLUSTERS), default=CLUSTERS[0], show_default=True, help="Where to run.")
@click.option("--assets", type=click.Path(path_type=Path), help="envtest: folder of etcd and kube-apiserver.")
@click.option("--quick", is_flag=True, help="A glance: seconds instead of a minute each, and less to rely on.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown tables.")
def main(
    names: tuple[str, ...], cluster: str, assets: Path | None, quick: bool, json_file: Path | None, as_markdown: bool
) -> None:
    """Run the benchmarks NAME, or all of them: throughput, propagation, heartbeats, writes, fanout, planner, events,
    gateway_memory, agent_memory, agent_start, agent_size."""
    told = machine()
    click.echo(f"{told}; cluster: {cluster}")
    results: dict[str, tuple[Figure, ...]] = {}
    for name in names or BENCHMARKS:
        benchmark = cast(Benchmark, importlib.import_module(f"e2e.bench.{name}"))
        click.echo(f"\n{name}: {benchmark.__doc__.splitlines()[0]}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="praetor-bench-") as folder:
            context = Context(workdir=Path(folder), cluster=cluster, assets=assets, quick=quick)
            try:
                results[name] = benchmark.measure(context)
            except (ClusterError, StackError, Refused) as error:
                raise BenchError(str(error)) from error
        click.echo((markdown if as_markdown else table)(results[name]))
        click.echo(f"({time.monotonic() - began:.0f} s)")
    if json_file is not None:
        figures = {name: [as_json(figure) for figure in found] for name, found in results.items()}
        data = {"machine": told, "cluster": cluster, "quick": quick, "figures": figures}
        json_file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
