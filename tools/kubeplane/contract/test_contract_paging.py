# SPDX-License-Identifier: Apache-2.0
"""Lists in pages are one consistent view; a view that is too old is gone."""

from __future__ import annotations

from typing import Any

import pytest

from contract.cluster import Cluster
from contract.widgets import Collection, Eventually, brief, widget


@pytest.fixture
def five(widgets: Collection) -> Collection:
    """Five widgets."""
    for name in "abcde":
        widgets.made(widget(name, metadata={"labels": {"odd": str(name in "ace").lower()}}))
    return widgets


def page(collection: Collection, **query: Any) -> tuple[list[str], dict[str, Any]]:
    answer = collection.listing(**query)
    assert answer.status == 200, answer
    return [item["metadata"]["name"] for item in answer.body["items"]], answer.body["metadata"]


def test_pages_make_the_whole_list(five: Collection) -> None:
    first, metadata = page(five, limit=2)
    assert (first, metadata["remainingItemCount"]) == (["a", "b"], 3)
    second, metadata = page(five, limit=2, **{"continue": metadata["continue"]})
    assert (second, metadata["remainingItemCount"]) == (["c", "d"], 1)
    third, metadata = page(five, limit=2, **{"continue": metadata["continue"]})
    assert third == ["e"]
    assert not metadata.get("continue")
    assert "remainingItemCount" not in metadata


def test_all_pages_show_the_list_as_the_first_one_found_it(five: Collection) -> None:
    _, first = page(five, limit=2)
    five.made(widget("bb"))
    five.delete("e")
    rest, second = page(five, limit=10, **{"continue": first["continue"]})
    assert rest == ["c", "d", "e"]
    assert second["resourceVersion"] == first["resourceVersion"]


def test_a_page_that_holds_all_has_no_continuation(five: Collection) -> None:
    names, metadata = page(five, limit=5)
    assert names == list("abcde")
    assert not metadata.get("continue")


def test_pages_of_a_selection(five: Collection) -> None:
    names, metadata = page(five, limit=2, labelSelector="odd=true")
    assert names == ["a", "c"]
    assert "remainingItemCount" not in metadata  # it cannot be known without looking at all
    names, _ = page(five, limit=2, labelSelector="odd=true", **{"continue": metadata["continue"]})
    assert names == ["e"]


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"limit": "x"}, id="limit-is-no-number"),
        pytest.param({"limit": 2, "continue": "nonsense"}, id="continuation-is-nonsense"),
    ],
)
def test_a_page_that_cannot_be_meant(five: Collection, query: dict[str, Any]) -> None:
    answer = five.listing(**query)
    assert (answer.status, answer.reason) == (400, "BadRequest")


def test_a_continuation_brings_its_own_version(five: Collection) -> None:
    _, metadata = page(five, limit=2)
    answer = five.listing(limit=2, resourceVersion=metadata["resourceVersion"], **{"continue": metadata["continue"]})
    # an invalid combination of options since 1.27
    assert answer.status in {400, 422}


def test_a_list_can_be_requested_at_an_exact_version(five: Collection) -> None:
    _, metadata = page(five)
    five.delete("a")
    names, then = page(five, resourceVersion=metadata["resourceVersion"], resourceVersionMatch="Exact")
    assert names == list("abcde")
    assert then["resourceVersion"] == metadata["resourceVersion"]


def test_a_list_not_older_than_a_version_is_at_least_that_new(five: Collection) -> None:
    version = five.made(widget("f"))["metadata"]["resourceVersion"]
    names, metadata = page(five, resourceVersion=version, resourceVersionMatch="NotOlderThan")
    assert "f" in names
    assert int(metadata["resourceVersion"]) >= int(version)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"resourceVersionMatch": "Exact"}, id="match-without-version"),
        pytest.param({"resourceVersionMatch": "Nearly", "resourceVersion": "1"}, id="unknown-match"),
        pytest.param({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, id="exactly-any"),
    ],
)
def test_a_version_match_that_cannot_be_meant(five: Collection, query: dict[str, Any]) -> None:
    answer = five.listing(**query)
    assert (answer.status, answer.reason) == (422, "Invalid")
    assert [field for field, _ in brief(answer)] == ["resourceVersionMatch"]


def test_a_version_of_the_future_times_out(five: Collection) -> None:
    answer = five.listing(resourceVersion="999999999")
    assert (answer.status, answer.reason) == (504, "Timeout")
    assert answer.message.startswith("Timeout: Too large resource version: 999999999, current: ")
    assert [cause["reason"] for cause in answer.causes] == ["ResourceVersionTooLarge"]


@pytest.mark.needs("compact")
def test_what_was_compacted_is_gone(five: Collection, cluster: Cluster, eventually: Eventually) -> None:
    _, metadata = page(five, limit=2)
    five.delete("e")
    cluster.compact()
    then = {"resourceVersion": metadata["resourceVersion"], "resourceVersionMatch": "Exact"}
    eventually(lambda: five.listing(**then).status == 410)  # since 1.34 an apiserver keeps old lists for some seconds
    answers = five.listing(**then), five.listing(limit=2, **{"continue": metadata["continue"]})
    assert [(answer.status, answer.reason) for answer in answers] == [(410, "Expired")] * 2
    # the answer holds a way on for those whom a torn view serves
    torn = answers[1].body["metadata"]["continue"]
    names, _ = page(five, limit=10, **{"continue": torn})
    assert names == ["c", "d"]
