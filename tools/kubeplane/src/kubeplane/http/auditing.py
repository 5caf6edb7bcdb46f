# SPDX-License-Identifier: Apache-2.0
"""A log of the writes to our kinds, in the form of kube-apiserver's audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from kubeplane.http.messages import Request, Response
from kubeplane.routes import Route

_VERBS = ("create", "update", "patch", "delete")
_GROUPS = ("azure.com", "apps")


class Audit:
    """Appends to the file at *path*; without one, nothing is logged."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1) if path else None

    def note(self, at: Route, user: str, request: Request, response: Response) -> None:
        """Log a request that was answered, when it is a write to our kinds."""
        if self._file is None or at.verb not in _VERBS or at.group not in _GROUPS:
            return
        event = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "RequestResponse",
            "stage": "ResponseComplete",
            "requestURI": request.path,
            "verb": at.verb,
            "user": {"username": user},
            "userAgent": request.headers.get("user-agent", ""),
            "objectRef": {
                "resource": at.plural,
                "namespace": at.namespace,
                "name": at.name,
                "apiGroup": at.group,
                "apiVersion": at.version,
                "subresource": at.subresource,
            },
            "responseStatus": {"code": response.status},
            "responseObject": json.loads(response.body) if response.content_type == "application/json" else {},
        }
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")
