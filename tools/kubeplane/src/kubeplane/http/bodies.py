# SPDX-License-Identifier: Apache-2.0
"""What a request brings: its options, and its body as JSON, YAML or protobuf, patch or DeleteOptions."""

from __future__ import annotations

import json
from typing import Any

from kubeplane.errors import ApiError, Cause, Obj, bad_request, invalid, unsupported_media_type
from kubeplane.http import wire_format
from kubeplane.http.messages import Request
from kubeplane.kinds.resources import Resource
from kubeplane.registry import patches
from kubeplane.registry.writing import Options

_PATCHES = (patches.JSON_PATCH, patches.MERGE_PATCH, patches.APPLY_PATCH)


def options(request: Request, verb: str) -> Options:
    query = request.query
    manager = query.get("fieldManager") or request.headers.get("user-agent", "").partition("/")[0] or "unknown"
    dry_run, validation = query.get("dryRun", ""), query.get("fieldValidation") or "Warn"
    kind = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}.get(verb, "DeleteOptions")
    if dry_run not in ("", "All"):
        message = f'Unsupported value: []string{{"{dry_run}"}}: supported values: "All"'
        raise invalid("meta.k8s.io", kind, "", [Cause("FieldValueNotSupported", message, "dryRun")])
    if validation not in ("Strict", "Warn", "Ignore"):
        message = f'Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        raise invalid("meta.k8s.io", kind, "", [Cause("FieldValueNotSupported", message, "fieldValidation")])
    return Options(manager, dry_run=dry_run == "All", validation=validation, force=query.get("force") in ("true", "1"))


def as_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def _yaml(body: bytes) -> Any:
    """Return the value of YAML; JSON, which is YAML too, is read as JSON: much faster."""
    try:
        return json.loads(body)
    except ValueError:
        import yaml

    try:
        return json.loads(json.dumps(yaml.load(body, Loader=_loader(yaml)), default=str))  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise bad_request(f"error decoding YAML: {error}") from error


def _loader(yaml: Any) -> Any:
    """Return a safe loader that leaves times as the strings they are."""
    parent = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in parent.yaml_implicit_resolvers.items()
    }
    return type("Loader", (parent,), {"yaml_implicit_resolvers": resolvers})


def _media(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def any_body(request: Request) -> Any:
    return wire_format.decode(request.body) if _media(request) == wire_format.MEDIA_TYPE else as_json(request.body)


def decoded(request: Request, resource: Resource) -> Any:
    media = _media(request)
    if media == wire_format.MEDIA_TYPE:
        return wire_format.decode(request.body)
    if media in ("application/yaml", "text/yaml"):
        return _yaml(request.body)
    if media not in ("", "application/json", "*/*"):
        accepted = "application/json, application/yaml"
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {accepted}"
        )
    try:
        return as_json(request.body)
    except ApiError as error:
        message = f"the object provided is unrecognized (must be of type {resource.kind}): {error.message}"
        raise bad_request(message) from error


def patch(request: Request, resource: Resource, options: Options) -> tuple[str, Any]:
    media = _media(request)
    accepted = _PATCHES if resource.custom else (*_PATCHES, patches.STRATEGIC_PATCH)
    if media not in accepted:
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
        )
    force_given = "force" in request.query
    if media != patches.APPLY_PATCH:
        if force_given:
            raise _patch_options("FieldValueForbidden", "Forbidden: may not be specified for non-apply patch", "force")
        return media, as_json(request.body)
    if not request.query.get("fieldManager"):
        raise _patch_options("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
    return media, _yaml(request.body)


def _patch_options(reason: str, message: str, field: str) -> ApiError:
    return invalid("meta.k8s.io", "PatchOptions", "", [Cause(reason, message, field)])


def delete_options(request: Request, options: Options) -> Obj:
    """Return the DeleteOptions of the body, which wins, and of the query."""
    query = request.query
    asked: Obj = {key: query[key] for key in ("propagationPolicy",) if query.get(key)}
    if query.get("orphanDependents"):
        asked["orphanDependents"] = query["orphanDependents"] == "true"
    given = any_body(request) if request.body.strip() else {}
    if not isinstance(given, dict):
        raise bad_request("the body must be DeleteOptions")
    asked |= given
    options.dry_run = options.dry_run or asked.get("dryRun") == ["All"]
    return asked
