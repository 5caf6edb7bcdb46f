# SPDX-License-Identifier: Apache-2.0
"""The whole control plane in this process, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kubeplane import ControlPlane, User

MAPS = "/api/v1/namespaces/default/configmaps"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/example.com/v1/namespaces/default/things"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"size": {"type": "integer", "default": 1}},
                            },
                            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


class Client:
    """Requests as a test asks them."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.session.request(method, self.url + path, data=data, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.content_type else text

    @asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.session.get(f"{self.url}{path}") as answer:
            yield answer


async def event(stream: aiohttp.ClientResponse) -> tuple[str, Any]:
    line = json.loads(await asyncio.wait_for(stream.content.readline(), 10))
    return line["type"], line["object"]


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Client]:
    async with ControlPlane(**options) as plane, aiohttp.ClientSession() as session:
        yield Client(session, plane.url)


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"k": "v"}}


def thing(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec}


async def test_initial_events_end_with_a_bookmark_and_more_bookmarks_follow() -> None:
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with running(bookmark_s=0.05) as client:
        await client.ask("POST", MAPS, config_map("a"))
        async with client.watch(f"{MAPS}?{query}") as stream:
            assert (await event(stream))[0] == "ADDED"
            kind, mark = await event(stream)
            assert (kind, mark["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})
            kind, mark = await event(stream)
            assert (kind, "annotations" in mark["metadata"]) == ("BOOKMARK", False)


async def test_a_head_has_no_body() -> None:
    async with running() as client:
        assert await client.ask("HEAD", "/readyz") == (200, "")
        assert (await client.ask("GET", "/readyz")) == (200, "ok")


@pytest.mark.parametrize(
    ("action", "status", "reason"),
    [
        ("conflict", 409, "Conflict"),
        ("gone", 410, "Expired"),
        ("too_many", 429, "TooManyRequests"),
        ("error", 500, "InternalError"),
        ("unavailable", 503, "ServiceUnavailable"),
    ],
)
async def test_an_injected_fault_hits_as_many_requests_as_asked(action: str, status: int, reason: str) -> None:
    async with running() as client:
        fault = {"action": action, "verb": "list", "resource": "configmaps", "count": 1}
        assert (await client.ask("POST", "/_kubeplane/faults", fault))[0] == 201
        assert (await client.ask("GET", "/api/v1/namespaces"))[0] == 200
        answered, said = await client.ask("GET", MAPS)
        assert (answered, said["reason"]) == (status, reason)
        assert (await client.ask("GET", MAPS))[0] == 200
        assert (await client.ask("GET", "/_kubeplane/faults"))[1]["faults"][0]["hits"] == 1
        await client.ask("DELETE", "/_kubeplane/faults")
        assert (await client.ask("GET", "/_kubeplane/faults"))[1]["faults"] == []


async def test_a_hung_request_ends_in_a_broken_connection() -> None:
    async with running() as client:
        await client.ask("POST", "/_kubeplane/faults", {"action": "hang", "resource": "configmaps", "seconds": 0.01})
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", MAPS)


async def test_watches_break_in_the_middle_of_a_line_or_fall_silent() -> None:
    async with running(bookmark_s=0.05) as client:
        await client.ask("POST", MAPS, config_map("a"))
        await client.ask("POST", "/_kubeplane/faults", {"action": "truncate", "verb": "watch", "count": 1})
        async with client.watch(f"{MAPS}?watch=1") as stream:
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream.read()
        await client.ask("POST", "/_kubeplane/faults", {"action": "freeze", "verb": "watch", "count": 1})
        async with client.watch(f"{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1") as stream:
            assert (await event(stream))[0] == "ADDED"
            await client.ask("POST", MAPS, config_map("b"))
            assert await stream.read() == b""


async def test_a_fault_that_is_not_known_is_refused() -> None:
    async with running() as client:
        status, refused = await client.ask("POST", "/_kubeplane/faults", {"action": "explode"})
        assert (status, refused["reason"]) == (400, "BadRequest")


async def test_requests_are_counted_by_user_verb_and_resource() -> None:
    async with running(tokens={"secret": User("gateway")}) as client:
        await client.ask("GET", MAPS, Authorization="Bearer secret")
        await client.ask("GET", f"{MAPS}/nope", Authorization="Bearer secret")
        _, counted = await client.ask("GET", "/_kubeplane/requests", Authorization="Bearer secret")
        rows = {(row["verb"], row["resource"], row["user"], row["code"]): row["count"] for row in counted["requests"]}
        assert rows == {("list", "configmaps", "gateway", 200): 1, ("get", "configmaps", "gateway", 404): 1}
        _, metrics = await client.ask("GET", "/metrics", Authorization="Bearer secret")
        assert 'resource="configmaps",subresource="",user="gateway",verb="LIST"} 1' in metrics
        _, counted = await client.ask("DELETE", "/_kubeplane/requests", Authorization="Bearer secret")
        assert counted["total"] == 0


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "Basic secret"])
async def test_without_a_right_token_nothing_is_answered(token: str) -> None:
    async with running(tokens={"secret": User("admin")}) as client:
        headers = {"Authorization": token} if token else {}
        status, refused = await client.ask("GET", MAPS, **headers)
        assert (status, refused["reason"]) == (401, "Unauthorized")
        assert (await client.ask("GET", "/readyz")) == (200, "ok")


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    async with running(data=data) as client:
        await client.ask("POST", DEFINITIONS, DEFINITION)
        _, made = await client.ask("POST", THINGS, thing("a"))
        _, before = await client.ask("GET", THINGS)
    async with running(data=data) as client:
        assert (await client.ask("GET", f"{THINGS}/a")) == (200, made)
        assert (await client.ask("GET", THINGS)) == (200, before)
        _, later = await client.ask("POST", THINGS, thing("b"))
        assert int(later["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])


async def test_definitions_of_a_folder_are_there_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "things.yaml").write_text(json.dumps(DEFINITION))
    async with running(crds=tmp_path) as client:
        assert (await client.ask("GET", THINGS))[1]["items"] == []


async def test_with_a_certificate_folder_it_talks_tls(tmp_path: Path) -> None:
    async with ControlPlane(cert_dir=tmp_path) as plane, aiohttp.ClientSession() as session:
        trust = ssl.create_default_context(cafile=str(tmp_path / "apiserver.crt"))
        async with session.get(f"{plane.url}/version", ssl=trust) as answer:
            assert (await answer.json())["major"] == "1"
        assert plane.url.startswith("https://")
        assert (tmp_path / "apiserver.key").stat().st_mode & 0o077 == 0


async def test_both_forms_of_discovery_name_the_same_kinds() -> None:
    async with running() as client:
        await client.ask("POST", DEFINITIONS, DEFINITION)
        _, listed = await client.ask("GET", "/apis/example.com/v1")
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        _, whole = await client.ask("GET", "/apis", Accept=accept)
        (group,) = [group for group in whole["items"] if group["metadata"]["name"] == "example.com"]
        (found,) = group["versions"][0]["resources"]
        assert {entry["name"] for entry in listed["resources"]} == {"things", "things/status"}
        assert (found["resource"], found["subresources"][0]["subresource"]) == ("things", "status")
