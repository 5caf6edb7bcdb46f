# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the device protocol, made from the classes that read and write its bodies."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, TypeAlias

from praetor_api.constraints import Constraint
from praetor_api.kube.schema import Schema, value_schema
from praetor_api.names import MAX_NAME_LENGTH
from praetor_api.protocol import (
    FEATURES_HEADER,
    INTERVAL_HEADER,
    POLL_HEADER,
    REPORTED_HEADER,
    RESYNC_HEADER,
    TOKEN_HEADER,
    Desired,
    DesiredItem,
    IncompatibleItem,
    Observation,
    Report,
    ReportAck,
    connect_path,
    desired_path,
    report_path,
)
from praetor_api.spec import NAME_PATTERN
from praetor_api.wire import MAX_KEY_LENGTH, WireField, unannotated, wire_fields
from praetor_gateway.__about__ import __version__
from praetor_gateway.http.problems import MEDIA_TYPE, ProblemBody

PROTOCOL_VERSION = "1"
_JSON = "application/json"
_DEVICE = "{device}"
_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR)
_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_OF_BODIES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
_ITEMS: Mapping[tuple[type, str], tuple[type, ...]] = {
    (Report, "observations"): (Observation,),
    (Desired, "items"): (DesiredItem, IncompatibleItem),
}
"""What is in lists that are read item by item, so that one bad item does not affect the others."""
_HIDDEN = {(Desired, "invalid")}
"""Fields that the reader fills in and no body has."""
_ALWAYS = {(Desired, "items")}
"""Fields with a default that every body has all the same: an answer without them is not taken for an empty one."""

Responses: TypeAlias = dict[str, Schema]


@cache
def openapi_json() -> bytes:
    """Return the document as JSON."""
    return json.dumps(openapi_document()).encode()


def openapi_document() -> Schema:
    """Return the document as plain values."""
    schemas = _Schemas()
    token = {"type": "apiKey", "in": "header", "name": TOKEN_HEADER, "description": "The device's token."}
    names = ("If-None-Match", "Prefer", FEATURES_HEADER, POLL_HEADER, REPORTED_HEADER)
    desired = {"parameters": [_header(name) for name in names]}
    answers, acknowledged = _desired_responses(schemas), _acknowledged(schemas)
    connecting = {"requestBody": {"content": {_JSON: {"schema": {"type": "object"}}}}}
    reporting = {"requestBody": {"required": True, "content": {_JSON: {"schema": schemas.ref(Report)}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Praetor device protocol",
            "version": PROTOCOL_VERSION,
            "description": f"As praetor-gateway {__version__} serves it to devices. Unknown fields are ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": {
            desired_path(_DEVICE): _path(
                get={"operationId": "desired", "summary": "Get the desired state", **desired, "responses": answers},
                head={
                    "operationId": "desiredHead",
                    "summary": "Ask whether the desired state changed",
                    **desired,
                    "responses": {status: _without_body(answer) for status, answer in answers.items()},
                },
            ),
            report_path(_DEVICE): _path(
                post={"operationId": "report", "summary": "Report", **reporting, "responses": acknowledged}
            ),
            connect_path(_DEVICE): _path(
                post={"operationId": "connect", "summary": "Say that you are here", **connecting}
                | {"responses": acknowledged}
            ),
        },
        "components": {"securitySchemes": {"token": token}, "schemas": dict(sorted(schemas.found.items()))},
    }


class _Schemas:
    """The schemas of classes, in JSON Schema as OpenAPI 3.1 has it: what praetor_api.wire reads, no less and no more.

    Fields that are not required may be null. A text that the reader cuts has no maximum.
    """

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def ref(self, cls: type) -> Schema:
        """Return a reference to the schema of the dataclass *cls*, which is made if need be."""
        if cls.__name__ not in self.found:
            self.found[cls.__name__] = {}  # it may refer to itself
            self.found[cls.__name__] = self._object(cls)
        return {"$ref": f"#/components/schemas/{cls.__name__}"}

    def _object(self, cls: type) -> Schema:
        fields = [field for field in wire_fields(cls) if (cls, field.name) not in _HIDDEN]
        required = [field.wire for field in fields if _is_required(cls, field)]
        schema: Schema = {"type": "object", "description": inspect.getdoc(cls)}
        schema["properties"] = {field.wire: self._field(cls, field) for field in fields}
        return schema | ({"required": required} if required else {})

    def _field(self, cls: type, field: WireField) -> Schema:
        items = _ITEMS.get((cls, field.name))
        schema = self._value(field.type, field.constraint, items)
        if not _is_required(cls, field):
            schema = _nullable(schema)
        return schema | ({"description": field.constraint.doc} if field.constraint.doc else {})

    def _value(self, hint: Any, constraint: Constraint, items: Sequence[type] | None = None) -> Schema:
        origin = typing.get_origin(hint)
        if origin in (typing.Union, UnionType):
            options = [option for option in typing.get_args(hint) if option is not NoneType]
            if len(options) == 1:
                return self._value(options[0], constraint)
        if origin is tuple:
            inner = self._one_of(items) if items else self._value(*unannotated(typing.get_args(hint)[0]))
            return {"type": "array", "items": inner} | _without_extensions(value_schema(str, constraint, {}), "type")
        if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
            values = self._value(*unannotated(typing.get_args(hint)[1]))
            most = {} if constraint.max_items is None else {"maxProperties": constraint.max_items}
            names = {"propertyNames": {"maxLength": MAX_KEY_LENGTH}}
            return {"type": "object", "additionalProperties": values} | names | most
        if isinstance(hint, type) and is_dataclass(hint):
            return self.ref(hint)
        return _without_extensions(value_schema(hint, constraint, {}), "maxLength" if constraint.truncate else "")

    def _one_of(self, classes: Sequence[type]) -> Schema:
        references = [self.ref(cls) for cls in classes]
        return references[0] if len(references) == 1 else {"anyOf": references}


def _is_required(cls: type, field: WireField) -> bool:
    return field.required or (cls, field.name) in _ALWAYS


def _nullable(schema: Schema) -> Schema:
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | values


def _without_extensions(schema: Schema, name: str) -> Schema:
    """Return *schema* without *name* and what only Kubernetes knows."""
    return {key: value for key, value in schema.items() if key != name and not key.startswith("x-")}


def _path(**operations: Schema) -> Schema:
    schema = {"type": "string", "maxLength": MAX_NAME_LENGTH, "pattern": NAME_PATTERN}
    name = {"name": "device", "in": "path", "required": True, "description": "Name of the device.", "schema": schema}
    return {"parameters": [name], **operations}


def _header(name: str) -> Schema:
    return {"name": name, "in": "header", "schema": {"type": "string"}}


def _desired_responses(schemas: _Schemas) -> Responses:
    headers = {"ETag": {"required": True, "schema": {"type": "string", "pattern": r'^"[0-9a-f]+"$'}}}
    headers["Preference-Applied"] = {"schema": {"type": "string", "pattern": r"^wait=[0-9]+$"}}
    headers[INTERVAL_HEADER] = {"schema": {"type": "integer", "minimum": 1}}
    headers[RESYNC_HEADER] = {"schema": {"const": "1"}}
    found = {"description": "The desired state", "headers": headers, "content": _content(schemas.ref(Desired))}
    known = {"description": "If-None-Match names the current ETag", "headers": headers}
    return {"200": found, "304": known, **_problems(schemas, (*_REFUSALS, *_RETRIED))}


def _acknowledged(schemas: _Schemas) -> Responses:
    found = {"description": "The report is accepted", "content": _content(schemas.ref(ReportAck))}
    return {"200": found, **_problems(schemas, (*_REFUSALS, *_OF_BODIES, *_RETRIED))}


def _problems(schemas: _Schemas, statuses: Sequence[HTTPStatus]) -> Responses:
    content = {MEDIA_TYPE: {"schema": schemas.ref(ProblemBody)}}
    answers = {str(status.value): {"description": status.phrase, "content": content} for status in sorted(statuses)}
    for status in _RETRIED:
        wait = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
        answers[str(status.value)]["headers"] = wait
    return answers


def _content(schema: Schema) -> Schema:
    return {_JSON: {"schema": schema}}


def _without_body(answer: Schema) -> Schema:
    return {key: value for key, value in answer.items() if key != "content"}
