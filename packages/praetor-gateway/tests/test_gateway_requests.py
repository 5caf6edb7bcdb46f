# SPDX-License-Identifier: Apache-2.0
"""Reading requests: the fast path of heartbeats, and the wait that a client prefers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_api.protocol import Report, read_report
from praetor_api.wire import parse_json, write
from praetor_gateway.http.requests import preferred_wait
from praetor_gateway.reports.heartbeats import Heartbeat, parse_heartbeat, read_heartbeat

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


def as_read(data: object) -> Heartbeat:
    """Return what the full reader makes of *data*, which has nothing new."""
    report, observations, rejected = read_report(data)
    assert (observations, rejected, report.facts) == ((), (), None)
    return Heartbeat(report.agent_version, report.boot_id, report.seq, report.revision, report.reported)


def test_a_plain_heartbeat_takes_the_fast_path() -> None:
    assert read_heartbeat(plain) == as_read(plain)


counts = st.none() | st.integers(0, 2**63 - 1)
texts = st.text(max_size=64)
reports = st.builds(Report, agent_version=texts, timestamp=texts, boot_id=texts, seq=counts, revision=counts)


@pytest.mark.parametrize("spaces", [(", ", ": "), (",", ":")], ids=["spaced", "dense"])
@pytest.mark.parametrize("more", [{}, {"revision": 0}, {"reported": 7}, {"revision": 2, "reported": 10**18 - 1}])
def test_a_heartbeat_of_our_agent_is_not_decoded(more: dict[str, int], spaces: tuple[str, str]) -> None:
    report = Report(agent_version="0.1.0", timestamp="2026-01-01T00:00:00Z", boot_id="5d1f-7a4e", seq=0, **more)  # type: ignore[arg-type] # numbers alone
    body = json.dumps(write(report), separators=spaces).encode()
    assert parse_heartbeat(body) == as_read(parse_json(body))


@settings(deadline=None)
@given(reports, st.booleans())
def test_what_is_not_decoded_says_what_the_full_reader_reads(report: Report, plainly: bool) -> None:
    body = json.dumps(write(report), ensure_ascii=plainly).encode("utf-8", "surrogatepass")
    fast = parse_heartbeat(body)
    if fast is not None:
        assert fast == as_read(parse_json(body))


@pytest.mark.parametrize(
    "change",
    [
        (b"1.0", b"1\\u0030"),
        (b"1.0", b"1\x1b0"),
        (b"1.0", b"1\xc3\xa4"),
        (b"1.0", b"1" * 65),
        (b"t", b't", "facts": {}, "bootID": "'),
        (b": 4", b": 04"),
        (b": 4", b": -4"),
        (b": 4", b": 4.0"),
        (b": 4", b": 9223372036854775808"),
        (b": 4", b': 4, "facts": {"os": "x"}'),
        (b": 4", b': 4, "reported": 1, "revision": 1'),
        (b": 4", b': 4, "observations": [{}]'),
        (b": 4}", b": 4} "),
        (b": 4}", b": 4}\n"),
        (b": 4}", b": 4"),
    ],
)
def test_a_body_of_another_form_is_decoded(change: tuple[bytes, bytes]) -> None:
    body = b'{"agentVersion": "1.0", "timestamp": "t", "bootID": "b", "seq": 4}'
    assert parse_heartbeat(body) is not None
    assert parse_heartbeat(body.replace(*change)) is None


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
        assert fast == as_read(data)


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
