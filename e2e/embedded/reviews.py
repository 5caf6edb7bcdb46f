"""Reviews: questions about access and identity that are answered at once and not stored. Everything is allowed."""

from __future__ import annotations

import json
from typing import Any

from e2e.embedded.authentication import Authenticator, User
from e2e.embedded.errors import ApiError, Obj, bad_request
from e2e.embedded.routes import Route


def review(at: Route, body: bytes, user: User, authenticator: Authenticator) -> Obj | None:
    """The answered review, or None when *at* is no review."""
    if (at.group, at.version) not in (("authorization.k8s.io", "v1"), ("authentication.k8s.io", "v1")):
        return None
    try:
        asked: Any = json.loads(body)
    except ValueError as error:
        raise bad_request(f"the review cannot be read: {error}") from error
    status = _status(at.plural, asked.get("spec") or {}, user, authenticator)
    return None if status is None else {**asked, "status": status}


def _status(plural: str, spec: Obj, user: User, authenticator: Authenticator) -> Obj | None:
    match plural:
        case "selfsubjectaccessreviews":
            return {"allowed": True, "reason": "everything is allowed here"}
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


def _token_status(token: str, authenticator: Authenticator) -> Obj:
    try:
        user = authenticator.user("", {"authorization": f"Bearer {token}"})
    except ApiError:
        return {"authenticated": False}
    return {"authenticated": True, "user": _info(user)}


def _info(user: User) -> Obj:
    return {"username": user.name, "groups": list(user.groups)}
