"""Names that processes have already, asked of the cache one by one: copying them all would cost more than the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.kube.client.resource import Key
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.rows import DeploymentRow, ProcessRow

Find: TypeAlias = Callable[[Key], ProcessRow | None]


class TakenNames:
    """Names of existing processes in the deployment's namespace, whoever they belong to."""

    def __init__(self, find: Find, deployment: DeploymentRow) -> None:
        self._find = find
        self._namespace = deployment.namespace

    def __contains__(self, name: object) -> bool:
        return self._find(Key(self._namespace, str(name))) is not None


class Leftovers:
    """Names of processes of a deleted deployment that had this one's name, and that are not collected yet."""

    def __init__(self, find: Find, deployment: DeploymentRow) -> None:
        self._find = find
        self._namespace = deployment.namespace
        self._uid = deployment.uid
        self._label = (DEPLOYMENT_LABEL, deployment_label(deployment.name))

    def __contains__(self, name: object) -> bool:
        row = self._find(Key(self._namespace, str(name)))
        return row is not None and row.owner not in (None, self._uid) and self._label in row.labels
