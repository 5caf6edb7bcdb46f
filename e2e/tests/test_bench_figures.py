# SPDX-License-Identifier: Apache-2.0
"""The figures of benchmarks: percentiles, ratios, verdicts and tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.bench.measure.figures import (
    Figure,
    as_json,
    at_least,
    at_most,
    markdown,
    median_figure,
    number,
    percentile,
    ratio_figure,
    spread_of,
    table,
)

VALUES = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param(0.5, 50, id="median"),
        pytest.param(0.99, 99, id="p99"),
        pytest.param(1.0, 100, id="worst"),
        pytest.param(0.0, 1, id="best"),
    ],
)
def test_a_percentile_of_one_to_a_hundred_is_its_number(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_an_empty_sample_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(VALUES, st.floats(min_value=0.0, max_value=1.0))
def test_a_percentile_is_the_least_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    within = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert found in values
    assert within >= share * len(values) - 1e-9 * len(values)
    assert below == 0 or below < share * len(values) + 1e-9 * len(values)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        pytest.param(at_least(0.85), 0.85, "met", id="reached"),
        pytest.param(at_least(0.85), 0.84, "missed", id="not-reached"),
        pytest.param(at_most(2), 2, "met", id="kept"),
        pytest.param(at_most(2), 2.1, "missed", id="exceeded"),
        pytest.param(None, 7, "", id="no-goal"),
    ],
)
def test_a_figure_says_whether_it_reaches_its_goal(goal: object, value: float, verdict: str) -> None:
    assert Figure(what="x", value=value, goal=goal).verdict == verdict  # type: ignore[arg-type]


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_the_medians() -> None:
    ours, theirs = (1.0, 10.0, 100.0), (2.0, 10.0, 50.0)  # a machine that got slower and slower
    figure = ratio_figure("x", ours, theirs)
    assert figure.value == 1.0
    assert figure.spread == (0.5, 2.0)
    assert figure.detail == "10.0 against 10.0"


def test_rounds_that_are_not_pairs_make_no_ratio() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratio_figure("x", (1.0,), (1.0, 2.0))


def test_the_spread_of_many_rounds_is_between_their_quartiles() -> None:
    assert spread_of((3.0,)) is None
    assert spread_of((3.0, 1.0, 2.0)) == (1.0, 3.0)
    assert spread_of([float(value) for value in range(9)]) == (2.0, 6.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.8514, "0.851"),
        (0.01234, "0.0123"),
        (9.999, "10.00"),
        (42.05, "42.0"),
        (77_000.4, "77,000"),
        (-3.14159, "-3.14"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


FIGURES = (
    median_figure("requests", [0.5, 0.7, 0.9], unit="x", goal=at_least(0.85)),
    Figure(what="a longer name", value=2_000, detail="of many"),
)


def test_a_table_has_a_line_for_each_figure_and_aligned_columns() -> None:
    head, first, second = table(FIGURES).splitlines()
    assert first.split() == ["requests", "0.700", "x", "0.500", "to", "0.900", "≥", "0.850", "missed"]
    assert second.split() == ["a", "longer", "name", "2,000", "of", "many"]
    assert head.index("value") == first.index("0.700") == second.index("2,000")


def test_markdown_has_the_same_cells() -> None:
    lines = markdown(FIGURES).splitlines()
    assert lines[2] == "| requests | 0.700 x | 0.500 to 0.900 | ≥ 0.850 | missed |  |"
    assert lines[3] == "| a longer name | 2,000 |  |  |  | of many |"


def test_json_has_every_field_that_is_set() -> None:
    first, second = map(as_json, FIGURES)
    assert first == {
        "what": "requests",
        "value": 0.7,
        "unit": "x",
        "detail": "",
        "spread": [0.5, 0.9],
        "goal": "≥ 0.850",
        "verdict": "missed",
    }
    assert second == {"what": "a longer name", "value": 2_000, "unit": "", "detail": "of many"}
