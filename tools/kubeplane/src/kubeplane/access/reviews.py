# SPDX-License-Identifier: Apache-2.0
"""Reviews: questions about access and identity that are answered at once and not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubeplane.access.authentication import Authenticator, User
from kubeplane.access.authorization import Authorizer
from kubeplane.errors import ApiError, Obj, bad_request
from kubeplane.routes import Route


def review(
    at: Route, body: Callable[[], Any], user: User, authenticator: Authenticator, authorizer: Authorizer
) -> Obj | None:
    """Return the answered review, or None when *at* is no review."""
    if (at.group, at.version) not in (("authorization.k8s.io", "v1"), ("authentication.k8s.io", "v1")):
        return None
    asked = body()
    if not isinstance(asked, dict):
        raise bad_request("the review must be an object")
    spec = asked.get("spec") or {}
    if at.plural == "selfsubjectaccessreviews":
        status: Obj | None = {"allowed": _allowed(spec, user, authorizer)}
    elif at.plural == "subjectaccessreviews":
        subject = User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()))
        status = {"allowed": _allowed(spec, subject, authorizer)}
    else:
        status = _status(at.plural, spec, user, authenticator)
    return None if status is None else {**asked, "status": status}


def _status(plural: str, spec: Obj, user: User, authenticator: Authenticator) -> Obj | None:
    match plural:
        case "selfsubjectrulesreviews":
            resources = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
            paths = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
            return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
        case "selfsubjectreviews":
            return {"userInfo": _info(user)}
        case "tokenreviews":
            return _token_status(str(spec.get("token", "")), authenticator)
        case _:
            return None


def _allowed(spec: Obj, user: User, authorizer: Authorizer) -> bool:
    """Return whether the review is answered with yes; paths that are no resources are open to every known user."""
    asked = spec.get("resourceAttributes")
    if not asked:
        return True
    names = ("verb", "group", "version", "resource", "namespace", "name", "subresource")
    return authorizer.allows(user, Route(*(str(asked.get(name) or "") for name in names)))


def _token_status(token: str, authenticator: Authenticator) -> Obj:
    try:
        user = authenticator.user("", {"authorization": f"Bearer {token}"})
    except ApiError:
        return {"authenticated": False}
    return {"authenticated": True, "user": _info(user)}


def _info(user: User) -> Obj:
    return {"username": user.name, "groups": list(user.groups)}
