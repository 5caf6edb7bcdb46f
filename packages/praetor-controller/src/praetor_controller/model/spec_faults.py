# SPDX-License-Identifier: Apache-2.0
"""What cannot work in the spec of a process, though its schema, or an API without CEL, lets it pass. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from praetor_api.files import files_fault
from praetor_api.spec import CONTAINER_ONLY, FIELD_PATH, ONE_CHECK, WRONG_FIELD, ArtifactType, Backend, Reboot
from praetor_api.values import env_fault, exposed_secret

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_FIELD = re.compile(FIELD_PATH)


def process_fault(process: Mapping[str, Any]) -> str:
    """Return the first thing that cannot work in *process*, as `execution.command: why`; empty when all can."""
    execution, artifact = process.get("execution") or {}, process.get("artifact")
    if execution.get("container") is not None and execution.get("backend") != Backend.CONTAINER:
        return f"execution.container: {CONTAINER_ONLY}"
    if (files := execution.get("files")) and (wrong := files_fault(files)) is not None:
        return wrong
    if env := execution.get("env"):
        if wrong := env_fault(env) or _field_fault(env):
            return wrong
        if exposed := exposed_secret(process):
            return exposed.removeprefix("spec.")
    check = process.get("healthCheck")
    if check is not None and sum(check.get(kind) is not None for kind in ("exec", "httpGet", "tcpSocket")) != 1:
        return f"healthCheck: {ONE_CHECK}"
    checked = (check or {}).get("exec") or {}
    for path, command in (
        ("execution.command", execution.get("command")),
        ("healthCheck.exec", checked.get("command")),
    ):
        program = str((command or [""])[0])
        if artifact is None and "/" in program and not program.startswith("/"):
            return f"{path}: {program!r} is relative, and there is no artifact; write an absolute path"
    if artifact is not None and str(execution.get("workingDir") or "").split("/")[0] == "..":
        return "execution.workingDir: leads out of the artifact; write an absolute path, or one inside"
    return ""


def _field_fault(env: Iterable[Mapping[str, Any]]) -> str:
    """Return which variable of *env*, as it is stored, refers to what is no field of a device; empty if none does."""
    for index, variable in enumerate(env):
        ref = (variable.get("valueFrom") or {}).get("deviceFieldRef")
        if ref is not None and not _FIELD.fullmatch(str(ref.get("fieldPath"))):
            return f"execution.env[{index}].valueFrom.deviceFieldRef: {WRONG_FIELD}"
    return ""


def combination_fault(process: Mapping[str, Any]) -> str:
    """Return what process_fault() does, or what the API would say of *process*, which it has not checked as a whole."""
    execution, artifact = process.get("execution") or {}, process.get("artifact") or {}
    kind, url = artifact.get("type"), str(artifact.get("url") or "")
    if artifact and not (kind and url):
        return f"artifact.{'url' if kind else 'type'}: is missing; write it, or an artifact in the template"
    if execution.get("backend") == Backend.CONTAINER:
        if kind != ArtifactType.OCI:
            return "execution.backend: container needs an artifact of type oci, which is its image; write both"
    elif not execution.get("command"):
        return f"execution.command: is needed by the backend {execution.get('backend')}; write the program to run"
    if kind == ArtifactType.OCI and not _DIGEST.search(url):
        return "artifact.url: names no digest; write registry/repository@sha256:…"
    if kind == ArtifactType.HTTP and not url.startswith(("http://", "https://")):
        return "artifact.url: does not start with http:// or https://; write one that does, or another type"
    if kind == ArtifactType.HTTP and not artifact.get("checksumSHA256"):
        return "artifact.checksumSHA256: is missing, and the type http needs it; write the SHA-256 of the file"
    if kind == ArtifactType.FILE and not url.removeprefix("file://").startswith("/"):
        return "artifact.url: is no absolute path; write one, or file:///…"
    if (execution.get("reboot") == Reboot.EXPECTED) != (process.get("postCheck") is not None):
        return "execution.reboot: Expected and the template's postCheck go together; write both or none"
    return process_fault(process)
