# SPDX-License-Identifier: Apache-2.0
"""What of a ConfigMap or a Secret can be given to processes."""

from __future__ import annotations

from typing import Any

import pytest

from praetor_api.kube.delivered import DELIVERED
from praetor_api.values import Unusable


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        pytest.param("configmap", {"data": {"a": "é"}}, "é", id="text"),
        pytest.param("configmap", {"binaryData": {"a": "/w=="}}, b"\xff", id="bytes"),
        pytest.param("configmap", {"binaryData": {"a": "eA=="}}, "x", id="text-in-binary-data"),
        pytest.param("configmap", {"binaryData": {"a": "?"}}, Unusable("is not base64"), id="no-base64"),
        pytest.param("configmap", {"data": {"a": 3}}, Unusable("is no text"), id="number"),
        pytest.param("configmap", {"data": {"a": "x" * 131_073}}, Unusable("has more than 131072 bytes"), id="large"),
        pytest.param("secret", {"data": {"a": "w6k="}}, "é", id="secret"),
        pytest.param("secret", {"data": {"a": "/wA="}}, b"\xff\0", id="secret-bytes"),
        pytest.param("secret", {"stringData": {"a": "x"}}, None, id="not-stored"),
    ],
)
def test_objects_hold_text_or_bytes(kind: str, data: dict[str, Any], value: Any) -> None:
    assert DELIVERED[kind](data).get("a") == value
