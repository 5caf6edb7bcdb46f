# SPDX-License-Identifier: Apache-2.0
"""Keeps the ControllerRevisions of deployments, one write at a time and before the processes that name them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import AlreadyExists, Conflict, NotFound
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.tracing import NO_TRACER, Attributes, Tracer
from praetor_controller.errors import NotLeading
from praetor_controller.model.revisions import (
    RevisionChanges,
    RevisionRow,
    find_revision,
    project_revision,
    revision_changes,
    revision_name,
    rolled_out_changes,
    surplus_revisions,
    wave_record_changes,
    with_stored_template,
)
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.model.wave_record import WaveRecord
from praetor_controller.reconcile.cache import BY_OWNER, Cache, owned_by
from praetor_controller.reconcile.writer import FIELD_MANAGER

_MAX_STAMP = 253_000_000_000.0
"""A later offer, of the year 9987, was edited: no time after it can be written for long."""


class RevisionHistory:
    """Writes ControllerRevisions for all deployments."""

    def __init__(
        self, api: KubeApi, cache: Cache, clock: Clock, may_write: Callable[[], bool], tracer: Tracer = NO_TRACER
    ) -> None:
        self._api = api
        self._cache = cache
        self._clock = clock
        self._may_write = may_write
        self._tracer = tracer

    async def record(self, deployment: DeploymentRow) -> tuple[RevisionRow, ...]:
        """Make the present template the newest revision, and return all; NotLeading, or what the API answered."""
        now, revisions = self._clock.now(), self._revisions(deployment)
        changes = revision_changes(deployment, revisions, now)
        if changes != RevisionChanges():
            changes = revision_changes(deployment, revisions, self._after_offers(deployment, now))
        if self._tracer.enabled and changes.number is not None:
            about: Attributes = {
                "namespace": deployment.namespace,
                "deployment": deployment.name,
                "revision": changes.number,
            }
            span = self._tracer.start("template changed", about)
            changes = changes.traced(span.traceparent)
            span.end()  # an instant: the rollout that follows has no end that would be certain
        if changes.create is not None:
            await self._create(deployment, changes.create)
        elif changes.rewrite is not None:
            row, body = changes.rewrite
            await self._rewrite(row, body)
        return self._revisions(deployment)

    def with_stored_template(self, deployment: DeploymentRow) -> DeploymentRow:
        """Return *deployment* with the template of the revision that means the same, as the model says."""
        return with_stored_template(deployment, self._revisions(deployment))

    async def remember(self, deployment: DeploymentRow, record: WaveRecord) -> None:
        """Store what is remembered of the waves of the present template's rollout; what the API answered, or Conflict.

        Other revisions come into use only with record(), so the one of the template has the record's number.
        """
        row = find_revision(self._revisions(deployment), deployment.template.revision)
        if row is not None and row.waves != record:
            await self._rewrite(row, wave_record_changes(row, record))

    async def record_rolled_out(self, deployment: DeploymentRow, revision: str | None) -> None:
        """Record on *revision*, a hash, that it was rolled out; once."""
        row = find_revision(self._revisions(deployment), revision)
        if row is not None and row.rolled_out is None:
            await self._rewrite(row, rolled_out_changes(row, self._after_offers(deployment, self._clock.now())))

    async def trim(
        self, deployment: DeploymentRow, revisions: Sequence[RevisionRow], in_use: Callable[[], Collection[str]]
    ) -> None:
        """Remove the oldest revisions above the limit; *in_use*, the hashes to keep, is called only if need be."""
        limit = deployment.policy.revision_history_limit
        if len(revisions) <= limit:
            return
        for row in surplus_revisions(revisions, in_use(), limit):
            self._check_leading()
            with suppress(NotFound):
                await self._api.delete(CONTROLLER_REVISIONS, Key(row.namespace, row.name), uid=row.uid)
            self._cache.revisions.assume_deleted(row)

    def _after_offers(self, deployment: DeploymentRow, now: datetime) -> datetime:
        """Return *now*, or a later time: after all offers so far, by whichever clock these were made."""
        rows = self._cache.processes.by_index(BY_OWNER, owned_by(deployment))
        stamps = (row.offer_stamp or 0.0 for row in rows)
        latest = max((stamp for stamp in stamps if stamp < _MAX_STAMP), default=0.0)
        return max(now, datetime.fromtimestamp(latest + 1.0, UTC))

    def _revisions(self, deployment: DeploymentRow) -> tuple[RevisionRow, ...]:
        rows = self._cache.revisions.by_index(BY_OWNER, owned_by(deployment))
        return tuple(row for row in rows if not row.terminating)

    async def _create(self, deployment: DeploymentRow, body: Mapping[str, Any]) -> None:
        self._check_leading()
        try:
            stored = await self._post(deployment.namespace, body)
        except AlreadyExists:
            row = await self._read(Key(deployment.namespace, body["metadata"]["name"]))
            if row is None or row.owner == deployment.uid:
                return  # ours, and the cache did not show it yet; or gone again: the next pass will know
            other = {"metadata": {**body["metadata"], "name": revision_name(deployment, taken=True)}}
            stored = await self._post(deployment.namespace, {**body, **other})
        self._cache.revisions.assume(project_revision(stored), is_new=True)

    async def _post(self, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._api.create(CONTROLLER_REVISIONS, namespace, body, field_manager=FIELD_MANAGER)

    async def _rewrite(self, row: RevisionRow, body: Mapping[str, Any]) -> None:
        self._check_leading()
        key = Key(row.namespace, row.name)
        try:
            stored = await self._api.patch(CONTROLLER_REVISIONS, key, body, field_manager=FIELD_MANAGER)
        except NotFound:
            self._cache.revisions.assume_deleted(row)
        except Conflict:
            await self._read(key)
            raise
        else:
            self._cache.revisions.assume(project_revision(stored))

    async def _read(self, key: Key) -> RevisionRow | None:
        try:
            row = project_revision(await self._api.get(CONTROLLER_REVISIONS, key))
        except NotFound:
            return None
        self._cache.revisions.assume(row, is_new=True)
        return row

    def _check_leading(self) -> None:
        if not self._may_write():
            raise NotLeading
