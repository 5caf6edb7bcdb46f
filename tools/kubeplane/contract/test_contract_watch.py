# SPDX-License-Identifier: Apache-2.0
"""A watch replays what happened since a version, in order, and says when it cannot."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from contract.rawapi import WatchFrame
from contract.widgets import Collection, InNamespace, widget


def seen(collection: Collection, *, timeout_s: int = 1, **query: Any) -> list[WatchFrame]:
    """Return what a watch brings until the server ends it."""
    with collection.api.watch(collection.path, timeout_s=timeout_s, **query) as frames:
        return list(frames)


def names(frames: list[WatchFrame]) -> list[tuple[str, str]]:
    return [(frame.type, frame.object["metadata"]["name"]) for frame in frames]


def version_of(collection: Collection) -> str:
    return str(collection.listing().body["metadata"]["resourceVersion"])


def test_a_watch_replays_what_happened_since_a_version(widgets: Collection) -> None:
    widgets.made(widget("a"))
    widgets.made(widget("b"))
    version = version_of(widgets)
    widgets.patch("a", {"spec": {"size": 2}})
    widgets.patch("a", {"status": {"ready": 1}}, subresource="status")
    widgets.delete("b")
    widgets.made(widget("c"))
    frames = seen(widgets, resourceVersion=version)
    assert names(frames) == [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "c")]
    assert frames[0].object["spec"]["size"] == 2
    assert "status" not in frames[0].object
    assert frames[1].object["status"] == {"ready": 1}
    versions = [int(frame.object["metadata"]["resourceVersion"]) for frame in frames]
    assert versions == sorted(set(versions))
    assert versions[0] > int(version)


def test_objects_in_a_watch_are_whole(widgets: Collection) -> None:
    version = version_of(widgets)
    made = widgets.made(widget("a"))
    (frame,) = seen(widgets, resourceVersion=version)
    assert frame == ("ADDED", made)


@pytest.mark.parametrize("version", [None, "0"])
def test_a_watch_from_anywhere_begins_with_what_is_there(widgets: Collection, version: str | None) -> None:
    widgets.made(widget("a"))
    widgets.made(widget("b"))
    assert sorted(names(seen(widgets, resourceVersion=version))) == [("ADDED", "a"), ("ADDED", "b")]


def test_a_watch_says_when_all_that_is_there_was_sent_or_that_it_cannot(widgets: Collection) -> None:
    widgets.made(widget("a"))
    widgets.made(widget("b"))
    asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    answer = widgets.listing(watch="true", timeoutSeconds="1", **asked) if not _marks(widgets, asked) else None
    assert answer is None or (answer.status, answer.reason) == (422, "Invalid")


def _marks(widgets: Collection, asked: dict[str, str]) -> bool:
    """Return whether a watch was accepted, whose first bookmark follows all that is there."""
    try:
        frames = seen(widgets, timeout_s=3, **asked)
    except AssertionError:  # refused
        return False
    *listed, mark = frames[:3]
    assert sorted(names(listed)) == [("ADDED", "a"), ("ADDED", "b")]
    assert (mark.type, mark.object["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})
    return True


def test_events_arrive_while_the_watch_is_open(widgets: Collection) -> None:
    version = version_of(widgets)
    with widgets.api.watch(widgets.path, timeout_s=20, resourceVersion=version) as frames:
        writer = threading.Timer(0.1, lambda: widgets.made(widget("late")))
        writer.start()
        assert next(frames).object["metadata"]["name"] == "late"
        writer.join()


def test_the_server_ends_a_watch_after_its_timeout(widgets: Collection) -> None:
    assert seen(widgets, timeout_s=1, resourceVersion=version_of(widgets)) == []


def test_a_change_without_effect_is_not_an_event(widgets: Collection) -> None:
    widgets.made(widget("a"))
    version = version_of(widgets)
    widgets.patch("a", {"spec": {"size": 1}})
    assert seen(widgets, resourceVersion=version) == []


def test_a_deletion_carries_the_last_state_and_a_version_of_its_own(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    version = version_of(widgets)
    widgets.delete("a")
    (frame,) = seen(widgets, resourceVersion=version)
    assert (frame.type, frame.object["spec"]) == ("DELETED", made["spec"])
    assert int(frame.object["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


def test_objects_that_leave_or_enter_a_selection_are_deleted_or_added(widgets: Collection) -> None:
    for name, app in (("a", "x"), ("b", "y"), ("c", "x")):
        widgets.made(widget(name, metadata={"labels": {"app": app}}))
    version = version_of(widgets)
    for name, app in (("a", "y"), ("b", "x"), ("b", "z")):
        widgets.patch(name, {"metadata": {"labels": {"app": app}}})
    widgets.patch("c", {"spec": {"size": 2}})
    widgets.delete("a")
    frames = seen(widgets, resourceVersion=version, labelSelector="app=x")
    assert names(frames) == [("DELETED", "a"), ("ADDED", "b"), ("DELETED", "b"), ("MODIFIED", "c")]


def test_one_object_can_be_watched(widgets: Collection) -> None:
    version = version_of(widgets)
    widgets.made(widget("a"))
    widgets.made(widget("b"))
    assert names(seen(widgets, resourceVersion=version, fieldSelector="metadata.name=b")) == [("ADDED", "b")]


def test_a_watch_of_all_namespaces_sees_each(widgets: Collection, namespace: str) -> None:
    everywhere = Collection(widgets.api, widgets.path.replace(f"/namespaces/{namespace}", ""))
    version = version_of(everywhere)
    widgets.made(widget("a"))
    (frame,) = seen(everywhere, resourceVersion=version)
    assert frame.object["metadata"]["namespace"] == namespace


def test_bookmarks_only_bring_a_version(widgets: Collection) -> None:
    widgets.made(widget("a"))
    frames = seen(widgets, timeout_s=3, resourceVersion=version_of(widgets), allowWatchBookmarks="true")
    # there is no promise of any before the end, but what comes is a bookmark and nothing else
    for frame in frames:
        assert frame.type == "BOOKMARK"
        assert (frame.object["kind"], frame.object["metadata"]["resourceVersion"].isdigit()) == ("Widget", True)


def test_bookmarks_are_sent_on_request_only(widgets: Collection) -> None:
    assert seen(widgets, timeout_s=2, resourceVersion=version_of(widgets)) == []


def test_a_compacted_version_is_an_error_event(widgets: Collection) -> None:
    (frame,) = seen(widgets, resourceVersion="1")
    assert (frame.type, frame.object["kind"]) == ("ERROR", "Status")
    assert (frame.object["code"], frame.object["reason"]) == (410, "Expired")
    assert frame.object["message"].startswith("too old resource version: 1 (")


def test_a_version_of_the_future_brings_nothing(widgets: Collection) -> None:
    version = str(int(version_of(widgets)) + 1_000_000)
    assert [frame.type for frame in seen(widgets, resourceVersion=version)] in ([], ["ERROR"])


def test_a_version_that_is_no_number_is_refused(widgets: Collection) -> None:
    answer = widgets.listing(watch="true", timeoutSeconds=1, resourceVersion="nonsense")
    # the server's own error before 1.22
    assert answer.status in {400, 500}


def test_finalizers_show_as_a_change_before_the_deletion(widgets: Collection) -> None:
    widgets.made(widget("a", metadata={"finalizers": ["example.com/hold"]}))
    version = version_of(widgets)
    widgets.delete("a")
    widgets.patch("a", {"metadata": {"finalizers": []}})
    frames = seen(widgets, resourceVersion=version)
    assert names(frames)[0] == ("MODIFIED", "a")
    assert names(frames)[-1] == ("DELETED", "a")
    assert "deletionTimestamp" in frames[0].object["metadata"]


def test_built_in_kinds_are_watched_alike(in_namespace: InNamespace) -> None:
    leases = in_namespace("coordination.k8s.io/v1", "leases")
    version = version_of(leases)
    leases.made({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}})
    assert names(seen(leases, resourceVersion=version)) == [("ADDED", "l")]
