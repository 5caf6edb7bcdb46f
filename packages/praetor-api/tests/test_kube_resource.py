# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.client.errors import AlreadyExists, ApiError, Conflict, Gone, ServerError, api_error
from praetor_api.kube.client.framing import LineSplitter, LineTooLong
from praetor_api.kube.client.resource import DEVICE_PROCESSES, LEASES, Key, Resource
from praetor_api.kube.codec import format_micro_time, format_time

NODES = Resource("", "v1", "nodes", "Node", namespaced=False)


def test_a_key_is_written_as_kubectl_users_expect() -> None:
    assert str(Key("lab", "leaf-1")) == "lab/leaf-1"
    assert str(Key("", "node-1")) == "node-1"
    assert Key.of({"metadata": {"name": "node-1"}}) == Key("", "node-1")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (DEVICE_PROCESSES.path(None), "/apis/azure.com/v1alpha1/deviceprocesses"),
        (
            DEVICE_PROCESSES.path("lab", "p", "status"),
            "/apis/azure.com/v1alpha1/namespaces/lab/deviceprocesses/p/status",
        ),
        (LEASES.path("lab", "../x"), "/apis/coordination.k8s.io/v1/namespaces/lab/leases/..%2Fx"),
        (NODES.path("ignored", "n"), "/api/v1/nodes/n"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize(
    ("status", "reason", "cls"),
    [
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Gone", Gone),
        (504, "Timeout", ServerError),
        (415, "UnsupportedMediaType", ApiError),
    ],
)
def test_errors_are_split_by_what_to_do_about_them(status: int, reason: str, cls: type[ApiError]) -> None:
    error = api_error(status, reason)
    assert type(error) is cls
    assert str(error) == f"{status} {reason}"


def test_moments_are_written_in_utc() -> None:
    moment = datetime(2026, 1, 1, 2, 0, 0, 7, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(moment) == "2026-01-01T00:00:00Z"
    assert format_micro_time(moment) == "2026-01-01T00:00:00.000007Z"
    assert format_micro_time(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_are_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found = LineSplitter(64), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == lines
    assert splitter.empty


def test_a_line_beyond_the_limit_is_refused() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcd") == []
    assert not splitter.empty
    with pytest.raises(LineTooLong):
        splitter.feed(b"e")
