# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.objects import LabelSelector, LabelSelectorRequirement, SelectorOperator
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.selectors import compile_each, compile_selector


def requirement(key: str, operator: SelectorOperator, *values: str) -> LabelSelector:
    return LabelSelector(match_expressions=(LabelSelectorRequirement(key=key, operator=operator, values=values),))


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        pytest.param(LabelSelector(), {}, True, id="empty-matches-no-labels"),
        pytest.param(LabelSelector(), {"a": "1"}, True, id="empty-matches-everything"),
        pytest.param(LabelSelector(match_labels={"a": "1"}), {"a": "1", "b": "2"}, True, id="labels-are-there"),
        pytest.param(LabelSelector(match_labels={"a": "1"}), {"a": "2"}, False, id="another-value"),
        pytest.param(LabelSelector(match_labels={"a": "1"}), {}, False, id="label-missing"),
        pytest.param(requirement("a", SelectorOperator.IN, "1", "2"), {"a": "2"}, True, id="in"),
        pytest.param(requirement("a", SelectorOperator.IN, "1"), {}, False, id="in-needs-the-label"),
        pytest.param(requirement("a", SelectorOperator.NOT_IN, "1"), {"a": "1"}, False, id="not-in"),
        pytest.param(requirement("a", SelectorOperator.NOT_IN, "1"), {}, True, id="not-in-without-the-label"),
        pytest.param(requirement("a", SelectorOperator.EXISTS), {"a": ""}, True, id="exists"),
        pytest.param(requirement("a", SelectorOperator.EXISTS), {"b": ""}, False, id="exists-not"),
        pytest.param(requirement("a", SelectorOperator.DOES_NOT_EXIST), {"b": ""}, True, id="does-not-exist"),
        pytest.param(requirement("a", SelectorOperator.DOES_NOT_EXIST), {"a": ""}, False, id="does-exist"),
    ],
)
def test_a_selector_matches_as_in_kubernetes(selector: LabelSelector, labels: dict[str, str], matches: bool) -> None:
    assert compile_selector(selector)(labels) is matches
    assert compile_each(selector)([{}, labels]) == [compile_selector(selector)({}), matches]


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        pytest.param(requirement("a", SelectorOperator.IN), "In needs at least one value", id="in"),
        pytest.param(requirement("a", SelectorOperator.NOT_IN), "NotIn needs at least one value", id="not-in"),
        pytest.param(requirement("a", SelectorOperator.EXISTS, "1"), "must be empty with Exists", id="exists"),
    ],
)
def test_a_bad_requirement_is_refused_by_its_path(selector: LabelSelector, words: str) -> None:
    with pytest.raises(InvalidDeployment, match=r"^spec\.selector\.matchExpressions\[0\]\.values: ") as refused:
        compile_selector(selector)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"a": "x y"}, "'x y' is not a label value"),
        ({"a": "x" * 64}, "is not a label value"),
        ({"a b": ""}, "'a b' is not a label key"),
        ({"x" * 64: ""}, "is not a label key"),
        ({"x" * 254 + "/a": ""}, "is not a label key"),
    ],
)
def test_a_label_that_no_object_can_have_is_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidDeployment, match=r"^spec\.selector\.matchLabels: ") as refused:
        compile_selector(LabelSelector(match_labels=labels))
    assert words in str(refused.value)


label_sets = st.dictionaries(st.sampled_from("abc"), st.sampled_from("123"))


@given(labels=label_sets, key=st.sampled_from("abc"), values=st.sets(st.sampled_from("123"), min_size=1))
def test_in_and_not_in_are_opposites(labels: dict[str, str], key: str, values: set[str]) -> None:
    among = compile_selector(requirement(key, SelectorOperator.IN, *values))
    outside = compile_selector(requirement(key, SelectorOperator.NOT_IN, *values))
    assert among(labels) is not outside(labels)


@given(labels=label_sets, wanted=label_sets)
def test_all_parts_must_hold(labels: dict[str, str], wanted: dict[str, str]) -> None:
    expressions = tuple(
        LabelSelectorRequirement(key=key, operator=SelectorOperator.IN, values=(value,))
        for key, value in wanted.items()
    )
    by_labels = compile_selector(LabelSelector(match_labels=wanted))
    by_expressions = compile_selector(LabelSelector(match_labels=wanted, match_expressions=expressions))
    assert by_labels(labels) is by_expressions(labels)
