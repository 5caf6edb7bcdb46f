# SPDX-License-Identifier: Apache-2.0
"""Counts of the requests that were answered, in the form of kube-apiserver's metrics and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass

from kubeplane.errors import Obj
from kubeplane.routes import Route

_METHODS = {"create": "POST", "update": "PUT"}  # of these, a real one counts the methods


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests are counted by."""

    verb: str
    group: str
    resource: str
    subresource: str
    user: str
    code: int


class Requests:
    """The counts since the start or the last reset."""

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()

    def count(self, route: Route, user: str, code: int) -> None:
        self._counts[Kind(route.verb, route.group, route.plural, route.subresource, user, code)] += 1

    def reset(self) -> None:
        self._counts.clear()

    def as_json(self) -> Obj:
        names = ("verb", "group", "resource", "subresource", "user", "code")
        rows = [dict(zip(names, astuple(kind), strict=True)) | {"count": n} for kind, n in self._counts.items()]
        return {"total": self._counts.total(), "requests": rows}

    def as_metrics(self) -> str:
        """Return the counter that a real one exposes on /metrics, with the user as a label of its own."""
        lines = ["# TYPE apiserver_request_total counter"]
        for kind, count in sorted(self._counts.items(), key=lambda item: astuple(item[0])):
            labels = (
                f'code="{kind.code}",group="{kind.group}",resource="{kind.resource}",'
                f'subresource="{kind.subresource}",user="{kind.user}",'
                f'verb="{_METHODS.get(kind.verb, kind.verb.upper())}"'
            )
            lines.append(f"apiserver_request_total{{{labels}}} {count}")
        return "\n".join(lines) + "\n"
