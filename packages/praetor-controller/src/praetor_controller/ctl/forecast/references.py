# SPDX-License-Identifier: Apache-2.0
"""What a template refers to, as far as the user may read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from praetor_api.kube.client.errors import Forbidden, NotFound
from praetor_api.kube.client.resource import Key
from praetor_api.kube.delivered import DELIVERED, KINDS, is_delivered
from praetor_api.values import (
    SECRET,
    DeviceFields,
    Reference,
    Source,
    Value,
    missing_references,
    references_of,
    refused_reference,
    resolve,
    too_large,
)
from praetor_controller.ctl.cluster import Cluster

_IN_NO_DEVICE = DeviceFields(name="", namespace="")


@frozen
class ReadObjects:
    """The *values* of the objects that references name, by kind and name; those in *refused* the user may not read.

    With *masks* no Secret was read, and read() returns words in its place.
    """

    values: Mapping[tuple[str, str], Mapping[str, Value]] = field(repr=False)
    refused: frozenset[tuple[str, str]]
    masks: bool = False

    def read(self, source: Source) -> Value | None:
        """Return the value of *source*; for one that the user may not read, words that say so."""
        if source.kind == SECRET and self.masks:
            return f"(of {source})"
        if (source.kind, source.name) in self.refused:
            return f"(of {source}, which you may not read)"
        return self.values.get((source.kind, source.name), {}).get(source.key)


async def read_objects(cluster: Cluster, references: Sequence[Reference], *, masks: bool = False) -> ReadObjects:
    """Read what *references* name, each object once; with *masks* no Secrets."""
    values: dict[tuple[str, str], Mapping[str, Value]] = {}
    refused = set()
    for named in dict.fromkeys((each.source.kind, each.source.name) for each in references if each.source is not None):
        kind, name = named
        if kind not in KINDS or (masks and kind == SECRET):
            continue
        try:
            found = await cluster.api.get(KINDS[kind], Key(cluster.namespace, name))
        except NotFound:
            continue
        except Forbidden:
            refused.add(named)
            continue
        if is_delivered(found):
            values[named] = DELIVERED[kind](found)
    return ReadObjects(values, frozenset(refused), masks)


async def reference_warnings(cluster: Cluster, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence for what no device would be given of the template *spec*: of its variables, and its files."""
    references = [each for each in references_of(spec) if each.source is not None and each.source.kind in KINDS]
    objects = await read_objects(cluster, references)
    of_env, of_files = ([each for each in references if bool(each.file) is wanted] for wanted in (False, True))
    found = (_warning(cluster, *each, objects) for each in (("env", of_env), ("files", of_files)))
    return tuple(filter(None, found))


def _warning(cluster: Cluster, field: str, references: Sequence[Reference], objects: ReadObjects) -> str:
    found, where = resolve(references, _IN_NO_DEVICE, objects.read), f"spec.template.spec.execution.{field}"
    if large := too_large(found):
        return f"{refused_reference(large)}: {where}: no device would be given that much; refer to less"
    if not found.missing:
        return ""
    return (
        f"{missing_references(found.missing)}: {where}: the namespace {cluster.namespace} has no "
        'such object with the label azure.com/deliver: "true", or no such key in it; every device would keep what it '
        "runs. Create it, or write optional: true"
    )
