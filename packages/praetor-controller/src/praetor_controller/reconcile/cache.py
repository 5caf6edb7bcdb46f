"""The controller's view of the cluster: informers of four kinds, one set for each watched namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Generic, TypeAlias, TypeVar

import structlog

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
)
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.informer import Handler, Informer
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.model.revisions import RevisionRow, project_revision
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow

T = TypeVar("T")

BY_NAMESPACE = "namespace"
BY_OWNER = "owner"
BY_UID = "uid"

_log = structlog.get_logger(__name__)


def owned_by(namespace: str, uid: str) -> str:
    """Return what processes of the owner *uid* are filed under; an owner in another namespace is none."""
    return f"{namespace}/{uid}"


def _owners(row: ProcessRow | RevisionRow) -> tuple[str, ...]:
    return () if row.owner is None else (owned_by(row.namespace, row.owner),)


class Informers(Generic[T]):
    """The informers of one kind, looked up as if they were one."""

    def __init__(self, informers: Sequence[tuple[str | None, Informer[T]]]) -> None:
        self._informers = dict(informers)

    def all(self) -> Iterable[Informer[T]]:
        return self._informers.values()

    def is_current(self, namespace: str) -> bool:
        """Tell whether what is in *namespace* is known as it is now; where none is followed, nothing is missed."""
        informer = self._of(namespace)
        return informer is None or informer.is_current()

    def add_handler(self, handler: Handler[T]) -> None:
        for informer in self.all():
            informer.add_handler(handler)

    def get(self, key: Key) -> T | None:
        informer = self._of(key.namespace)
        return informer.get(key) if informer else None

    def by_index(self, name: str, value: str) -> Iterable[T]:
        for informer in self.all():
            yield from informer.by_index(name, value)

    def all_keys(self) -> list[Key]:
        return [key for informer in self.all() for key, _ in informer.items()]

    def _of(self, namespace: str) -> Informer[T] | None:
        return self._informers.get(namespace, self._informers.get(None))


_AnyInformers: TypeAlias = (
    Informers[DeviceRow] | Informers[ProcessRow] | Informers[DeploymentRow] | Informers[RevisionRow]
)


class Cache:
    """Devices, processes, deployments and their revisions as rows, kept up to date by run()."""

    def __init__(self, api: KubeApi, clock: Clock, namespaces: Sequence[str]) -> None:
        self._behind: set[str] = set()  # namespaces
        watched: Sequence[str | None] = namespaces or (None,)
        self.devices: Informers[DeviceRow] = Informers(
            [
                (name, Informer(api, NETWORK_SWITCHES, project=project_device, clock=clock, namespace=name))
                for name in watched
            ]
        )
        self.processes: Informers[ProcessRow] = Informers(
            [
                (name, Informer(api, DEVICE_PROCESSES, project=project_process, clock=clock, namespace=name))
                for name in watched
            ]
        )
        self.deployments: Informers[DeploymentRow] = Informers(
            [
                (
                    name,
                    Informer(api, DEVICE_PROCESS_DEPLOYMENTS, project=project_deployment, clock=clock, namespace=name),
                )
                for name in watched
            ]
        )
        self.revisions: Informers[RevisionRow] = Informers(
            [
                (
                    name,
                    Informer(
                        api,
                        CONTROLLER_REVISIONS,
                        project=project_revision,
                        clock=clock,
                        namespace=name,
                        label_selector=DEPLOYMENT_LABEL,
                    ),
                )
                for name in watched
            ]
        )
        for devices in self.devices.all():
            devices.add_index(BY_NAMESPACE, lambda row: (row.namespace,))
        for processes in self.processes.all():
            processes.add_index(BY_OWNER, _owners)
        for revisions in self.revisions.all():
            revisions.add_index(BY_OWNER, _owners)
        for deployments in self.deployments.all():
            deployments.add_index(BY_NAMESPACE, lambda row: (row.namespace,))
            deployments.add_index(BY_UID, lambda row: (row.uid,))

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once."""
        return all(event.is_set() for event in self._synced())

    @property
    def kinds_behind(self) -> list[str]:
        """The kinds that cannot be followed at present, in any namespace."""
        return [kind for kind, known in self._kinds().items() if not all(each.is_current() for each in known.all())]

    def is_behind(self, namespace: str) -> bool:
        """Tell whether the view of *namespace* may be as old as an outage, of one kind at least.

        Each kind is followed, and taken up again, by itself: with new deployments beside a fleet of before, a first
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

    async def wait_synced(self) -> None:
        for event in self._synced():
            await event.wait()

    async def run(self) -> None:
        """Follow the cluster for ever; cancel it to stop."""
        async with asyncio.TaskGroup() as group:
            for kind, informers in self._kinds().items():
                for informer in informers.all():
                    group.create_task(informer.run(), name=f"watch {kind}")

    def _kinds(self) -> dict[str, _AnyInformers]:
        return {
            "devices": self.devices,
            "processes": self.processes,
            "deployments": self.deployments,
            "revisions": self.revisions,
        }

    def _synced(self) -> list[asyncio.Event]:
        return [informer.synced for informers in self._kinds().values() for informer in informers.all()]
