# SPDX-License-Identifier: Apache-2.0
"""The controller's view of the cluster: devices, processes, deployments and their revisions, of each namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    DEVICES,
    Key,
    Resource,
)
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.informer import Handler, Informer
from praetor_api.names import referenced_device
from praetor_api.spec import DeviceKind
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.model.revisions import RevisionRow, project_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, Stamps
from praetor_controller.reconcile.assumed_cache import AssumedCache, Informers
from praetor_controller.rollout.snapshot import Moment

T = TypeVar("T")

BY_NAMESPACE = "namespace"
BY_OWNER = "owner"
BY_UID = "uid"
OWNERLESS = "ownerless"

_SET_S = 1.0
"""With a smaller difference in seconds our clock was not set since we began, and there is one time for everything."""

_log = structlog.get_logger(__name__)


def left_by(deployment: DeploymentRow) -> str:
    """Return what the index OWNERLESS files processes under that have the label of *deployment*."""
    return f"{deployment.namespace}/{deployment_label(deployment.name)}"


def owned_by(deployment: DeploymentRow) -> str:
    """Return what the index BY_OWNER files the rows of *deployment* under; an owner in another namespace is none."""
    return f"{deployment.namespace}/{deployment.uid}"


class DeviceInformers(Informers[DeviceRow]):
    """The informers of each kind of device. Keys of rows have the reference of the device as their name."""

    def __init__(self, by_kind: Mapping[DeviceKind, Informers[DeviceRow]]) -> None:
        super().__init__(())
        self._by_kind = by_kind
        self._of_kind = {kind: tuple(informers.all()) for kind, informers in by_kind.items()}
        self._all = [informer for informers in self._of_kind.values() for informer in informers]
        self._absent: set[DeviceKind] = set()
        self._found: list[Callable[[], None]] = []
        for kind, informers in self._of_kind.items():
            for informer in informers:
                informer.add_list_handler(partial(self._on_list, kind))

    def all(self) -> Iterable[Informer[DeviceRow]]:
        return self._all

    def is_current(self, namespace: str) -> bool:
        return all(informers.is_current(namespace) for informers in self._by_kind.values())

    def add_handler(self, handler: Handler[DeviceRow]) -> None:
        """Call *handler* with the key, the old and the new row of each change."""

        def referred(key: Key, old: DeviceRow | None, new: DeviceRow | None) -> None:
            row = new or old
            handler(Key(key.namespace, row.name) if row is not None else key, old, new)

        super().add_handler(referred)

    def get(self, key: Key) -> DeviceRow | None:
        kind, name = referenced_device(key.name)
        return self._by_kind[kind].get(Key(key.namespace, name))

    def missing(self) -> frozenset[DeviceKind]:
        """Return the kinds that the cluster does not have, or that we may not read."""
        found = frozenset(
            kind
            for kind, informers in self._of_kind.items()
            if any(informer.absent is not None for informer in informers)
        )
        self._absent |= found
        return found

    def add_found_handler(self, handler: Callable[[], None]) -> None:
        """Call *handler* when a kind can be read that was missing()."""
        self._found.append(handler)

    def _on_list(self, kind: DeviceKind, _: float) -> None:
        if kind in self._absent:
            self._absent.discard(kind)
            for handler in self._found:
                handler()


class Cache:
    """Rows of four kinds, kept up to date by run().

    *namespaces* are those to follow, all of them when there are none. What this process writes is assumed in
    *processes*, *deployments* and *revisions*; nothing of it is written to devices.
    """

    def __init__(self, api: KubeApi, clock: Clock, namespaces: Sequence[str]) -> None:
        self._behind: set[str] = set()  # namespaces
        self._clock = clock
        self._ahead_s = clock.now().timestamp() - clock.monotonic()

        def informers(
            resource: Resource,
            project: Callable[[dict[str, Any]], T],
            label_selector: str | None = None,
            *,
            optional: bool = False,
        ) -> Sequence[tuple[str | None, Informer[T]]]:
            return [
                (name, Informer(api, resource, project=project, clock=clock, namespace=name,
                                label_selector=label_selector, optional=optional))
                for name in namespaces or (None,)
            ]  # fmt: skip

        self.devices = DeviceInformers(
            {
                kind: Informers(
                    informers(
                        resource,
                        partial(project_device, kind=kind),
                        optional=kind is not DeviceKind.NETWORK_SWITCH,  # as a cluster of an earlier release
                    )
                )
                for kind, resource in DEVICES.items()
            }
        )
        self.processes = AssumedCache(informers(DEVICE_PROCESSES, self.process), clock)
        self.deployments = AssumedCache(informers(DEVICE_PROCESS_DEPLOYMENTS, project_deployment), clock)
        self.revisions = AssumedCache(informers(CONTROLLER_REVISIONS, project_revision, DEPLOYMENT_LABEL), clock)
        self.devices.add_index(BY_NAMESPACE, lambda row: (row.namespace,))
        self.processes.add_index(BY_OWNER, _owners)
        self.processes.add_index(OWNERLESS, _ownerless)
        self.revisions.add_index(BY_OWNER, _owners)
        self.deployments.add_index(BY_NAMESPACE, lambda row: (row.namespace,))
        self.deployments.add_index(BY_UID, lambda row: (row.uid,))

    def steady(self, monotonic: float | None = None) -> float:
        """Return the time of the rows, now or at *monotonic*: seconds since the epoch by our wall clock when we began.

        It is rounded to milliseconds, which keeps sums with whole seconds exact.
        """
        return round((self._clock.monotonic() if monotonic is None else monotonic) + self._ahead_s, 3)

    def moment(self) -> Moment:
        """Return the present moment."""
        steady, wall = self.steady(), self._clock.now()
        if abs(steady - wall.timestamp()) < _SET_S:
            return Moment(datetime.fromtimestamp(steady, UTC))
        return Moment(wall, steady - wall.timestamp())

    def process(self, obj: Mapping[str, Any]) -> ProcessRow:
        """Return the row of a DeviceProcess as the API answered it, with the times at which we saw what it shows."""
        metadata, key = obj["metadata"], Key.of(obj)
        created = self.processes.created(key, metadata.get("uid", ""), metadata.get("resourceVersion", ""))
        if created is not None:
            return created  # what a fan-out reads back of its own writes is not worth another projection
        known, now = self.processes.versions(key), self.steady()
        return project_process(obj, lambda uid, stamps: first_seen(uid, stamps, known, now))

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once."""
        return all(event.is_set() for event in self._synced())

    @property
    def kinds_behind(self) -> list[str]:
        """The kinds that cannot be followed at present, in any namespace."""
        return [kind for kind, known in self._kinds().items() if not all(each.is_current() for each in known.all())]

    def is_behind(self, namespace: str) -> bool:
        """Return whether the view of *namespace* may be as old as an outage, of one kind at least.

        Each kind is followed, and followed again, by itself: with new deployments beside a fleet of before, a first
        rollout would be over before it began.
        """
        behind = [kind for kind, known in self._kinds().items() if not known.is_current(namespace)]
        if behind and namespace not in self._behind:
            _log.warning("deciding nothing until all can be followed again", namespace=namespace, kinds=behind)
            self._behind.add(namespace)
        elif not behind and namespace in self._behind:
            _log.info("all can be followed again", namespace=namespace)
            self._behind.discard(namespace)
        return bool(behind)

    def doubt(self, since: float | None) -> None:
        """Follow every kind from a new list, as `Informer.doubt` says."""
        for known in self._kinds().values():
            for informer in known.all():
                informer.doubt(since)

    async def wait_synced(self) -> None:
        for event in self._synced():
            await event.wait()

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, informers in self._kinds().items():
                for informer in informers.all():
                    group.create_task(informer.run(), name=f"watch {kind}")

    def _kinds(self) -> Mapping[str, Informers[Any]]:
        return {
            "devices": self.devices,
            "processes": self.processes,
            "deployments": self.deployments,
            "revisions": self.revisions,
        }

    def _synced(self) -> list[asyncio.Event]:
        return [informer.synced for informers in self._kinds().values() for informer in informers.all()]


def _ownerless(row: ProcessRow) -> tuple[str, ...]:
    label = dict(row.labels).get(DEPLOYMENT_LABEL) if row.owner is None else None
    return () if label is None else (f"{row.namespace}/{label}",)


def _owners(row: ProcessRow | RevisionRow) -> tuple[str, ...]:
    return () if row.owner is None else (f"{row.namespace}/{row.owner}",)


def first_seen(uid: str, stamps: Stamps, known: Collection[ProcessRow], now: float) -> dict[str, Any]:
    """Return the times of a row at which this process saw what it shows, and its failure if that is over.

    Objects carry times of gateways, of devices and of earlier controllers, and no two of these clocks need agree. So
    their times are compared for equality alone: another one is a transition, which counts from when it was seen. What
    was so when it was seen first counts from then: after a restart all waits begin again. Since when it ran or was
    silent by then is not known.

    uid, stamps: of the row, as it is projected from the object.
    known: the rows of the object that this process has, with what first_seen() returned for them.
    now: in seconds of the clock that the times are of.
    """
    before = [each for each in known if each.uid == uid and each.stamps is not None]

    def since(name: str, stamp: int) -> float | None:
        for each in before:
            if getattr(each.stamps, name) == stamp:
                found: float | None = getattr(each, name)
                return found
        return now

    times: dict[str, Any] = {
        name: None if stamp is None else since(name, stamp) for name, stamp in zip(Stamps._fields, stamps, strict=True)
    }
    if not before:
        times["run_since"] = times["silent_since"] = None  # it may have run, or been silent, for long
    started, crashed = times["run_since"], times["crashed_at"]
    if crashed is not None and (started is None or crashed - started >= STABILITY_WINDOW_SECONDS):
        times["failure"] = ""  # the run lasted
    return times
