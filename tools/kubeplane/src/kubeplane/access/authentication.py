# SPDX-License-Identifier: Apache-2.0
"""Authentication: bearer tokens and their users."""

from __future__ import annotations

import csv
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubeplane.errors import unauthorized


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
_OPEN = ("/healthz", "/livez", "/readyz", "/version")


def read_token_file(path: Path) -> dict[str, User]:
    """Return the users by token of a file in kube-apiserver's format: token,user,uid,"group,group"."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    return {row[0]: User(row[1], tuple(filter(None, row[3].split(","))) if len(row) > 3 else ()) for row in rows}


class Authenticator:
    """Knows the tokens; without any, every client is let in as anonymous."""

    def __init__(self, tokens: Mapping[str, User]) -> None:
        self._tokens = tokens

    def user(self, path: str, headers: Mapping[str, str]) -> User:
        """Return the user of a request; ApiError 401."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            for known, user in self._tokens.items():
                if hmac.compare_digest(known.encode(), token.strip().encode()):
                    return User(user.name, (*user.groups, "system:authenticated"))
        if not self._tokens or path.startswith(_OPEN):
            return ANONYMOUS
        raise unauthorized()
