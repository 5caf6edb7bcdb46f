"""`praetorctl plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from attrs import evolve

from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, Key
from praetor_controller.ctl.approval import all_approved
from praetor_controller.ctl.cluster import FIELD_MANAGER, Cluster, Opener, Where, ask, cluster_options, list_all
from praetor_controller.ctl.errors import BadInput
from praetor_controller.ctl.forecast import Forecast, forecast, forecasts
from praetor_controller.ctl.forecast_model import World
from praetor_controller.ctl.inventory import take_census
from praetor_controller.ctl.manifest import deployments_in
from praetor_controller.ctl.output import output_option, show
from praetor_controller.ctl.times import seconds_option


@click.command("plan")
@click.option(
    "-f", "--filename", required=True, type=click.Path(allow_dash=True), help="Manifest; - is standard input."
)
@click.option(
    "--ready-after",
    callback=seconds_option,
    default="10s",
    show_default=True,
    help="How long a device takes to be ready with what it is offered.",
)
@click.option("--approve", is_flag=True, help="As if each wave with approval: Manual were approved.")
@click.option("--max-steps", type=click.IntRange(min=1), default=50, show_default=True, help="Shown in the table.")
@cluster_options
@output_option
def plan(
    where: Where, opener: Opener, filename: str, ready_after: float, approve: bool, max_steps: int, output: str
) -> None:
    """Tell what the controller would do if the deployments in a file were applied. Nothing is written.

    The API validates and defaults the manifest in a dry run. The controller's own planner is then run to the end on a
    model of the cluster in which every connected device that is offered something becomes ready. Each deployment is
    taken as if its spec were exactly what the file says, and by itself.
    """
    manifests = deployments_in(_text(filename))
    where = evolve(where, namespace=_namespace(where, manifests), dry_run=True)

    async def question(cluster: Cluster) -> list[Forecast]:
        return [await _forecast(cluster, each, ready_after, approve=approve) for each in manifests]

    show(forecasts(ask(opener, where, question), output, max_steps))


async def _forecast(cluster: Cluster, manifest: dict[str, Any], ready_after_s: float, *, approve: bool) -> Forecast:
    deployment = await _as_stored(cluster, manifest)
    if approve:
        deployment = all_approved(deployment)
    seen, processes = await take_census(cluster), await list_all(cluster, DEVICE_PROCESSES)
    return forecast(World(seen, processes, deployment, cluster.clock.now()), ready_after_s)


async def _as_stored(cluster: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the deployment as the API would store it."""
    key = Key(cluster.namespace, manifest["metadata"]["name"])
    try:
        await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, key)
    except NotFound:
        body = {**manifest, "metadata": {**manifest["metadata"], "namespace": key.namespace}}
        return await cluster.api.create(DEVICE_PROCESS_DEPLOYMENTS, key.namespace, body, field_manager=FIELD_MANAGER)
    patch = [{"op": "replace", "path": "/spec", "value": manifest["spec"]}]
    return await cluster.api.patch(
        DEVICE_PROCESS_DEPLOYMENTS, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
    )


def _namespace(where: Where, manifests: list[dict[str, Any]]) -> str | None:
    named = (each["metadata"].get("namespace") for each in manifests)
    wanted = {str(each) for each in (where.namespace, *named) if each}
    if len(wanted) > 1:
        raise BadInput(f"-f: metadata.namespace: {', '.join(sorted(wanted))}; one namespace at a time, see --namespace")
    return next(iter(wanted), None)


def _text(filename: str) -> str:
    try:
        content = sys.stdin.buffer.read() if filename == "-" else Path(filename).read_bytes()
        return content.decode("utf-8")
    except OSError as e:
        raise BadInput(f"-f: cannot read {filename}: {e.strerror}; give a manifest") from e
    except UnicodeDecodeError as e:
        raise BadInput(f"-f: {filename} is not text; give a manifest") from e
