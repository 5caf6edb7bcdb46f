# SPDX-License-Identifier: Apache-2.0
"""The control plane without a socket: requests in, responses and streams out, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kube_testing import FakeClock
from kubeplane import ControlPlane, Request

MAPS = "/api/v1/namespaces/default/configmaps"


async def ask(plane: ControlPlane, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
    sent = json.dumps(body).encode() if body is not None else b""
    response = await plane.handle(Request(method, path, query, {"content-type": "application/json"}, sent))
    return response.status, json.loads(response.body)


def config(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"k": "v"}}


async def test_a_watch_streams_changes_and_bookmarks_and_ends_by_the_clock() -> None:
    clock = FakeClock()
    plane = ControlPlane(clock=clock, bookmark_s=60)
    query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "90"}
    query["resourceVersion"] = str(plane.store.rv)
    response = await plane.handle(Request("GET", MAPS, query, {}))
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(data: bytes) -> None:
        for line in data.splitlines():
            lines.put_nowait(json.loads(line))

    assert response.stream is not None
    stream = asyncio.ensure_future(response.stream(send))
    await ask(plane, "POST", MAPS, config("a"))
    added = await lines.get()
    assert (added["type"], added["object"]["metadata"]["name"]) == ("ADDED", "a")
    plane.send_bookmarks()
    assert (await lines.get())["object"]["metadata"]["resourceVersion"] == str(plane.store.rv)
    await clock.advance(60)
    assert (await lines.get())["type"] == "BOOKMARK"
    await clock.advance(30)
    await stream
    assert lines.get_nowait()["type"] == "BOOKMARK"


async def test_a_copy_begins_with_the_objects_of_its_origin_and_shares_no_change() -> None:
    origin = ControlPlane()
    await ask(origin, "POST", MAPS, config("a"))
    copy = ControlPlane(origin=origin)
    assert await ask(copy, "GET", f"{MAPS}/a") == await ask(origin, "GET", f"{MAPS}/a")
    await ask(copy, "DELETE", f"{MAPS}/a")
    await ask(copy, "POST", MAPS, config("b"))
    assert (await ask(origin, "GET", f"{MAPS}/a"))[0] == 200
    assert (await ask(origin, "GET", f"{MAPS}/b"))[0] == 404


async def test_after_a_restore_older_versions_are_gone_and_newer_ones_wait() -> None:
    plane = ControlPlane()
    _, made = await ask(plane, "POST", MAPS, config("a"))
    before = plane.store.rv
    plane.store.restart_at(before + 5)
    old = await plane.handle(Request("GET", MAPS, {"watch": "true", "resourceVersion": str(before)}, {}))
    lines: list[bytes] = []

    async def send(data: bytes) -> None:
        lines.append(data)

    assert old.stream is not None
    await old.stream(send)
    assert json.loads(lines[0])["object"]["code"] == 410
    plane.store.restart_at(before)
    assert await ask(plane, "GET", f"{MAPS}/a") == (200, made)
    assert (await ask(plane, "GET", MAPS, resourceVersion=str(before + 5)))[0] == 504


async def test_objects_with_a_generated_name_get_one_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter("bbbbb" + "bbbbb" + "ccccc")
    monkeypatch.setattr("secrets.choice", lambda _: next(letters))
    plane = ControlPlane()
    made = [await ask(plane, "POST", MAPS, {"metadata": {"generateName": "a-"}}) for _ in range(2)]
    assert [(status, body["metadata"]["name"]) for status, body in made] == [(201, "a-bbbbb"), (201, "a-ccccc")]


async def test_generated_names_end_with_a_conflict_after_eight_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter("b" * 45 + "ccccc")
    monkeypatch.setattr("secrets.choice", lambda _: next(letters))
    plane = ControlPlane()
    assert [(await ask(plane, "POST", MAPS, {"metadata": {"generateName": "a-"}}))[0] for _ in range(2)] == [201, 409]
