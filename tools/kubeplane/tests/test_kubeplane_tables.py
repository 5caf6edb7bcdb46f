# SPDX-License-Identifier: Apache-2.0
"""Printer columns, ages, events under two groups, routes and protobuf bodies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubeplane.errors import ApiError
from kubeplane.http.tables import age, human_duration, lookup
from kubeplane.http.wire_format import decode
from kubeplane.kinds.event_views import to_core_v1, to_events_v1
from kubeplane.routes import Route, route

OBJ: dict[str, Any] = {
    "metadata": {"labels": {"a.b/c": "x"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}], "n": [1, 2]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[*].type", ["Ready", "Old"]),
        (".status.n[0]", [1]),
        (".status.n[-1]", [2]),
        (r".metadata.labels.a\.b/c", ["x"]),
        (".metadata.labels['a.b/c']", ["x"]),
        ("{.status.absent}", []),
        (".status.n.deep", []),
    ],
)
def test_paths_of_columns(path: str, found: list[Any]) -> None:
    assert lookup(path, OBJ) == found


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=5), "5s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=4, seconds=12), "4m12s"),
        (timedelta(minutes=100), "100m"),
        (timedelta(hours=3, minutes=5), "3h5m"),
        (timedelta(hours=30), "30h"),
        (timedelta(days=2, hours=3), "2d3h"),
        (timedelta(days=100), "100d"),
        (timedelta(days=800), "2y70d"),
        (timedelta(seconds=-5), "<invalid>"),
    ],
)
def test_ages_are_short(passed: timedelta, text: str) -> None:
    assert human_duration(passed) == text


def test_what_is_no_time_has_no_age() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age("2025-12-31T23:59:00Z", now) == "60s"
    assert age("soon", now) == "<invalid>"


def test_an_event_is_the_same_in_both_groups() -> None:
    core = {"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 2}
    newer = to_events_v1(core)
    assert (newer["apiVersion"], newer["regarding"], newer["note"]) == ("events.k8s.io/v1", {"name": "a"}, "m")
    assert newer["deprecatedCount"] == 2
    assert to_core_v1(newer) == core


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/namespaces", {}, Route("list", "", "v1", "namespaces")),
        ("GET", "/api/v1/namespaces/a", {}, Route("get", "", "v1", "namespaces", "", "a")),
        ("PUT", "/api/v1/namespaces/a/finalize", {}, Route("update", "", "v1", "namespaces", "", "a", "finalize")),
        ("POST", "/apis/x/v1/namespaces/n/ps", {}, Route("create", "x", "v1", "ps", "n")),
        ("PATCH", "/apis/x/v1/namespaces/n/ps/a/status", {}, Route("patch", "x", "v1", "ps", "n", "a", "status")),
        ("GET", "/apis/x/v1/ps", {"watch": "1"}, Route("watch", "x", "v1", "ps")),
        ("DELETE", "/apis/x/v1/namespaces/n/ps", {}, Route("deletecollection", "x", "v1", "ps", "n")),
        ("GET", "/apis/x/v1", {}, None),
        ("GET", "/healthz", {}, None),
        ("GET", "/apis/x/v1/ps/a/status/more", {}, None),
    ],
)
def test_routes(method: str, path: str, query: dict[str, str], expected: Route | None) -> None:
    assert route(method, path, query) == expected


def block(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def test_a_config_map_in_protobuf_is_read() -> None:
    meta = block(1, b"c") + block(8, b"")
    pair = block(1, b"key") + block(2, b"value")
    raw = block(1, meta) + block(2, pair) + bytes([4 << 3, 1])
    body = b"k8s\x00" + block(1, block(1, b"v1") + block(2, b"ConfigMap")) + block(2, raw)
    assert decode(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"key": "value"},
        "immutable": True,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"k8s\x00",
        b"k8s\x00" + block(1, block(1, b"v1") + block(2, b"Unheard")),
        b"k8s\x00\x0a",
        b"k8s\x00\x0b",
    ],
)
def test_protobuf_that_cannot_be_read_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body)
    assert refused.value.code == 400
