# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI v2 document as protocol buffers, which is the only form that kubectl's OpenAPI v2 client reads.

Field numbers are those of gnostic's openapi.v2 messages; what is not needed to explain a kind is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from kubeplane.errors import Obj

_OPERATIONS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def encode_document(document: Obj) -> bytes:
    """Return the document; its paths carry what kubectl looks for in them: kinds and query parameters."""
    definitions = b"".join(_named(1, name, _schema(schema)) for name, schema in document["definitions"].items())
    paths = b"".join(_named(2, path, _path(item)) for path, item in document["paths"].items())
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    return _text(1, document["swagger"]) + _block(2, info) + _block(8, paths) + _block(9, definitions)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _block(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _block(number, text.encode()) if text else b""


def _named(number: int, name: str, value: bytes) -> bytes:
    """Return an entry of a map: its name and its value."""
    return _block(number, _text(1, name) + _block(2, value))


def _any(number: int, value: object) -> bytes:
    """Return a value of any type, which is carried as YAML; JSON is that."""
    return _block(number, _text(2, json.dumps(value)))


def _extensions(number: int, value: Obj) -> bytes:
    """Return the x- fields of *value*."""
    found = ((key, item) for key, item in value.items() if key.startswith("x-"))
    return b"".join(_block(number, _text(1, key) + _any(2, item)) for key, item in found)


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_block(number, value.encode()) for value in values)


def _schema(schema: Obj) -> bytes:
    data = (
        _text(1, schema.get("$ref", "")) + _text(2, schema.get("format", "")) + _text(4, schema.get("description", ""))
    )
    if "default" in schema:
        data += _any(5, schema["default"])
    data += _text(13, schema.get("pattern", "")) + _texts(19, schema.get("required") or ())
    data += b"".join(_any(20, value) for value in schema.get("enum") or ())
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        data += _block(21, _block(1, _schema(extra)))
    if "type" in schema:
        data += _block(22, _text(1, schema["type"]))
    if isinstance(schema.get("items"), dict):
        data += _block(23, _block(1, _schema(schema["items"])))
    data += b"".join(_block(24, _schema(below)) for below in schema.get("allOf") or ())
    properties = b"".join(_named(1, name, _schema(below)) for name, below in (schema.get("properties") or {}).items())
    return data + (_block(25, properties) if properties else b"") + _extensions(31, schema)


def _path(item: Obj) -> bytes:
    return b"".join(_block(_OPERATIONS[method], _operation(operation)) for method, operation in item.items())


def _operation(operation: Obj) -> bytes:
    data = _texts(7, operation.get("consumes") or ())
    for parameter in operation["parameters"]:
        # Parameter.non_body_parameter.query_parameter_sub_schema
        query = _text(2, parameter["in"]) + _text(4, parameter["name"]) + _text(6, parameter["type"])
        data += _block(8, _block(1, _block(2, _block(3, query))))
    return data + _block(9, b"") + _extensions(13, operation)
