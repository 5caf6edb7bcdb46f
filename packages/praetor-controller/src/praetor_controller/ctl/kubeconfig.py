"""Which namespace a kubeconfig means: its context's. Everything else of it, the client reads by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DEFAULT_NAMESPACE = "default"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def default_namespace(path: str | None, context: str | None, environ: Mapping[str, str], home: Path) -> str:
    """Return the namespace to use when none is given: the context's, else the pod's, else `default`."""
    given = path or environ.get("KUBECONFIG") or str(home / ".kube" / "config")
    files = [Path(part).expanduser() for part in given.split(os.pathsep) if part]
    found = [file for file in files if file.is_file()]
    if not found and POD_NAMESPACE.is_file():
        return POD_NAMESPACE.read_text(encoding="utf-8").strip()
    return context_namespace([_document(file) for file in found], context)


def context_namespace(documents: Sequence[Mapping[str, Any]], context: str | None) -> str:
    """Return the namespace of *context*, else of the current one, in *documents*: the first that says so wins."""
    wanted = context or next((each["current-context"] for each in documents if each.get("current-context")), None)
    for document in documents:
        for entry in document.get("contexts") or ():
            if entry.get("name") == wanted:
                return (entry.get("context") or {}).get("namespace") or DEFAULT_NAMESPACE
    return DEFAULT_NAMESPACE


def _document(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # the client names what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}
