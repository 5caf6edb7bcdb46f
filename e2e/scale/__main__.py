# SPDX-License-Identifier: Apache-2.0
"""`hatch run scale --devices N`: a fleet of live devices on this machine, and whether it keeps its limits."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from e2e.bench.measure.proc import machine
from e2e.clusters.api.audit import SPECS
from e2e.clusters.cluster import Cluster
from e2e.clusters.embedded import Embedded
from e2e.clusters.envtest import ASSETS_VARIABLES, Envtest
from e2e.clusters.errors import ClusterError
from e2e.scale.fleet import FleetSettings, ScaledFleet
from e2e.scale.phases import Phase, Run
from e2e.scale.report import as_json, lines, picture
from e2e.scale.sampler import Sampler
from e2e.stack.errors import StackError

FULL, FULL_STEADY_S = 100_000, 600.0
DOOMED = 100
NAMES = ("ramp-up", "steady", "gateway-killed", "wave", "devices-killed")


@click.command()
@click.option("--devices", type=click.IntRange(min=50), default=500, show_default=True, help="How many are simulated.")
@click.option("--steady", "steady_s", type=float, help="Seconds without a change.  [default: 600 for 100,000 devices]")
@click.option("--heartbeat", "heartbeat_s", type=click.IntRange(min=1), default=15, show_default=True, help="Seconds.")
@click.option("--splay", "splay_s", type=float, help="Seconds in which the devices come.  [default: 100 a second]")
@click.option(
    "--gateways", type=click.IntRange(min=2), help="Gateways.  [default: as open files ask for, and one more]"
)
@click.option("--server", type=click.Choice(["auto", "hypercorn", "uvicorn"]), default="auto", show_default=True)
@click.option("--tls", is_flag=True, help="Devices use TLS.")
@click.option("--until", type=click.Choice(NAMES), default=NAMES[-1], show_default=True, help="The last phase.")
@click.option("--assets", type=click.Path(path_type=Path), help="Folder of etcd and kube-apiserver.")
@click.option("--timeout", "timeout_s", type=click.IntRange(min=1), help="End after this many seconds, with 1.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
@click.option("--plots", type=click.Path(path_type=Path), help="Write a picture of each phase to this folder.")
def main(
    devices: int,
    steady_s: float | None,
    heartbeat_s: int,
    splay_s: float | None,
    gateways: int | None,
    server: str,
    tls: bool,
    until: str,
    assets: Path | None,
    timeout_s: int | None,
    json_file: Path | None,
    plots: Path | None,
) -> None:
    """Bring up DEVICES live devices, let nothing change, kill a gateway, roll a version out to a tenth, kill devices.

    The apiserver is that of $KUBEBUILDER_ASSETS or --assets, else the embedded one. Ends with 1 if a device was called
    disconnected that was not, if one that was killed was not found, or if there were too many writes.
    """
    settings = FleetSettings(
        devices=devices,
        doomed=min(DOOMED, devices // 10),
        gateways=gateways,
        heartbeat_s=heartbeat_s,
        splay_s=devices / 100 if splay_s is None else splay_s,
        server=server,
        tls=tls,
    )
    steady_s = max(10.0, FULL_STEADY_S * devices / FULL) if steady_s is None else steady_s
    began = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"  {time.monotonic() - began:4.0f} s: {what}", err=True)

    described = machine()
    click.echo(described)
    phases: list[Phase] = []
    problem = ""
    with tempfile.TemporaryDirectory(prefix="praetor-scale-") as folder:
        try:
            with _at_most(timeout_s or int(600 + steady_s + devices / 25)), _cluster(Path(folder), assets) as cluster:
                click.echo(f"{devices:,} devices, {settings.replicas} gateways, control plane: {cluster.name}")
                for phase in _phases(cluster, Path(folder), settings, steady_s, say):
                    phases.append(phase)
                    click.echo("\n".join(lines(phase)))
                    if phase.name == until:
                        break
        except (AssertionError, ClusterError, StackError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
    broken = [limit for phase in phases for limit in phase.limits if not limit.kept]
    if json_file is not None:
        told = {
            "machine": described,
            "busyAfterwards": os.getloadavg(),
            "devices": devices,
            "gateways": settings.replicas,
            "server": server,
            "tls": tls,
            "heartbeatSeconds": heartbeat_s,
            "problem": problem or None,
            "phases": [as_json(phase) for phase in phases],
        }
        json_file.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if plots is not None:
        _draw(phases, plots, f"{devices:,} devices, {settings.replicas} gateways")
    click.echo(f"{time.monotonic() - began:.0f} s; {len(broken)} limits broken")
    if problem:
        raise click.ClickException(problem)
    sys.exit(bool(broken))


def _phases(
    cluster: Cluster, folder: Path, settings: FleetSettings, steady_s: float, say: Callable[[str], None]
) -> Iterator[Phase]:
    fleet = ScaledFleet(cluster, folder, settings, say)
    try:
        with Sampler(cluster, fleet.connected, min(10.0, max(1.0, settings.devices / 2_500))) as sampler:
            yield from Run(fleet, sampler, say, steady_s=steady_s).phases()
    finally:
        fleet.close()


def _cluster(folder: Path, assets: Path | None) -> Cluster:
    if assets is None and not any(os.environ.get(name) for name in ASSETS_VARIABLES):
        click.echo("no KUBEBUILDER_ASSETS: this is the embedded control plane, whose writes are no measure")
        return Embedded(folder / "cluster")
    return Envtest(folder / "cluster", assets=assets, policy=SPECS, controllers=False)


def _draw(phases: Sequence[Phase], folder: Path, subject: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for phase in phases:
        (folder / f"scale-{phase.name}.svg").write_text(picture(phase, subject), encoding="utf-8")


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after *seconds*, and KeyboardInterrupt at SIGTERM."""

    def over(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s; --timeout gives more")

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, over)
    signal.signal(signal.SIGTERM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
