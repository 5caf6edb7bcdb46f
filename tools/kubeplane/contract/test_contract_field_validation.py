# SPDX-License-Identifier: Apache-2.0
"""`fieldValidation`: what becomes of fields that a schema does not know."""

from __future__ import annotations

import pytest

from contract.widgets import Collection, brief, widget

JSON_PATCH = "application/json-patch+json"
BOGUS = widget("a", bogus=1, ports=[{"name": "a", "port": 1, "prot": "UDP"}])
NAMED = ['unknown field "spec.bogus"', 'unknown field "spec.ports[0].prot"']


@pytest.mark.needs("cel")  # which is newer
def test_a_strict_creation_names_every_unknown_field(widgets: Collection) -> None:
    answer = widgets.create(BOGUS, fieldValidation="Strict", dryRun="All")
    assert (answer.status, answer.reason) == (400, "BadRequest")
    message = answer.body["message"]
    assert message.startswith('Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown')
    assert sorted(message.partition("strict decoding error: ")[2].split(", ")) == NAMED
    assert widgets.names() == []


@pytest.mark.needs("cel")
@pytest.mark.parametrize("kind", [(), (JSON_PATCH,)], ids=["merge", "json"])
def test_a_strict_patch_names_every_unknown_field_behind_the_whole_object(
    widgets: Collection, kind: tuple[str, ...]
) -> None:
    widgets.made(widget("a", label="marker"))
    spec = {**BOGUS["spec"], "label": "marker"}
    patch = [{"op": "replace", "path": "/spec", "value": spec}] if kind else {"spec": spec}
    answer = widgets.patch("a", patch, *kind, fieldValidation="Strict")
    assert (answer.status, brief(answer)) == (422, [("patch", "FieldValueInvalid")])
    message = answer.body["message"]
    assert message.startswith(' "" is invalid: patch: Invalid value: "{')
    value, _, named = message.rpartition(": strict decoding error: ")
    assert r"\"marker\"" in value
    assert sorted(named.split(", ")) == NAMED


@pytest.mark.needs("cel")
def test_a_strict_replacement_names_every_unknown_field(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.put("a", {**made, "spec": BOGUS["spec"]}, fieldValidation="Strict")
    assert answer.status == 400
    assert sorted(answer.body["message"].partition("strict decoding error: ")[2].split(", ")) == NAMED


@pytest.mark.parametrize("how", ["Warn", "Ignore"])
def test_otherwise_unknown_fields_are_dropped(widgets: Collection, how: str) -> None:
    assert "bogus" not in widgets.made(BOGUS, fieldValidation=how)["spec"]


def test_an_apiserver_that_does_not_know_the_parameter_drops_them_all_the_same(widgets: Collection) -> None:
    answer = widgets.create(BOGUS, fieldValidation="Strict")
    assert answer.status in {201, 400}
    if answer.status == 201:
        assert "bogus" not in answer.body["spec"]


@pytest.mark.needs("cel")
def test_what_is_known_is_taken_strictly_or_not(widgets: Collection) -> None:
    assert widgets.create(widget("a", label="ab"), fieldValidation="Strict").status == 201
    assert widgets.patch("a", {"spec": {"label": "abc"}}, fieldValidation="Strict").status == 200
