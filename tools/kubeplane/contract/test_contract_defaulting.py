# SPDX-License-Identifier: Apache-2.0
"""Defaults of a schema are filled in when an object is written, and only where a value is missing."""

from __future__ import annotations

from typing import Any

import pytest

from contract.rawapi import JSON_PATCH
from contract.widgets import Collection, widget

DEFAULTS = {"color": "red", "enabled": True, "nested": {"mode": "auto", "retries": 3}, "size": 1}


def test_missing_fields_get_their_defaults(widgets: Collection) -> None:
    assert widgets.made(widget("a"))["spec"] == DEFAULTS


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param({"color": "blue"}, {"color": "blue"}, id="a-value-stays"),
        pytest.param({"enabled": False}, {"enabled": False}, id="false-is-a-value"),
        pytest.param({"nested": {"retries": 0}}, {"nested": {"mode": "auto", "retries": 0}}, id="zero-is-a-value"),
        pytest.param({"nested": {}}, {}, id="inside-an-empty-object"),
        pytest.param({"color": None}, {}, id="null-counts-as-missing"),
        pytest.param({"nested": None}, {}, id="null-object-counts-as-missing"),
        pytest.param({"nested": {"mode": None}}, {}, id="null-inside-counts-as-missing"),
        pytest.param(
            {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2, "protocol": "UDP"}]},
            {"ports": [{"name": "a", "port": 1, "protocol": "TCP"}, {"name": "b", "port": 2, "protocol": "UDP"}]},
            id="inside-lists",
        ),
    ],
)
def test_defaults_fill_what_is_missing(widgets: Collection, given: dict[str, Any], stored: dict[str, Any]) -> None:
    assert widgets.made(widget("a", **given))["spec"] == {**DEFAULTS, **stored}


def test_a_field_that_a_patch_removes_gets_its_default_again(widgets: Collection) -> None:
    widgets.made(widget("a", color="blue"))
    assert widgets.patch("a", {"spec": {"color": None}}).body["spec"]["color"] == "red"
    widgets.patch("a", {"spec": {"color": "green"}})
    removed = [{"op": "remove", "path": "/spec/color"}]
    assert widgets.patch("a", removed, JSON_PATCH).body["spec"]["color"] == "red"


def test_replacing_fills_defaults_too(widgets: Collection) -> None:
    made = widgets.made(widget("a", color="blue"))
    assert widgets.put("a", {**made, "spec": {"size": 1}}).body["spec"] == DEFAULTS


def test_defaults_show_in_a_dry_run(widgets: Collection) -> None:
    assert widgets.create(widget("a"), dryRun="All").body["spec"] == DEFAULTS
