# SPDX-License-Identifier: Apache-2.0
"""Authorization: RBAC over the roles and bindings that are stored, or everything for every user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from kubeplane.access.authentication import User
from kubeplane.errors import ApiError, Obj, forbidden
from kubeplane.routes import Route
from kubeplane.storage.store import Store

_GROUP = "rbac.authorization.k8s.io"
_MASTERS = "system:masters"


class Authorizer(Protocol):
    """Says whether *user* may do what *at* asks."""

    def allows(self, user: User, at: Route) -> bool: ...


class AlwaysAllow:
    """Everything is allowed."""

    def allows(self, user: User, at: Route) -> bool:
        return True


class Rbac:
    """Roles and bindings as they are stored now. Masters may do everything."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def allows(self, user: User, at: Route) -> bool:
        return _MASTERS in user.groups or any(_covers(rule, at) for rule in self._rules(user, at.namespace))

    def _rules(self, user: User, namespace: str) -> Iterator[Obj]:
        for stored in self._store.items(f"{_GROUP}/clusterrolebindings"):
            if _binds(stored.obj, user, ""):
                yield from self._rules_of(stored.obj["roleRef"], "")
        if namespace:
            for stored in self._store.items(f"{_GROUP}/rolebindings", namespace):
                if _binds(stored.obj, user, namespace):
                    yield from self._rules_of(stored.obj["roleRef"], namespace)

    def _rules_of(self, reference: Obj, namespace: str) -> Iterable[Obj]:
        plural, space = ("roles", namespace) if reference["kind"] == "Role" else ("clusterroles", "")
        role = self._store.get(f"{_GROUP}/{plural}", (space, reference["name"]))
        return (role.obj.get("rules") or ()) if role else ()


def _binds(binding: Obj, user: User, namespace: str) -> bool:
    return any(_is(subject, user, namespace) for subject in binding.get("subjects") or ())


def _is(subject: Obj, user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == user.name)
        case "Group":
            return subject.get("name") in user.groups
        case _:
            account = f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject.get('name')}"
            return account == user.name


def _covers(rule: Obj, at: Route) -> bool:
    resource = f"{at.plural}/{at.subresource}" if at.subresource else at.plural
    wanted = {resource, "*"} | ({f"*/{at.subresource}"} if at.subresource else set())
    names = rule.get("resourceNames") or ()
    return (
        bool({at.verb, "*"} & set(rule.get("verbs") or ()))
        and bool({at.group, "*"} & set(rule.get("apiGroups") or ()))
        and bool(wanted & set(rule.get("resources") or ()))
        and (not names or (at.name or at.selected) in names)
    )


def refusal(user: User, at: Route) -> ApiError:
    """Return the 403 for what is not allowed."""
    resource = f"{at.plural}/{at.subresource}" if at.subresource else at.plural
    where = f'in the namespace "{at.namespace}"' if at.namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {at.verb} resource "{resource}" in API group "{at.group}" {where}'
    return forbidden(at.group, at.plural, at.name, why)
