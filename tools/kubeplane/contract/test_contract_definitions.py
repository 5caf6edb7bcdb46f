# SPDX-License-Identifier: Apache-2.0
"""CustomResourceDefinitions: how they are judged, established, changed and taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contract.rawapi import RawApi
from contract.widgets import GROUP, INTEGER, VERSION, Collection, Eventually, definition

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Body = dict[str, Any]


def odd(schema: Body | None = None, **version: Any) -> Body:
    return definition("Odd", schema or {"type": "object"}, plural="odds", **version)


def with_spec(**properties: Body) -> Body:
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}


@pytest.fixture
def odds(api: RawApi, eventually: Eventually) -> Iterator[Collection]:
    """All definitions; the one of this file is removed after each test."""
    definitions = Collection(api, DEFINITIONS)
    yield definitions
    definitions.delete(f"odds.{GROUP}")
    eventually(lambda: definitions.get(f"odds.{GROUP}").status == 404)


def conditions(made: Body) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in made["status"].get("conditions") or ()}


def test_a_definition_is_established(odds: Collection, api: RawApi, eventually: Eventually) -> None:
    made = odds.made(odd())
    assert made["spec"]["conversion"] == {"strategy": "None"}
    eventually(lambda: api.get(f"/apis/{VERSION}/odds").status == 200)
    found = odds.read(f"odds.{GROUP}")
    assert conditions(found)["Established"] == ("True", "InitialNamesAccepted")
    assert conditions(found)["NamesAccepted"] == ("True", "NoConflicts")
    assert found["status"]["storedVersions"] == ["v1"]
    assert found["status"]["acceptedNames"]["kind"] == "Odd"


def drop(path: str) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        *parents, last = path.split(".")
        found: Any = body
        for key in parents:
            found = found[int(key) if key.isdigit() else key]
        del found[last]

    return change


def rename(body: Body) -> None:
    body["metadata"]["name"] = f"other.{GROUP}"


@pytest.mark.parametrize(
    ("body", "change", "field"),
    [
        pytest.param(odd(), rename, "metadata.name", id="name-is-not-plural-and-group"),
        pytest.param(odd(), drop("spec.versions.0.schema"), "spec.versions[0].schema.openAPIV3Schema", id="no-schema"),
        pytest.param(odd({"properties": {}}), None, "openAPIV3Schema.type", id="root-without-type"),
        pytest.param(odd(with_spec(x={})), None, "openAPIV3Schema.properties[spec].properties[x].type", id="untyped"),
        pytest.param(
            odd(with_spec(x={"type": "integer", "default": "text"})),
            None,
            "openAPIV3Schema.properties[spec].properties[x].default",
            id="default-of-another-type",
        ),
        pytest.param(odd(storage=False), None, "spec.versions", id="nothing-is-stored"),
    ],
)
def test_a_definition_is_validated(
    odds: Collection, body: Body, change: Callable[[Body], None] | None, field: str
) -> None:
    if change is not None:
        change(body)
    answer = odds.create(body)
    assert (answer.status, answer.reason) == (422, "Invalid")
    # with a single version, before 1.22 the schema's path was that in the object
    assert any(cause["field"].endswith(field) for cause in answer.causes), answer.causes


def test_a_definition_that_claims_anothers_kind_is_not_established(
    odds: Collection, widgets: Collection, eventually: Eventually
) -> None:
    body = odd()
    body["spec"]["names"]["kind"] = "Widget"
    odds.made(body)
    eventually(lambda: "NamesAccepted" in conditions(odds.read(f"odds.{GROUP}")))
    found = conditions(odds.read(f"odds.{GROUP}"))
    assert found["NamesAccepted"] == ("False", "KindConflict")
    assert found["Established"] == ("False", "NotAccepted")


def test_a_changed_schema_takes_effect(odds: Collection, api: RawApi, namespace: str, eventually: Eventually) -> None:
    odds.made(odd(with_spec(x=INTEGER)))
    eventually(lambda: api.get(f"/apis/{VERSION}/odds").status == 200)
    collection = Collection(api, f"/apis/{VERSION}/namespaces/{namespace}/odds")
    body = {"apiVersion": VERSION, "kind": "Odd", "metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}}
    assert collection.made(body)["spec"] == {"x": 1}
    changed = odd(with_spec(x=INTEGER, z={"type": "integer", "default": 5}))
    answer = odds.apply(f"odds.{GROUP}", changed, force="true")
    assert (answer.status, answer.body["metadata"]["generation"]) == (200, 2)
    # a default shows in what was stored before it came
    eventually(lambda: collection.get("a").status == 200 and collection.read("a")["spec"] == {"x": 1, "z": 5})


def test_names_and_scope_of_a_definition_stay(odds: Collection, eventually: Eventually) -> None:
    odds.made(odd())
    eventually(lambda: conditions(odds.read(f"odds.{GROUP}")).get("Established", ("",))[0] == "True")
    answer = odds.patch(f"odds.{GROUP}", {"spec": {"scope": "Cluster"}})
    assert (answer.status, answer.causes[0]["field"]) == (422, "spec.scope")


def test_with_a_definition_go_its_objects(
    odds: Collection, api: RawApi, namespace: str, eventually: Eventually
) -> None:
    path = f"/apis/{VERSION}/namespaces/{namespace}/odds"
    body = {"apiVersion": VERSION, "kind": "Odd", "metadata": {"name": "a"}}
    for _ in range(2):
        odds.made(odd())
        eventually(lambda: api.get(path).status == 200)
        assert api.get(path).body["items"] == []
        eventually(lambda: api.post(path, body).status in {201, 409})  # a new definition may answer late
        odds.delete(f"odds.{GROUP}")
        eventually(lambda: odds.get(f"odds.{GROUP}").status == 404)
        eventually(lambda: api.get(path).status == 404)
