# SPDX-License-Identifier: Apache-2.0
"""What is stored in the cluster and what runs on the devices at a moment, and what a later moment has lost of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube, Object, conditions

REVISIONS = "controllerrevisions"
METADATA = ("uid", "generation", "labels", "annotations", "ownerReferences", "finalizers")
STATUS_FIELD = "f:status"


@frozen(kw_only=True)
class Checkpoint:
    """Stored objects by kind and name, and the process ids on each device."""

    objects: Mapping[str, Object]
    pids: Mapping[str, frozenset[int]]


@frozen(kw_only=True)
class Findings:
    """What must not have happened between two checkpoints, a sentence each."""

    restarts: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    disconnections: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.restarts, *self.writes, *self.disconnections)


def checkpoint(kube: Kube, pids: Mapping[str, frozenset[int]], *, but: str) -> Checkpoint:
    """Return what is stored now, without the objects whose names begin with *but*."""
    paths = {plural: kube.path(plural) for plural in (SWITCHES, PROCESSES, DEPLOYMENTS)}
    paths[REVISIONS] = f"/apis/apps/v1/namespaces/{kube.namespace}/{REVISIONS}"
    objects = {
        f"{plural}/{item['metadata']['name']}": item
        for plural, path in paths.items()
        for item in kube.api.get(path).body["items"]  # Kube's own list leaves managedFields out
        if not item["metadata"]["name"].startswith(but)
    }
    return Checkpoint(objects=objects, pids=pids)


def compare(before: Checkpoint, after: Checkpoint, *, new_schema: bool) -> Findings:
    """Return what was restarted, written or disconnected between the two.

    With a *new_schema* an unwritten spec may be read with other defaults; its generation and owners must be the same.
    """
    return Findings(
        restarts=tuple(_restarts(before, after)),
        writes=tuple(_writes(before.objects, after.objects, new_schema=new_schema)),
        disconnections=tuple(disconnections(before.objects, after.objects)),
    )


def disconnections(before: Mapping[str, Object], after: Mapping[str, Object]) -> Iterator[str]:
    """Yield the switches whose AgentConnected was not True all the time between the two."""
    for key, item in sorted(before.items()):
        if key.startswith(SWITCHES):
            was, now = _connected(item), _connected(after.get(key, {}))
            if now != was or now[0] != "True":
                yield f"{key}: AgentConnected was {was} and is {now}"


def _connected(switch: Object) -> tuple[str, str]:
    """Return status and time of the last transition, which shows a change that was undone, too."""
    found = conditions(switch).get("AgentConnected", {})
    return str(found.get("status", "")), str(found.get("lastTransitionTime", ""))


def _restarts(before: Checkpoint, after: Checkpoint) -> Iterator[str]:
    for device, pids in sorted(before.pids.items()):
        if after.pids.get(device) != pids:
            yield f"{device}: processes {sorted(pids)} became {sorted(after.pids.get(device, ()))}"


def _writes(before: Mapping[str, Object], after: Mapping[str, Object], *, new_schema: bool) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key not in before or key not in after:
            yield f"{key} was {'created' if key in after else 'deleted'}"
            continue
        was, now = (_declared(key, each, specs=not new_schema) for each in (before[key], after[key]))
        if key.startswith(REVISIONS):
            now["annotations"] = {name: now["annotations"].get(name) for name in was["annotations"]}  # more may come
        for field in was:
            if was[field] != now[field]:
                yield f"{key}: {field} was {was[field]} and is {now[field]}"


def _declared(key: str, item: Object, *, specs: bool) -> dict[str, Any]:
    """Return what is not status: a user's or a controller's words, and who wrote them."""
    metadata = item["metadata"]
    found = {name: metadata.get(name) for name in METADATA}
    found["annotations"] = found["annotations"] or {}
    found["writers"] = sorted(_writers(metadata), key=str)
    if key.startswith(REVISIONS):
        del found["writers"]  # of its annotations, where the progress of a rollout is remembered
        return {**found, "data": item.get("data"), "revision": item.get("revision")}
    return {**found, "spec": item["spec"]} if specs else found


def _writers(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for entry in metadata.get("managedFields") or ():
        fields = {name: value for name, value in entry.get("fieldsV1", {}).items() if name != STATUS_FIELD}
        if fields:
            yield entry["manager"], entry["operation"], str(fields)
