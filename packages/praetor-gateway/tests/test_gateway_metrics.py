# SPDX-License-Identifier: Apache-2.0
"""What is counted of every answer, without prometheus_client's own values, reads as those would."""

from __future__ import annotations

from http import HTTPStatus

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from praetor_gateway.http.auth import TokenDecision
from praetor_gateway.metrics import GatewayMetrics

ROUTES = st.sampled_from(["desired", "report"])
BOUNDS = st.sampled_from(Histogram.DEFAULT_BUCKETS[:-1])


def lines_of(registry: CollectorRegistry, prefix: str) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return sorted(each for each in lines if prefix in each and "_created" not in each)


@given(
    st.lists(st.tuples(ROUTES, st.floats(0, 60) | BOUNDS, st.booleans(), st.sampled_from([200, HTTPStatus.OK, 401]))),
    st.lists(st.sampled_from(TokenDecision)),
)
def test_answers_are_exposed_as_by_the_library(
    answers: list[tuple[str, float, bool, int]], decisions: list[TokenDecision]
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    metrics = GatewayMetrics(ours)
    seconds = Histogram(
        "praetor_gateway_request_duration_seconds",
        "From a request's head to its answer; polls that were held are left out.",
        ["route"],
        registry=theirs,
    )
    held_seconds = Histogram(
        "praetor_gateway_poll_held_seconds",
        "How long a poll was held before its answer.",
        buckets=(0.1, 1, 5, 10, 15, 20, 25, 30, 40, 56),
        registry=theirs,
    )
    requests = Counter("praetor_gateway_requests", "Answers to devices.", ["route", "code"], registry=theirs)
    auth = Counter("praetor_gateway_auth", "Decisions on tokens.", ["kind"], registry=theirs)
    for decision in TokenDecision:
        auth.labels(decision.value)
    for route, took, held, code in answers:
        metrics.request(route, code)
        metrics.took(route, took, held=held)
        requests.labels(route, str(int(code))).inc()
        (held_seconds if held else seconds.labels(route)).observe(took)
    for each in decisions:
        metrics.auth(each)
        auth.labels(each.value).inc()
    for name in ("praetor_gateway_request", "praetor_gateway_poll", "praetor_gateway_auth"):
        assert lines_of(ours, name) == lines_of(theirs, name)
