# SPDX-License-Identifier: Apache-2.0
"""Reading requests: the fast path of heartbeats, and the wait that a client prefers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_api.protocol import read_report
from praetor_gateway.http.requests import preferred_wait
from praetor_gateway.reports.heartbeats import read_heartbeat

plain = {"agentVersion": "1", "timestamp": "t", "heartbeat": True, "bootID": "b", "seq": 4, "observations": []}
words = st.sampled_from(["", "x", "\x1b", "y" * 64, "z" * 65])


heartbeats = st.fixed_dictionaries(
    {},
    optional={
        "agentVersion": words | st.none() | st.just(3),
        "timestamp": words | st.none(),
        "heartbeat": st.booleans() | st.none() | st.just(1),
        "bootID": words,
        "seq": st.integers(-1, 2**63) | st.booleans() | st.just(1.5),
        "observations": st.just([]) | st.just([{"name": "p"}]) | st.just({}) | st.none(),
        "facts": st.just({"os": "x"}),
    },
)


def test_a_plain_heartbeat_takes_the_fast_path() -> None:
    assert read_heartbeat(plain) == read_report(plain)[0]


@pytest.mark.parametrize(
    "change", [{"observations": {}}, {"seq": True}, {"seq": -1}, {"heartbeat": 1}, {"bootID": "z" * 65}, {"facts": {}}]
)
def test_a_report_that_is_no_plain_heartbeat_is_left_to_the_full_reader(change: dict[str, object]) -> None:
    assert read_heartbeat({**plain, **change}) is None


@settings(deadline=None)
@given(heartbeats | st.builds(lambda changed: {**plain, **changed}, heartbeats) | st.just([]))
def test_the_fast_path_reads_what_the_full_reader_reads(data: object) -> None:
    fast = read_heartbeat(data)
    if fast is not None:
        assert read_report(data) == (fast, (), ())


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        (None, 0),
        (b"wait=10", 10),
        (b"wait=100", 55),
        (b"respond-async; wait = 7", 7),
        (b'x, WAIT="8", y', 8),
        (b"wait=-1", 0),
        (b"await=9", 0),
        (b"wait=1.5", 0),
        (b"wait=99999999999", 0),
    ],
)
def test_a_wait_is_read_from_prefer(prefer: bytes | None, wait: int) -> None:
    assert preferred_wait({} if prefer is None else {b"prefer": prefer}, 55) == wait
