# SPDX-License-Identifier: Apache-2.0
"""`praetorctl plan`."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any

import click
import yaml
from attrs import evolve

from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import ApiError, Forbidden, NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, Key
from praetor_controller.ctl.cluster import (
    FIELD_MANAGER,
    Cluster,
    Opener,
    Target,
    cluster_options,
    list_all,
    run_on_cluster,
)
from praetor_controller.ctl.errors import BadInput, CommandFailed, ExitCode, read_input
from praetor_controller.ctl.forecast.api_words import dropped_fields, refused_fields, remedies, unknown_fields
from praetor_controller.ctl.forecast.files import file_changes
from praetor_controller.ctl.forecast.forecast import Forecast, forecast, forecasts
from praetor_controller.ctl.forecast.model import ForecastModel
from praetor_controller.ctl.forecast.references import reference_warnings
from praetor_controller.ctl.forecast.variables import variable_warnings
from praetor_controller.ctl.inventory import read_inventory
from praetor_controller.ctl.output import output_option, show, warn
from praetor_controller.ctl.rollout_patch import all_approved
from praetor_controller.ctl.times import duration_option
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.manifests import process_manifest, process_patch
from praetor_controller.reconcile.writer import is_refusal

_MAX_FILE = 16 << 20
_MAX_MANIFEST = 3 << 20
"""Characters; the API takes requests of 3 MiB."""


@click.command("plan")
@click.option(
    "-f", "--filename", required=True, type=click.Path(allow_dash=True), help="Manifest; - is standard input."
)
@click.option(
    "--ready-after",
    callback=duration_option,
    default="10s",
    show_default=True,
    help="Time that a device needs to be ready with a new template.",
)
@click.option("--approve", is_flag=True, help="Assume that each wave with approval: Manual is approved.")
@click.option("--strict", is_flag=True, help="Exit with 2 when there is a warning, or the spec cannot be acted on.")
@click.option("--max-steps", type=click.IntRange(min=1), default=50, show_default=True, help="Shown in the table.")
@cluster_options
@output_option
@click.pass_context
def plan(
    context: click.Context,
    target: Target,
    opener: Opener,
    filename: str,
    ready_after: float,
    approve: bool,
    strict: bool,
    max_steps: int,
    output: str,
) -> None:
    """Forecast what the controller would do with the deployments in a file. Nothing is written.

    The API validates and defaults the manifest in a dry run. The controller's own planner then runs to the end on a
    model of the cluster in which every connected device becomes ready with what it is given. Each deployment is
    planned by itself, as if its spec were exactly what the file says. What is probably a mistake is warned about first.
    Files of the process that would change are listed, with no contents.
    """
    manifests = deployments_in(_text(filename))
    target = evolve(target, namespace=_namespace(target, manifests), dry_run=True)

    async def work(cluster: Cluster) -> list[Forecast]:
        return [await _forecast(cluster, each, ready_after, approve=approve) for each in manifests]

    found = run_on_cluster(opener, target, work)
    show(forecasts(found, output, max_steps))
    if strict and any(each.warnings or each.fault for each in found):
        context.exit(ExitCode.USAGE)


async def _forecast(cluster: Cluster, manifest: dict[str, Any], ready_after_s: float, *, approve: bool) -> Forecast:
    before, deployment = await _as_stored(cluster, manifest)
    if approve:
        deployment = all_approved(deployment)
    inventory, processes = await read_inventory(cluster), await list_all(cluster, DEVICE_PROCESSES)
    if warning := inventory.gateway_warning(cluster.clock.now()):
        warn(warning)
    model = ForecastModel(inventory, processes, deployment, cluster.clock.now())
    refusal = await _refusal(cluster, model)
    result = forecast(model, ready_after_s)
    specs = [after for _, after in model.spec_changes(before)]
    missing = [each for spec in specs for each in await reference_warnings(cluster, spec)]
    literal = [f"spec.template.spec.execution: {each}" for spec in specs for each in variable_warnings(spec)]
    result.warnings += refusal + tuple(dict.fromkeys((*missing, *literal)))
    changes = (file_changes(*each) for each in model.spec_changes(before))
    result.files = tuple(dict.fromkeys(change for found in changes for change in found))
    return result


async def _refusal(cluster: Cluster, model: ForecastModel) -> tuple[str, ...]:
    """Return what the API says of the first write in a dry run, when it refuses it; other writes differ in names."""
    writes = (
        each for each in model.next_writes() if isinstance(each, Create) or (isinstance(each, Update) and each.spec)
    )
    action, deployment, now = next(writes, None), model.deployment, model.now
    if action is None:
        return ()
    try:
        if isinstance(action, Create):
            body = process_manifest(deployment, action, now)
            del body["metadata"]["ownerReferences"]  # the owner may not exist yet
            await cluster.api.create(DEVICE_PROCESSES, cluster.namespace, body, field_manager=FIELD_MANAGER)
        else:
            key, patch = Key(cluster.namespace, action.process.name), process_patch(deployment, action, now)
            await cluster.api.patch(
                DEVICE_PROCESSES, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
            )
    except ApiError as e:
        rights = isinstance(e, Forbidden) and " cannot " in e.message  # the user's own, not the controller's
        return () if rights or not is_refusal(e) else (f"the API refuses its processes: {e.message}",)
    return ()


async def _as_stored(cluster: Cluster, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the spec that is stored, empty if none is, and the deployment as the API would store it.

    BadInput naming the fields that the API does not know: an API before Kubernetes 1.25 drops them without a word.
    """
    name = manifest["metadata"]["name"]
    try:
        before, after = await _dry_run(cluster, Key(cluster.namespace, name), manifest)
    except ApiError as e:
        if unknown := refused_fields(e.message):
            raise BadInput(f"-f: {name}: {unknown_fields(unknown)}") from e
        if words := remedies(e.message):
            raise CommandFailed(f"{e}; {'; '.join(words)}") from e
        raise
    if unknown := dropped_fields(manifest, after):
        raise BadInput(f"-f: {name}: {unknown_fields(unknown)}")
    return before, after


async def _dry_run(cluster: Cluster, key: Key, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        stored = await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, key)
    except NotFound:
        body = {**manifest, "metadata": {**manifest["metadata"], "namespace": key.namespace}}
        created = await cluster.api.create(
            DEVICE_PROCESS_DEPLOYMENTS, key.namespace, body, field_manager=FIELD_MANAGER, strict=True
        )
        return {}, created
    patch = [{"op": "replace", "path": "/spec", "value": manifest["spec"]}]
    patched = await cluster.api.patch(
        DEVICE_PROCESS_DEPLOYMENTS, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER, strict=True
    )
    return stored["spec"], patched


def _namespace(target: Target, manifests: list[dict[str, Any]]) -> str | None:
    named = (each["metadata"].get("namespace") for each in manifests)
    wanted = {str(each) for each in (target.namespace, *named) if each}
    if len(wanted) > 1:
        raise BadInput(f"-f: metadata.namespace: {', '.join(sorted(wanted))}; one namespace at a time, see --namespace")
    return next(iter(wanted), None)


def _text(filename: str) -> str:
    try:
        return read_input(filename, "-f", "give a manifest", _MAX_FILE).decode("utf-8")
    except UnicodeDecodeError as e:
        raise BadInput(f"-f: {filename} is not text; give a manifest") from e


class _Loader(yaml.SafeLoader):
    """Loads dates as text, as kubectl does, and keeps a key once: merges of merges would multiply it."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        names = [(key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key) for key, _ in node.value]
        node.value = list(dict(zip(names, node.value, strict=True)).values())


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def deployments_in(text: str) -> list[dict[str, Any]]:
    """Return the deployments among the manifests in *text*; BadInput naming what is wrong."""
    try:
        documents = [each for document in yaml.load_all(text, Loader=_Loader) for each in _objects(document)]
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise BadInput(f"-f: not YAML or JSON: {' '.join(str(e).split())}; give a manifest") from e
    except RecursionError as e:
        raise BadInput("-f: is nested too deeply; give a manifest") from e
    found = [each for each in documents if each.get("kind") == DEVICE_PROCESS_DEPLOYMENTS.kind]
    if not found:
        raise BadInput(f"-f: there is no {DEVICE_PROCESS_DEPLOYMENTS.kind} in it; give the manifest of one")
    for each in found:
        _check(each)
    return found


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    if document is None:
        return
    if not isinstance(document, dict):
        raise BadInput(f"-f: a document is {type(document).__name__}, not an object; give manifests")
    if document.get("kind") == "List":
        items = document.get("items") or []
        if not isinstance(items, list):
            raise BadInput("-f: items: is not a list; give a list of manifests")
        for item in items:
            yield from _objects(item)
    else:
        yield document


def _check(deployment: dict[str, Any]) -> None:
    metadata = deployment.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise BadInput("-f: metadata.name: is missing; write the name of the deployment")
    if not isinstance(deployment.get("spec"), dict):
        raise BadInput(f"-f: {metadata['name']}: spec: is missing; write what to run")
    _check_content(metadata["name"], deployment)
    if deployment.get("apiVersion") != DEVICE_PROCESS_DEPLOYMENTS.api_version:
        version = deployment.get("apiVersion")
        raise BadInput(
            f"-f: {metadata['name']}: apiVersion: is {version!r}; use {DEVICE_PROCESS_DEPLOYMENTS.api_version}"
        )


def _check_content(name: str, deployment: dict[str, Any]) -> None:
    """Raise BadInput for what JSON does not have, and for more than the API takes: aliases may repeat without end."""
    size, parts = 0, list[Any]([deployment])
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += [*part, *part.values()]
        elif isinstance(part, list):
            parts += part
        elif not isinstance(part, (str, int, float, NoneType)):
            raise BadInput(f"-f: {name}: {type(part).__name__} is no type of JSON; write a text or a number")
        size += 1 + len(part) if isinstance(part, str) else 1
        if size > _MAX_MANIFEST:
            raise BadInput(f"-f: {name}: is larger than the API takes; write it shorter, or without aliases")
