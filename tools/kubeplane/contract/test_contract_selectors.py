# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors, in lists and, for custom resources, over the fields that a definition opens."""

from __future__ import annotations

from typing import Any

import pytest

from contract.widgets import INTEGER, STRING, VERSION, Collection, Define, definition, widget

LABELS = {"a": {"app": "x", "tier": "f"}, "b": {"app": "y"}, "c": {"app": "z", "tier": "b", "rack": "12"}, "d": {}}


@pytest.fixture
def labelled(widgets: Collection) -> Collection:
    """Four widgets with labels."""
    for name, labels in LABELS.items():
        widgets.made(widget(name, metadata={"labels": labels}))
    return widgets


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", "abcd"),
        ("app=x", "a"),
        ("app==x", "a"),
        ("app!=x", "bcd"),
        ("app in (x,y)", "ab"),
        ("app in ( x , y )", "ab"),
        ("app notin (x,y)", "cd"),
        ("app", "abc"),
        ("!app", "d"),
        ("tier,app!=z", "a"),
        ("app=x,tier=b", ""),
        ("app in (x,z),tier", "ac"),
        ("app=", ""),
        ("app>5", ""),
        ("rack>11", "c"),
        ("rack<12", ""),
    ],
)
def test_a_label_selector(labelled: Collection, selector: str, names: str) -> None:
    assert labelled.names(labelSelector=selector) == list(names)


@pytest.mark.parametrize("selector", ["app in (x", "app=bad value!", "=x", "bad key!=x", "app in x", "app,,tier"])
def test_a_label_selector_that_cannot_be_read(labelled: Collection, selector: str) -> None:
    answer = labelled.listing(labelSelector=selector)
    assert (answer.status, answer.reason) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=a", "a"),
        ("metadata.name==a", "a"),
        ("metadata.name!=a", "bcd"),
        ("metadata.namespace={namespace}", "abcd"),
        ("metadata.name=a,metadata.namespace=elsewhere", ""),
        ("metadata.name=nope", ""),
    ],
)
def test_a_field_selector(labelled: Collection, namespace: str, selector: str, names: str) -> None:
    assert labelled.names(fieldSelector=selector.format(namespace=namespace)) == list(names)


@pytest.mark.parametrize("selector", ["spec.size=1", "metadata.uid=1", "metadata.name", "metadata.name in (a)"])
def test_a_field_selector_that_is_not_supported(labelled: Collection, selector: str) -> None:
    answer = labelled.listing(fieldSelector=selector)
    assert (answer.status, answer.reason) == (400, "BadRequest")


def test_an_unsupported_field_is_named(labelled: Collection) -> None:
    assert labelled.listing(fieldSelector="spec.size=1").message == "field label not supported: spec.size"


def test_both_selectors_must_match(labelled: Collection) -> None:
    assert labelled.names(labelSelector="app in (x,y)", fieldSelector="metadata.name!=a") == ["b"]


@pytest.fixture(scope="session")
def parcels_path(define: Define) -> str:
    """Where Parcels are served, whose definition opens two fields to selectors."""
    spec = {"type": "object", "properties": {"target": STRING, "weight": INTEGER}}
    schema = {"type": "object", "properties": {"spec": spec}}
    fields = [{"jsonPath": ".spec.target"}, {"jsonPath": ".spec.weight"}]
    return define(definition("Parcel", schema, plural="parcels", selectableFields=fields))


@pytest.fixture
def parcels(parcels_path: str, widgets: Collection, namespace: str) -> Collection:
    """Three parcels; the last has no target."""
    found = Collection(widgets.api, parcels_path.replace("/parcels", f"/namespaces/{namespace}/parcels"))
    specs: dict[str, Any] = {"a": {"target": "x", "weight": 1}, "b": {"target": "y", "weight": 2}, "c": {"weight": 1}}
    for name, spec in specs.items():
        found.made({"apiVersion": VERSION, "kind": "Parcel", "metadata": {"name": name}, "spec": spec})
    return found


@pytest.mark.needs("selectable_fields")
@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("spec.target=x", "a"),
        ("spec.target!=x", "bc"),
        ("spec.weight=1", "ac"),
        ("spec.target=", "c"),
        ("spec.target=x,metadata.name=a", "a"),
    ],
)
def test_a_selectable_field(parcels: Collection, selector: str, names: str) -> None:
    assert parcels.names(fieldSelector=selector) == list(names)


@pytest.mark.needs("selectable_fields")
def test_a_watch_follows_a_selectable_field(parcels: Collection) -> None:
    version = parcels.listing().body["metadata"]["resourceVersion"]
    parcels.patch("a", {"spec": {"target": "z"}})
    parcels.patch("b", {"spec": {"target": "x"}})
    query = {"resourceVersion": version, "fieldSelector": "spec.target=x", "timeout_s": 1}
    with parcels.api.watch(parcels.path, **query) as frames:
        assert [(frame.type, frame.object["metadata"]["name"]) for frame in frames] == [
            ("DELETED", "a"),
            ("ADDED", "b"),
        ]
