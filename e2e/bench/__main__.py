# SPDX-License-Identifier: Apache-2.0
"""`hatch run bench [NAME...]`: measure, and print each figure beside its goal. Nothing here is a test."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import click

from e2e.bench import journeys
from e2e.bench.agent import memory as agent_memory
from e2e.bench.agent import size as agent_size
from e2e.bench.agent import start as agent_start
from e2e.bench.controller import ctl, events, fanout, planner
from e2e.bench.gateway import heartbeats, hostile, propagation, quiet, references, throughput, writes
from e2e.bench.gateway import memory as gateway_memory
from e2e.bench.measure.context import BenchError, Context
from e2e.bench.measure.figures import Figure, as_json, markdown, table
from e2e.bench.measure.proc import machine
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName
from e2e.stack.errors import StackError


class Benchmark(Protocol):
    """A module that measures one thing; the first line of its docstring says what."""

    __doc__: str

    def measure(self, context: Context) -> tuple[Figure, ...]:
        """Return the figures."""
        ...


BENCHMARKS: Mapping[str, Benchmark] = {
    "throughput": throughput,
    "quiet": quiet,
    "references": references,
    "propagation": propagation,
    "hostile": hostile,
    "heartbeats": heartbeats,
    "writes": writes,
    "fanout": fanout,
    "planner": planner,
    "events": events,
    "praetorctl": ctl,
    "gateway_memory": gateway_memory,
    "agent_memory": agent_memory,
    "agent_start": agent_start,
    "agent_size": agent_size,
    "journeys": journeys,
}
CLUSTERS = (ClusterName.EMBEDDED.value, ClusterName.ENVTEST.value)


@click.command(help=f"Run the benchmarks NAME, or all of them: {', '.join(BENCHMARKS)}.")
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(tuple(BENCHMARKS)))
@click.option("--cluster", type=click.Choice(CLUSTERS), default=CLUSTERS[0], show_default=True, help="Where to run.")
@click.option("--assets", type=click.Path(path_type=Path), help="envtest: folder of etcd and kube-apiserver.")
@click.option("--quick", is_flag=True, help="Take seconds instead of a minute each; less precise.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown tables.")
def main(
    names: tuple[str, ...], cluster: str, assets: Path | None, quick: bool, json_file: Path | None, as_markdown: bool
) -> None:
    """Run the benchmarks, print their figures, and write them to *json_file*."""
    described = machine()
    click.echo(f"{described}; cluster: {cluster}")
    results: dict[str, tuple[Figure, ...]] = {}
    failed: list[str] = []
    for name in names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        click.echo(f"\n{name}: {benchmark.__doc__.splitlines()[0]}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="praetor-bench-") as folder:
            context = Context(workdir=Path(folder), cluster=cluster, assets=assets, quick=quick)
            try:
                results[name] = benchmark.measure(context)
            except (BenchError, ClusterError, StackError, AssertionError) as error:
                failed.append(name)  # the others are worth an hour
                click.echo(f"Error: {name}: {error}", err=True)
                continue
        click.echo((markdown if as_markdown else table)(results[name]))
        click.echo(f"({time.monotonic() - began:.0f} s)")
    if json_file is not None:
        figures = {name: [as_json(figure) for figure in found] for name, found in results.items()}
        data = {"machine": described, "cluster": cluster, "quick": quick, "figures": figures}
        json_file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if failed:
        raise BenchError(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
