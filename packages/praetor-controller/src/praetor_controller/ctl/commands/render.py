# SPDX-License-Identifier: Apache-2.0
"""`praetorctl render`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import click

from praetor_api.files import FILES_VARIABLE, OnChange, ReloadSignal, mode_of
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.spec import ProcessSpec
from praetor_api.values import (
    SECRET,
    DeviceFields,
    ExpansionError,
    Source,
    missing_references,
    references_of,
    refused_reference,
    resolve,
    started_with,
    too_large,
)
from praetor_api.wire import WireError, read
from praetor_controller.ctl.cluster import Cluster, on_cluster
from praetor_controller.ctl.commands.completion import deployment_argument, device_names
from praetor_controller.ctl.errors import CommandFailed
from praetor_controller.ctl.forecast.holds import holds, not_known
from praetor_controller.ctl.forecast.references import ReadObjects, read_objects
from praetor_controller.ctl.forecast.variables import variable_warnings
from praetor_controller.ctl.kinds import get_device, kind_of
from praetor_controller.ctl.output import OutputFormat, for_people, output_option, structured, warn
from praetor_controller.model.overrides import PATH
from praetor_controller.model.projection import project_deployment, project_device

FILES = f"<{FILES_VARIABLE}>"
"""Stands for the directory of the process's own files."""


@click.command("render")
@deployment_argument
@click.argument("device", shell_complete=device_names)
@on_cluster
@output_option
async def render(cluster: Cluster, deployment: str, device: str, output: str) -> str:
    """Show the command, arguments, environment and files that DEVICE gets from a deployment.

    Of a deployment with overrides also those that apply to DEVICE, the first of which wins, and the artifact.
    References are resolved from the device and the ConfigMaps as they are stored now, and $(NAME) is expanded,
    by the rules of the gateway and the agent. Secrets are not read, and not shown. Nothing is written.
    <PRAETOR_FILES> stands for the directory of the process's own files, which only the device knows. What a backend
    adds to the environment, such as PATH, is not shown.

    What the device would not take, as far as its object and the deployment's say, is warned of. Whether the gateway
    may read the namespace, and what the device's connection and token let it have, is not known here.
    """
    stored = await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, Key(cluster.namespace, deployment))
    found_device = await get_device(cluster, device)
    row = project_device(found_device, kind_of(found_device))
    found_deployment = project_deployment(stored)
    if not found_deployment.selects(row):
        warn(f"{deployment} does not select {device}; shown is what it would get")
    template = found_deployment.template.resolved(row.labels)
    if fault := template.fault or found_deployment.fault:
        raise CommandFailed(f"{deployment}: {fault}; {device} keeps what it runs")
    spec = template.spec
    for why in holds(found_deployment.policy.requirements, spec, row):
        warn(f"{why}; {device} keeps what it runs, and shown is what it would get")
    for each in variable_warnings(spec):
        warn(f"{deployment}: spec.template.spec.execution: {each}")
    fields = DeviceFields(
        name=found_device["metadata"]["name"],
        namespace=row.namespace,
        labels=row.labels,
        address=row.address,
        facts=row.facts or {},
    )
    files = spec["execution"].get("files") or ()
    references = references_of(spec)
    objects = await read_objects(cluster, references, masks=True)
    for kind, name in sorted(objects.refused):
        warn(f"you may not read {kind}/{name}, so its values are not shown")
    if unknown := not_known(cluster.namespace, device, references):
        warn(unknown)
    found = resolve(references, fields, objects.read)
    if found.missing:
        raise CommandFailed(
            f"{missing_references(found.missing)}: {device} has no such value and keeps what it runs; label it, wait "
            "for its facts, create the object with its label, or write optional: true"
        )
    if large := too_large(resolve([each for each in references if each.source is not None], fields, objects.read)):
        raise CommandFailed(f"{refused_reference(large)}: {device} keeps what it runs; refer to less")
    try:
        execution = read(ProcessSpec, spec).execution
        started = started_with(execution, found.values, FILES if any(map(_is_own, files)) else "")
    except (WireError, ExpansionError) as e:
        raise CommandFailed(f"{deployment}: {e}") from e
    shown: dict[str, object] = {}
    if found_deployment.template.overrides:
        shown = {"overrides": [f"{PATH}[{index}]" for index in template.applied], "artifact": spec.get("artifact")}
    shown |= {"command": [*started.command], "args": [*started.args], "env": dict(started.env)}
    if files:
        held = found.files.by_path if found.files is not None else {}
        sources = {each.file: each.source for each in references if each.file and each.source is not None}
        shown["files"] = [
            _settings(each) | _content(each, sources.get(each["path"]), held, objects)
            for each in files
            if each["path"] not in sources or each["path"] in held
        ]
    return structured(shown, OutputFormat.YAML if for_people(output) else output)


def _is_own(file: Mapping[str, Any]) -> bool:
    return not str(file["path"]).startswith("/")


def _settings(file: Mapping[str, Any]) -> dict[str, object]:
    """Return what is shown of *file* besides what it holds."""
    shown: dict[str, object] = {"path": file["path"], "mode": mode_of(file)}
    if file.get("owner") is not None:
        shown["owner"] = file["owner"]
    if (on_change := file.get("onChange", OnChange.RESTART)) != OnChange.RESTART:
        shown["onChange"] = on_change
    if on_change == OnChange.SIGNAL:
        shown["signal"] = file.get("signal") or ReloadSignal.HUP.value
    return shown


def _content(
    file: Mapping[str, Any], source: Source | None, held: Mapping[str, str], objects: ReadObjects
) -> dict[str, object]:
    """Return what is shown of what *file* holds: its *source* alone if that is a Secret, or may not be read."""
    shown: dict[str, object] = {}
    if source is None:
        content = (file.get("content") or "").encode()
    else:
        content, shown = base64.b64decode(held[file["path"]]), {"from": str(source)}
        if source.kind == SECRET or (source.kind, source.name) in objects.refused:
            return shown
    try:
        text = {"content": content.decode()}
    except UnicodeDecodeError:
        text = {"contentBase64": held[file["path"]]}
    return shown | {"bytes": len(content), **text}
