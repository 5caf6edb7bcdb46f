# SPDX-License-Identifier: Apache-2.0
"""Revisions of a deployment's template: one ControllerRevision each, numbered in the order of their use. Pure.

A template that is used again keeps its revision and gets a new number. Revisions that
processes, the status or the spec refer to are never removed; of the others the newest revisionHistoryLimit are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import evolve, field, frozen

from praetor_api.annotations import (
    CHANGE_CAUSE_ANNOTATION,
    DEPLOYMENT_LABEL,
    ROLLED_OUT_ANNOTATION,
    ROLLED_OUT_BEFORE_ANNOTATION,
    STARTED_AT_ANNOTATION,
    TRACEPARENT_ANNOTATION,
    WAVES_ANNOTATION,
)
from praetor_api.canonical import canonical_json
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS
from praetor_api.kube.codec import format_time
from praetor_api.names import hashed_process_name, process_name
from praetor_api.wire import clean_text
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.manifests import owner_reference
from praetor_controller.model.projection import epoch, project_template
from praetor_controller.model.rows import DeploymentRow, Template
from praetor_controller.model.wave_record import WaveRecord, parse_wave_record


@frozen(kw_only=True)
class RevisionRow:
    """A ControllerRevision. *started_at* is when its rollout last began, in seconds since the epoch.

    *change_cause* is why, in the words of the user who changed the template. *waves* is what is remembered of them.
    *rolled_out* is the number that it had when it was rolled out for the first time; None: it was not, or a controller
    before this one did not record it. *rolled_out_before* is a stamp after the offers that this was about, not after
    later ones; None as before. *traceparent* is the span that its
    last rollout began with, "" if none is recorded.
    """

    name: str
    namespace: str
    uid: str
    resource_version: str
    owner: str | None
    number: int
    template: Template
    started_at: float
    change_cause: str = ""
    waves: WaveRecord = field(factory=WaveRecord)
    rolled_out: int | None = None
    rolled_out_before: float | None = None
    terminating: bool = False
    traceparent: str = ""


@frozen(kw_only=True)
class RevisionChanges:
    """The write that corrects the history before a rollout: at most one of both."""

    create: Mapping[str, Any] | None = None
    rewrite: tuple[RevisionRow, Mapping[str, Any]] | None = None

    @property
    def number(self) -> int | None:
        """The number of the revision whose rollout begins with this write; None if none begins."""
        _, body = self.rewrite or (None, {})
        return (self.create or body).get("revision")

    def traced(self, traceparent: str) -> RevisionChanges:
        """Return the same write with the span of the beginning rollout."""
        if self.rewrite is not None:
            row, body = self.rewrite
            return RevisionChanges(rewrite=(row, _with_annotation(body, traceparent)))
        return self if self.create is None else RevisionChanges(create=_with_annotation(self.create, traceparent))


def template_of(revision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template that *revision*, a raw ControllerRevision, holds, as spec.template takes it; {} if none."""
    part = _data_of(revision).get("template")
    return dict(part) if isinstance(part, Mapping) else {}


def overrides_of(revision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the overrides that *revision*, a raw ControllerRevision, holds, as spec.overrides takes them."""
    part = _data_of(revision).get("overrides")
    return [dict(each) for each in part if isinstance(each, Mapping)] if isinstance(part, list) else []


def _data_of(revision: Mapping[str, Any]) -> Mapping[str, Any]:
    part: object = revision
    for name in ("data", "spec"):  # other clients may write it, too
        part = part.get(name) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def project_revision(obj: Mapping[str, Any]) -> RevisionRow:
    """Return the row of a ControllerRevision."""
    metadata = obj["metadata"]
    owner: Mapping[str, str] = next(
        (each for each in metadata.get("ownerReferences") or () if each.get("controller")), {}
    )
    annotations = metadata.get("annotations") or {}
    started_at = epoch(annotations.get(STARTED_AT_ANNOTATION))
    number, recorded = int(obj.get("revision") or 0), annotations.get(WAVES_ANNOTATION)
    return RevisionRow(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        owner=owner.get("uid"),
        number=number,
        template=project_template(owner.get("name", ""), template_of(obj), overrides_of(obj)),
        started_at=started_at if started_at is not None else epoch(metadata.get("creationTimestamp")) or 0.0,
        change_cause=clean_text(annotations.get(CHANGE_CAUSE_ANNOTATION) or ""),
        waves=parse_wave_record(recorded, number) if recorded else WaveRecord(number=number),
        rolled_out=_number(annotations.get(ROLLED_OUT_ANNOTATION)),
        rolled_out_before=epoch(annotations.get(ROLLED_OUT_BEFORE_ANNOTATION)),
        terminating=metadata.get("deletionTimestamp") is not None,
        traceparent=annotations.get(TRACEPARENT_ANNOTATION) or "",
    )


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def find_revision(revisions: Sequence[RevisionRow], revision: str | None) -> RevisionRow | None:
    """Return the row of the template whose hash is *revision*."""
    return next((row for row in revisions if row.template.revision == revision), None)


def newest_template(revisions: Iterable[RevisionRow]) -> Template | None:
    """Return the template of the newest of *revisions*; None if there is none."""
    newest = max(revisions, key=lambda row: row.number, default=None)
    return newest.template if newest is not None else None


def with_stored_template(deployment: DeploymentRow, revisions: Sequence[RevisionRow]) -> DeploymentRow:
    """Return *deployment* with the newest template of *revisions* that means the same as its own, if there is one.

    So a template that only gained an empty list is no change: what is stored keeps its hash.
    """
    template = deployment.template
    if find_revision(revisions, template.revision) is not None:
        return deployment
    wanted = _meaning(template)
    same = (row for row in revisions if _meaning(row.template) == wanted)
    newest = max(same, key=lambda row: row.number, default=None)
    return deployment if newest is None else evolve(deployment, template=newest.template)


def _meaning(template: Template) -> tuple[object, ...]:
    overrides = [*template.overrides]  # an empty list in one of them takes the template's away
    return _normal(template.spec), template.labels, template.annotations, overrides


def _normal(value: Any) -> Any:
    """Return *value* without the fields that mean the same as none at all: null, and lists and maps without content.

    An object whose presence alone says something, as `confirm`, is never empty: the API gives it its defaults.
    """
    if isinstance(value, Mapping):
        parts = ((name, _normal(part)) for name, part in value.items())
        return {name: part for name, part in parts if part is not None and part not in ([], {})}
    return [_normal(each) for each in value] if isinstance(value, list) else value


def revision_name(deployment: DeploymentRow, *, taken: bool = False) -> str:
    """Return the name of the template's revision; a hashed one when the plain name is *taken* by another owner."""
    plain = process_name(deployment.name, deployment.template.revision)
    return hashed_process_name(plain, deployment.uid) if taken else plain


def revision_changes(deployment: DeploymentRow, revisions: Sequence[RevisionRow], now: datetime) -> RevisionChanges:
    """Return the write that makes the deployment's template the newest of *revisions*."""
    newest = max((row.number for row in revisions), default=0)
    row = find_revision(revisions, deployment.template.revision)
    if row is None:
        return RevisionChanges(create=_manifest(deployment, newest + 1, now))
    if row.number < newest:
        metadata = {
            "resourceVersion": row.resource_version,
            "annotations": ({CHANGE_CAUSE_ANNOTATION: None} if row.change_cause else {})
            | _annotations(deployment, now),
        }
        return RevisionChanges(rewrite=(row, {"metadata": metadata, "revision": newest + 1}))
    if deployment.change_cause and deployment.change_cause != row.change_cause:  # set later
        annotations = {CHANGE_CAUSE_ANNOTATION: deployment.change_cause}
        return RevisionChanges(
            rewrite=(row, {"metadata": {"resourceVersion": row.resource_version, "annotations": annotations}})
        )
    return RevisionChanges()


def _with_annotation(body: Mapping[str, Any], traceparent: str) -> dict[str, Any]:
    metadata = body["metadata"]
    annotations = {**metadata["annotations"], TRACEPARENT_ANNOTATION: traceparent}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def wave_record_changes(row: RevisionRow, record: WaveRecord) -> dict[str, Any]:
    """Return the merge patch that stores *record* on the revision of *row*."""
    return {"metadata": {"resourceVersion": row.resource_version, "annotations": {WAVES_ANNOTATION: record.text()}}}


def rolled_out_changes(row: RevisionRow, now: datetime) -> dict[str, Any]:
    """Return the merge patch that records that the revision of *row* was rolled out; *now* is after its offers."""
    annotations = {ROLLED_OUT_ANNOTATION: str(row.number), ROLLED_OUT_BEFORE_ANNOTATION: format_time(now)}
    return {"metadata": {"resourceVersion": row.resource_version, "annotations": annotations}}


def proven_stamps(revisions: Iterable[RevisionRow], current: str | None) -> dict[str, float]:
    """Return the revisions that were rolled out, and before which stamp each of these rollouts made its offers.

    All that such a rollout was to reach was available in the end. Devices that were back after it, and later rollouts,
    may have been offered the revision again, and no record says what became of that. *current* is what was rolled out
    last; a controller before this one may not have recorded that.
    """
    rows = tuple(revisions)
    proven = {} if current is None else {current: math.inf}
    for row in rows:
        if row.rolled_out is not None:
            later = (each.started_at for each in rows if each.number > row.rolled_out)
            proven[row.template.revision] = min((row.rolled_out_before or math.inf, *later))
    return proven


def to_restore(revisions: Sequence[RevisionRow], present: Collection[str], failed: str | None) -> RevisionRow | None:
    """Return the newest of *revisions* that was rolled out, and not one of *present*; None when none certainly was.

    *present* and *failed* are hashes of templates. Revisions from before that was recorded count as rolled out, unless
    one is the *failed* one.
    """
    others = sorted((row for row in revisions if row.template.revision not in present), key=lambda row: -row.number)
    since = min((row.rolled_out for row in revisions if row.rolled_out is not None), default=None)
    marked = (row for row in others if row.rolled_out is not None)
    older = (row for row in others if (since is None or row.number < since) and row.template.revision != failed)
    return next(marked, None) or next(older, None)


def surplus_revisions(revisions: Sequence[RevisionRow], in_use: Collection[str], limit: int) -> tuple[RevisionRow, ...]:
    """Return the revisions to delete: the oldest of those not *in_use*, of which *limit* are kept."""
    unused = sorted((row for row in revisions if row.template.revision not in in_use), key=lambda row: row.number)
    return tuple(unused[: max(0, len(unused) - limit)])


def _annotations(deployment: DeploymentRow, now: datetime) -> dict[str, Any]:
    cause = {CHANGE_CAUSE_ANNOTATION: deployment.change_cause} if deployment.change_cause else {}
    return {STARTED_AT_ANNOTATION: format_time(now)} | cause


def _manifest(deployment: DeploymentRow, number: int, now: datetime) -> dict[str, Any]:
    return {
        "apiVersion": CONTROLLER_REVISIONS.api_version,
        "kind": CONTROLLER_REVISIONS.kind,
        "metadata": {
            "name": revision_name(deployment),
            "namespace": deployment.namespace,
            "labels": {DEPLOYMENT_LABEL: deployment_label(deployment.name)},
            "annotations": _annotations(deployment, now),
            "ownerReferences": [owner_reference(deployment)],
        },
        "data": json.loads(canonical_json({"spec": _data(deployment.template)})),
        "revision": number,
    }


def _data(template: Template) -> dict[str, Any]:
    overrides = {"overrides": [*template.overrides]} if template.overrides else {}
    return {"template": template.raw} | overrides
