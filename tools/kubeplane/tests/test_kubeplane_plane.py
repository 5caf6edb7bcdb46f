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
MERGE = "application/merge-patch+json"
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
                "selectableFields": [{"jsonPath": ".spec.device.name"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "default": 1},
                                    "device": {"type": "object", "properties": {"name": {"type": "string"}}},
                                },
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


async def test_an_object_lives_from_its_creation_to_its_deletion() -> None:
    async with running() as client:
        status, made = await client.ask("POST", MAPS, config_map("a"))
        assert (status, made["data"]) == (201, {"k": "v"})
        assert (await client.ask("GET", f"{MAPS}/a")) == (200, made)
        status, patched = await client.ask("PATCH", f"{MAPS}/a", {"data": {"x": "y"}}, Content_Type=MERGE)
        assert (status, patched["data"]) == (200, {"k": "v", "x": "y"})
        status, refused = await client.ask("PUT", f"{MAPS}/a", made)
        assert (status, refused["reason"]) == (409, "Conflict")
        assert (await client.ask("DELETE", f"{MAPS}/a"))[0] == 200
        assert (await client.ask("GET", f"{MAPS}/a"))[0] == 404


async def test_a_definition_serves_its_kind_at_once() -> None:
    async with running() as client:
        assert (await client.ask("POST", DEFINITIONS, DEFINITION))[0] == 201
        status, made = await client.ask("POST", THINGS, thing("a", device={"name": "leaf-1"}, odd=1))
        assert (status, made["spec"]) == (201, {"size": 1, "device": {"name": "leaf-1"}})
        await client.ask("POST", THINGS, thing("b", device={"name": "leaf-2"}))
        _, listed = await client.ask("GET", f"{THINGS}?fieldSelector=spec.device.name%3Dleaf-2")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["b"]
        _, changed = await client.ask("PATCH", f"{THINGS}/a/status", {"status": {"phase": "On"}}, Content_Type=MERGE)
        assert (changed["status"], changed["metadata"]["generation"]) == ({"phase": "On"}, 1)


async def test_a_watch_shows_what_enters_and_leaves_its_selection() -> None:
    async with running() as client:
        await client.ask("POST", MAPS, config_map("a", labels={"in": "yes"}))
        async with client.watch(f"{MAPS}?watch=1&labelSelector=in%3Dyes") as stream:
            assert (await event(stream))[0] == "ADDED"
            for value, said in (("no", "DELETED"), ("yes", "ADDED"), ("yes", "MODIFIED")):
                patch = {"metadata": {"labels": {"in": value}}, "data": {"said": said}}
                await client.ask("PATCH", f"{MAPS}/a", patch, Content_Type=MERGE)
                assert (await event(stream))[0] == said


async def test_a_watch_resumes_and_is_gone_when_history_is() -> None:
    async with running() as client:
        _, made = await client.ask("POST", MAPS, config_map("a"))
        since = made["metadata"]["resourceVersion"]
        await client.ask("POST", MAPS, config_map("b"))
        async with client.watch(f"{MAPS}?watch=1&resourceVersion={since}") as stream:
            kind, found = await event(stream)
            assert (kind, found["metadata"]["name"]) == ("ADDED", "b")
        await client.ask("POST", "/_kubeplane/compact")
        async with client.watch(f"{MAPS}?watch=1&resourceVersion={since}") as stream:
            kind, status = await event(stream)
            assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


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


async def test_pages_show_one_snapshot() -> None:
    async with running() as client:
        for name in "abc":
            await client.ask("POST", MAPS, config_map(name))
        _, first = await client.ask("GET", f"{MAPS}?limit=2")
        await client.ask("DELETE", f"{MAPS}/c")
        _, rest = await client.ask("GET", f"{MAPS}?limit=2&continue={first['metadata']['continue']}")
        assert [item["metadata"]["name"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
        await client.ask("POST", "/_kubeplane/compact")
        status, gone = await client.ask("GET", f"{MAPS}?limit=2&continue={first['metadata']['continue']}")
        assert (status, gone["reason"]) == (410, "Expired")


async def absent(client: Client, path: str) -> None:
    async with asyncio.timeout(120):
        while (await client.ask("GET", path))[0] != 404:
            pass


def owned_by(owner: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    uid = owner["metadata"]["uid"]
    return [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": uid, **more}]


async def test_dependents_go_with_their_owner() -> None:
    async with running() as client:
        _, owner = await client.ask("POST", MAPS, config_map("owner"))
        await client.ask("POST", MAPS, config_map("child", ownerReferences=owned_by(owner)))
        await client.ask("DELETE", f"{MAPS}/owner")
        await absent(client, f"{MAPS}/child")


async def test_in_the_foreground_dependents_go_first() -> None:
    async with running() as client:
        _, owner = await client.ask("POST", MAPS, config_map("owner"))
        held = config_map("child", ownerReferences=owned_by(owner, blockOwnerDeletion=True), finalizers=["x.io/hold"])
        await client.ask("POST", MAPS, held)
        _, waiting = await client.ask("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
        assert waiting["metadata"]["finalizers"] == ["foregroundDeletion"]
        assert (await client.ask("GET", f"{MAPS}/owner"))[0] == 200
        await client.ask("PATCH", f"{MAPS}/child", {"metadata": {"finalizers": None}}, Content_Type=MERGE)
        await absent(client, f"{MAPS}/child")
        await absent(client, f"{MAPS}/owner")


async def test_orphans_stay() -> None:
    async with running() as client:
        _, owner = await client.ask("POST", MAPS, config_map("owner"))
        await client.ask("POST", MAPS, config_map("child", ownerReferences=owned_by(owner)))
        await client.ask("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
        await absent(client, f"{MAPS}/owner")
        status, child = await client.ask("GET", f"{MAPS}/child")
        assert (status, child["metadata"].get("ownerReferences")) == (200, None)


async def test_a_namespace_is_deleted_with_all_that_is_in_it() -> None:
    async with running() as client:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
        await client.ask("POST", "/api/v1/namespaces", body)
        await client.ask("POST", "/api/v1/namespaces/n/configmaps", config_map("a"))
        _, going = await client.ask("DELETE", "/api/v1/namespaces/n")
        assert going["status"]["phase"] == "Terminating"
        await absent(client, "/api/v1/namespaces/n")
        assert (await client.ask("GET", "/api/v1/namespaces/n/configmaps/a"))[0] == 404


async def test_a_definition_takes_its_objects_with_it() -> None:
    async with running() as client:
        await client.ask("POST", DEFINITIONS, DEFINITION)
        await client.ask("POST", THINGS, thing("a"))
        await client.ask("DELETE", f"{DEFINITIONS}/things.example.com")
        await absent(client, f"{DEFINITIONS}/things.example.com")
        assert (await client.ask("GET", THINGS))[0] == 404


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


def role_for(user: str, verbs: list[str], **rule: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs, **rule}]
    group = "rbac.authorization.k8s.io"
    head = {"apiVersion": f"{group}/v1", "metadata": {"name": user}}
    reference = {"apiGroup": group, "kind": "Role", "name": user}
    subjects = [{"apiGroup": group, "kind": "User", "name": user}]
    return {**head, "kind": "Role", "rules": rules}, {
        **head,
        "kind": "RoleBinding",
        "roleRef": reference,
        "subjects": subjects,
    }


async def test_with_rbac_a_user_may_do_what_its_roles_say() -> None:
    tokens = {"root": User("admin", ("system:masters",)), "one": User("one")}
    root, one = "Bearer root", "Bearer one"
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    async with running(tokens=tokens, rbac=True) as client:
        status, refused = await client.ask("GET", MAPS, Authorization=one)
        assert (status, refused["reason"]) == (403, "Forbidden")
        assert refused["message"] == (
            'configmaps is forbidden: User "one" cannot list resource "configmaps" in API group "" '
            'in the namespace "default"'
        )
        role, binding = role_for("one", ["list", "get"])
        await client.ask("POST", f"{path}/roles", role, Authorization=root)
        await client.ask("POST", f"{path}/rolebindings", binding, Authorization=root)
        assert (await client.ask("GET", MAPS, Authorization=one))[0] == 200
        assert (await client.ask("POST", MAPS, config_map("a"), Authorization=one))[0] == 403
        assert (await client.ask("GET", "/api/v1/configmaps", Authorization=one))[0] == 403
