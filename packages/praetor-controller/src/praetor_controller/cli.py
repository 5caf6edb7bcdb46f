# SPDX-License-Identifier: Apache-2.0
"""The command `praetor-controller`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import structlog

from praetor_api.kube.client.connection import pod_namespace
from praetor_api.kube.client.errors import KubeError, NoSuchContext
from praetor_api.kube.options import (
    ADDRESS_OR_OFF,
    BadOption,
    BindAddress,
    Program,
    kubeconfig_options,
    log_options,
    namespaces_option,
    tracing_option,
)
from praetor_api.kube.runtime.logs import configure_logs
from praetor_controller.__about__ import __version__
from praetor_controller.main import run
from praetor_controller.settings import Recording, Settings


@click.command(cls=Program, context_settings={"auto_envvar_prefix": "PRAETOR_CONTROLLER"})
@kubeconfig_options()
@namespaces_option()
@click.option(
    "--metrics-bind-address", type=ADDRESS_OR_OFF, default=":8080", help="Address of /metrics; 0 turns it off."
)
@click.option(
    "--health-probe-bind-address",
    type=ADDRESS_OR_OFF,
    default=":8081",
    help="Address of /healthz and /readyz; 0 turns them off.",
)
@click.option("--leader-elect/--no-leader-elect", default=True, help="Take part in leader election.")
@click.option("--leader-elect-namespace", default="praetor-system", help="Namespace of the Lease praetor-controller.")
@click.option(
    "--leader-elect-lease-duration",
    type=click.FloatRange(1.0, 3600.0),
    default=15.0,
    help="Seconds after which another replica may replace a silent leader.",
)
@click.option(
    "--gateway-lease-namespace",
    default=None,
    help="Namespace of the gateways' Lease, their --lease-namespace.  [default: the pod's, or default]",
)
@click.option("--qps", type=click.FloatRange(min=0, min_open=True), default=2000.0, help="Maximum writes per second.")
@click.option("--burst", type=click.IntRange(min=1), default=2000, help="Maximum writes at once after a quiet time.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, help="Deployments reconciled at the same time.")
@click.option("--record", metavar="FILE", help="Record every decision in FILE, for praetorctl replay.")
@click.option("--record-max-mib", type=click.IntRange(1, 1 << 20), default=256, help="Maximum size of FILE in MiB.")
@click.option(
    "--record-files", type=click.IntRange(1, 100), default=4, help="Maximum number of files, FILE.1 and so on."
)
@tracing_option()
@log_options()
@click.version_option(__version__, prog_name="praetor-controller")
def main(
    kubeconfig: str | None,
    context: str | None,
    namespaces: tuple[str, ...],
    metrics_bind_address: BindAddress | None,
    health_probe_bind_address: BindAddress | None,
    leader_elect: bool,
    leader_elect_namespace: str,
    leader_elect_lease_duration: float,
    gateway_lease_namespace: str | None,
    qps: float,
    burst: int,
    workers: int,
    record: str | None,
    record_max_mib: int,
    record_files: int,
    tracing: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Fan DeviceProcessDeployments out to the devices they match, and roll changes out safely."""
    configure_logs(log_level, log_format)
    try:
        settings = Settings(
            kubeconfig=kubeconfig,
            context=context,
            namespaces=namespaces,
            metrics=metrics_bind_address,
            probes=health_probe_bind_address,
            leader_elect=leader_elect,
            leader_elect_namespace=leader_elect_namespace,
            lease_duration_s=leader_elect_lease_duration,
            gateway_lease_namespace=gateway_lease_namespace or pod_namespace() or "default",
            qps=qps,
            burst=burst,
            tracing=tracing,
            workers=workers,
            recording=Recording(path=Path(record), max_bytes=record_max_mib << 20, files=record_files)
            if record
            else None,
        )
        asyncio.run(run(settings))
    except KubeError as e:
        raise BadOption("--context" if isinstance(e, NoSuchContext) else "--kubeconfig", str(e)) from e
    except ExceptionGroup:  # an unexpected failure of a part: the supervisor starts the process again
        structlog.get_logger(__name__).exception("the controller failed")
        raise SystemExit(1) from None
