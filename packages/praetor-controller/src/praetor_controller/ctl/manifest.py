"""Deployments in a file: YAML or JSON, several documents or a List. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS as KIND
from praetor_controller.ctl.errors import BadInput


class _Loader(yaml.SafeLoader):
    """Takes dates for the text that they are, as kubectl does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def deployments_in(text: str) -> list[dict[str, Any]]:
    """Return the deployments in *text*, whatever else is there; BadInput naming what is wrong."""
    try:
        documents = [each for document in yaml.load_all(text, Loader=_Loader) for each in _objects(document)]
    except yaml.YAMLError as e:
        raise BadInput(f"-f: it is neither YAML nor JSON: {' '.join(str(e).split())}") from e
    found = [each for each in documents if each.get("kind") == KIND.kind]
    if not found:
        raise BadInput(f"-f: there is no {KIND.kind} in it; give the manifest of one")
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
            raise BadInput("-f: items: is no list; give manifests")
        for item in items:
            yield from _objects(item)
    else:
        yield document


def _check(deployment: dict[str, Any]) -> None:
    metadata = deployment.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise BadInput("-f: metadata.name: is missing; name the deployment")
    if not isinstance(deployment.get("spec"), dict):
        raise BadInput(f"-f: {metadata['name']}: spec: is missing; say what to run")
    if deployment.get("apiVersion") != KIND.api_version:
        raise BadInput(
            f"-f: {metadata['name']}: apiVersion: is {deployment.get('apiVersion')!r}; use {KIND.api_version}"
        )
