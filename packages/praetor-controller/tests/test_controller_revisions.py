# SPDX-License-Identifier: Apache-2.0
"""Revisions of a template: one each, numbered in the order of their use, and no more kept than asked for."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment
from praetor_api.kube.conditions import set_condition
from praetor_api.kube.objects import ConditionStatus
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import (
    RevisionChanges,
    RevisionRow,
    find_revision,
    project_revision,
    proven_stamps,
    revision_changes,
    surplus_revisions,
    template_of,
)
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.status import rollout_start

TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"execution": {"command": ["a < b && c > d", "ü"]}}}


def raw_deployment(template: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "tel", "namespace": "lab", "uid": "uid-tel"} | metadata,
        "spec": {"selector": {}, "template": template},
    }


def row_of(command: str) -> DeploymentRow:
    return project_deployment(raw_deployment({"spec": {"execution": {"command": [command]}}}))


def stored(row: DeploymentRow, number: int, **fields: Any) -> RevisionRow:
    made = revision_changes(row, [], START).create
    assert made is not None
    return evolve(project_revision({**made, "revision": number}), **fields)


def test_revisions_and_hashes_of_stored_templates_never_change() -> None:
    """Another one would be a rollout of no change to every device."""
    spec = {"execution": {"backend": "process", "command": ["/x"], "env": []}}
    row = project_deployment(raw_deployment({"metadata": {"labels": {}, "annotations": {}}, "spec": spec}))
    assert row.template.revision == "cb9add8b3b"
    assert row.template.spec_hash == "sha256:1f737243c7296e37e625623c4a949c309ecd0b583fa3624125d154531ccca226"


def test_the_first_template_is_revision_1_and_can_be_read_back() -> None:
    row = project_deployment(raw_deployment(TEMPLATE))
    body = revision_changes(row, [], START).create
    assert body is not None
    assert body["metadata"]["name"] == f"tel-{row.template.revision}"
    assert body["metadata"]["labels"] == {"azure.com/deployment": "tel"}
    assert (body["revision"], body["metadata"]["ownerReferences"][0]["uid"]) == (1, "uid-tel")
    assert template_of(body) == TEMPLATE
    read = project_revision(body)
    assert (read.template, read.owner, read.number) == (row.template, "uid-tel", 1)
    assert find_revision([read], row.template.revision) == read
    assert read.started_at == START.timestamp()


@pytest.mark.parametrize("data", [None, {}, {"spec": None}, {"spec": {"template": 1}}])
def test_a_revision_without_a_template_has_none(data: Any) -> None:
    assert template_of({"data": data}) == {}


def test_a_revision_without_a_start_time_began_when_it_was_created() -> None:
    metadata = {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert project_revision({"metadata": metadata}).started_at == START.timestamp()
    assert project_revision({"metadata": {"name": "r"}}).started_at == 0.0


def test_a_new_template_gets_the_next_number() -> None:
    first = stored(row_of("v1"), 4)
    changes = revision_changes(row_of("v2"), [first], START)
    assert changes.create is not None
    assert (changes.create["revision"], changes.rewrite) == (5, None)


def test_a_template_that_is_used_again_gets_the_next_number() -> None:
    first, second = stored(row_of("v1"), 1, resource_version="7"), stored(row_of("v2"), 2)
    changes = revision_changes(row_of("v1"), [first, second], START + timedelta(hours=1))
    assert changes.create is None
    assert changes.rewrite is not None
    row, patch = changes.rewrite
    assert row == first
    assert patch == {
        "metadata": {
            "resourceVersion": "7",
            "annotations": {"azure.com/rollout-started-at": "2026-01-01T01:00:00Z"},
        },
        "revision": 3,
    }


@pytest.mark.parametrize(
    ("first", "later", "proven"),
    [
        pytest.param({"rolled_out": 1}, {}, 200.0, id="another-rollout-began"),
        pytest.param({"rolled_out": 1, "number": 3, "started_at": 300.0}, {}, 200.0, id="offered-again-after-another"),
        pytest.param({"rolled_out": 3, "number": 3, "started_at": 300.0}, {}, math.inf, id="the-newest"),
        pytest.param({"rolled_out": 1, "rolled_out_before": 150.0}, {}, 150.0, id="its-end-is-recorded"),
        pytest.param({"rolled_out": 1, "rolled_out_before": 250.0}, {}, 200.0, id="its-end-is-recorded-late"),
        pytest.param({}, {"rolled_out": 2}, math.inf, id="not-recorded-by-an-earlier-controller"),
    ],
)
def test_offers_of_rollouts_that_came_to_their_end_are_known_by_their_stamps(
    first: dict[str, Any], later: dict[str, Any], proven: float
) -> None:
    rows = [
        evolve(stored(row_of("v1"), 1, started_at=100.0), **first),
        evolve(stored(row_of("v2"), 2, started_at=200.0), **later),
    ]
    v1, v2 = (row.template.revision for row in rows)
    assert proven_stamps(rows, v1) == {v1: proven} | ({v2: math.inf} if later else {})
    assert proven_stamps([], None) == {}


def test_the_newest_template_needs_no_change() -> None:
    changes = revision_changes(row_of("v2"), [stored(row_of("v1"), 1), stored(row_of("v2"), 2)], START)
    assert (changes.create, changes.rewrite) == (None, None)


def test_the_oldest_unused_revisions_are_removed() -> None:
    rows = [stored(row_of(f"v{number}"), number) for number in range(1, 6)]
    used = {rows[0].template.revision, rows[4].template.revision}
    assert [row.number for row in surplus_revisions(rows, used, 2)] == [2]
    assert [row.number for row in surplus_revisions(rows, used, 0)] == [2, 3, 4]
    assert surplus_revisions(rows, used, 3) == ()


def test_a_restart_is_a_revision_with_another_spec() -> None:
    before = row_of("v1").template
    restarted = project_deployment(
        raw_deployment(
            {
                "metadata": {"annotations": {"azure.com/restarted-at": "2026-01-01T00:00:00Z"}},
                "spec": {"execution": {"command": ["v1"]}},
            }
        )
    ).template
    assert restarted.spec == {**before.spec, "restartedAt": "2026-01-01T00:00:00Z"}
    assert restarted.spec_hash != before.spec_hash
    assert restarted.revision != before.revision


@pytest.mark.parametrize(
    ("status", "since", "expected"),
    [
        pytest.param(None, None, START, id="no-condition-yet"),
        pytest.param("Unknown", 600, START + timedelta(hours=1), id="pause-just-ended"),
        pytest.param("True", 600, START + timedelta(seconds=600), id="pause-ended-then"),
        pytest.param("True", -600, START, id="condition-older-than-the-rollout"),
        pytest.param("False", 600, START, id="stuck"),
    ],
)
def test_a_restarted_controller_knows_when_the_rollout_began(
    status: str | None, since: int | None, expected: datetime
) -> None:
    row, now = deployment(), START + timedelta(hours=1)
    if status is not None and since is not None:
        conditions = set_condition(
            (),
            type="Progressing",
            status=ConditionStatus(status),
            reason="x",
            now=START.astimezone(UTC) + timedelta(seconds=since),
        )
        row = evolve(row, status=evolve(row.status, conditions=conditions))
    assert rollout_start(row, stored(row_of("v1"), 1).started_at, now) == expected


@pytest.mark.parametrize(
    "broken",
    [{}, {"data": "text"}, {"data": {"spec": "text"}}, {"data": {"spec": {"template": []}}}, {"data": None}],
    ids=str,
)
def test_a_damaged_revision_holds_no_template(broken: dict[str, Any]) -> None:
    assert template_of(broken) == {}


def test_a_revision_keeps_its_change_cause() -> None:
    why = {"kubernetes.io/change-cause": "the registry moved"}
    row = project_deployment(raw_deployment(TEMPLATE, annotations=why))
    body = revision_changes(row, [], START).create
    assert body is not None
    assert project_revision(body).change_cause == "the registry moved"
    silent = evolve(row, change_cause="")
    newer = stored(row_of("v2"), 2)
    renumbered = revision_changes(silent, [evolve(project_revision(body), number=1), newer], START).rewrite
    assert renumbered is not None
    assert renumbered[1]["metadata"]["annotations"]["kubernetes.io/change-cause"] is None
    again = revision_changes(row, [evolve(project_revision(body), number=1), newer], START).rewrite
    assert again is not None
    assert again[1]["metadata"]["annotations"]["kubernetes.io/change-cause"] == "the registry moved"


def test_a_change_cause_may_be_added_afterwards() -> None:
    revision = stored(row_of("v1"), 1)
    annotated = evolve(row_of("v1"), change_cause="the registry moved")
    changes = revision_changes(annotated, [revision], START).rewrite
    assert changes is not None
    assert "revision" not in changes[1]
    assert changes[1]["metadata"]["annotations"] == {"kubernetes.io/change-cause": "the registry moved"}
    known = evolve(revision, change_cause="the registry moved")
    assert revision_changes(annotated, [known], START) == RevisionChanges()
    assert revision_changes(row_of("v1"), [known], START) == RevisionChanges()  # an absent cause keeps the known one
