# SPDX-License-Identifier: Apache-2.0
"""Contents of files that restart a process: gateways say which there are, and give the approved one alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_testing import SHARED_TOKEN, AsgiClient, GatewayLab, running_lab
from kube_testing import body_of
from praetor_api.kube.client.resource import CONFIG_MAPS, CORE_EVENTS, DEVICE_PROCESSES, SECRETS, Key
from praetor_api.names import FILE_DIGESTS
from praetor_api.tokens import device_token
from praetor_api.values import ABSENT, INCOMPLETE
from praetor_gateway.fleet.references import ReferenceStore
from praetor_gateway.http.auth import RELOAD_S
from praetor_gateway.settings import Credentials
from praetor_gateway.status.digests import fitted, shares
from praetor_gateway.status.shared_data import PERIOD_S

KNOWS = "file-references.v1, files.v1, references.v1, secrets.v1, values.v1"
LABEL = {"azure.com/deliver": "true"}
SECRET = "of all devices"
PUBLISHED = Key("praetor-system", FILE_DIGESTS)
SEEN_S = 30.0  # before the silence of a watch is noticed
LEVEL, PASSWORD = "configmap/settings key level", "secret/login key password"
OF_MAP = {"configMapKeyRef": {"name": "settings", "key": "level"}}
OF_SECRET = {"secretKeyRef": {"name": "login", "key": "password"}}


@asynccontextmanager
async def lab_with(credentials: Credentials | None = None) -> AsyncIterator[GatewayLab]:
    """Run a gateway beside a ConfigMap and a Secret that processes may refer to."""
    credentials = credentials or Credentials(tokens=(SHARED_TOKEN,), secrets=(SECRET,))
    async with running_lab(
        references_namespaces=("lab",), credentials=credentials, lease_namespace="praetor-system"
    ) as lab:
        await lab.kube.create(
            CONFIG_MAPS, "lab", body_of(CONFIG_MAPS, "settings", {"labels": LABEL}, data={"level": "1"})
        )
        await lab.kube.create(
            SECRETS, "lab", body_of(SECRETS, "login", {"labels": LABEL}, data={"password": _base64("x")})
        )
        await lab.clock.advance(PERIOD_S)
        yield lab


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def published(lab: GatewayLab, namespace: str = "lab") -> Mapping[str, str]:
    """Return the digests that the gateway says of *namespace*."""
    data = lab.kube.objects(CONFIG_MAPS)[PUBLISHED]["data"]
    found: dict[str, str] = json.loads(data[namespace])
    return found


async def set_level(lab: GatewayLab, level: str) -> None:
    """Change what the ConfigMap holds; returns once the gateway has said so."""
    await lab.settled(lab.kube.patch(CONFIG_MAPS, Key("lab", "settings"), {"data": {"level": level}}))
    await lab.clock.advance(PERIOD_S)


def execution(*files: dict[str, Any]) -> dict[str, Any]:
    return {"backend": "process", "command": ["sleep", "9"], "files": list(files)}


async def item_of(lab: GatewayLab, secret: str = SECRET) -> dict[str, Any]:
    client = AsgiClient(lab.gateway.app, device_token(secret.encode(), "leaf-1"), "https")
    item: dict[str, Any] = (await client.get("/v1/devices/leaf-1/desired", praetor_features=KNOWS)).json()["items"][0]
    return item


async def test_the_leader_says_what_objects_hold_so_that_only_a_change_shows() -> None:
    async with lab_with() as lab:
        before = published(lab)
        assert before.keys() == {LEVEL, PASSWORD}
        await set_level(lab, "2")
        after = published(lab)
        assert [name for name in before if before[name] != after[name]] == [LEVEL]
        await set_level(lab, "1")
        assert published(lab) == before
        await lab.settled(lab.kube.delete(CONFIG_MAPS, Key("lab", "settings")))
        await lab.clock.advance(PERIOD_S)
        assert published(lab).keys() == {PASSWORD}


async def test_nothing_is_said_of_secrets_without_a_key_and_nothing_is_written_without_a_change() -> None:
    async with lab_with(Credentials(tokens=(SHARED_TOKEN,))) as lab:
        assert published(lab).keys() == {LEVEL}
        before = lab.kube.version
        await lab.clock.advance(10 * PERIOD_S)
        written = lab.kube.objects(CONFIG_MAPS)[PUBLISHED]["metadata"]["resourceVersion"]
        assert int(written) <= before


async def test_a_version_gets_the_content_that_it_was_approved_with_and_keeps_it_after_a_change() -> None:
    async with lab_with() as lab:
        approved = {"path": "a", **OF_MAP, "approved": published(lab)[LEVEL]}
        signalled = {"path": "b", **OF_MAP, "onChange": "Signal"}
        await lab.declare("leaf-1", execution=execution(approved, signalled))
        item = await item_of(lab)
        assert item["fileValues"] == [{"path": path, "content": _base64("1")} for path in ("a", "b")]
        assert "keptFiles" not in item
        await set_level(lab, "2")
        changed = await item_of(lab)
        assert (changed["fileValues"], changed["keptFiles"]) == ([{"path": "b", "content": _base64("2")}], ["a"])
        assert changed["valuesHash"] != item["valuesHash"]
        files = [{**approved, "approved": published(lab)[LEVEL]}, signalled]
        patch = {"spec": {"execution": {"files": files}}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), patch))
        rolled_out = await item_of(lab)
        assert rolled_out["fileValues"] == [{"path": path, "content": _base64("2")} for path in ("a", "b")]
        assert "keptFiles" not in rolled_out


async def test_a_changed_content_answers_the_poll_of_a_device_that_keeps_its_own() -> None:
    async with lab_with() as lab:
        await lab.declare("leaf-1", execution=execution({"path": "a", **OF_MAP, "approved": published(lab)[LEVEL]}))
        client = AsgiClient(lab.gateway.app, device_token(SECRET.encode(), "leaf-1"), "https")
        path = "/v1/devices/leaf-1/desired"
        etag = (await client.get(path, praetor_features=KNOWS)).headers["etag"]
        poll = asyncio.ensure_future(client.get(path, praetor_features=KNOWS, if_none_match=etag, prefer="wait=50"))
        await lab.clock.settle()
        await set_level(lab, "2")
        assert (await poll).json()["items"][0]["keptFiles"] == ["a"]


async def test_what_was_approved_before_a_rotation_of_the_device_secret_stays_approved(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("old\n")
    async with lab_with(Credentials(tokens=(SHARED_TOKEN,), secret_files=(secrets,))) as lab:
        before = published(lab)
        await lab.declare("leaf-1", execution=execution({"path": "a", **OF_SECRET, "approved": before[PASSWORD]}))
        secrets.write_text("new\nold\n")
        await lab.clock.advance(RELOAD_S + PERIOD_S)
        assert published(lab) == before
        assert (await item_of(lab, "new"))["fileValues"] == [{"path": "a", "content": _base64("x")}]
        await set_level(lab, "2")
        assert published(lab)[PASSWORD] == before[PASSWORD]
        assert published(lab)[LEVEL] != before[LEVEL]


async def test_after_a_restore_that_no_watch_reports_the_restored_contents_are_said_and_given() -> None:
    async with lab_with() as lab:
        signalled = {"path": "b", **OF_MAP, "onChange": "Signal"}
        await lab.declare("leaf-1", execution=execution(signalled))
        first, backup = published(lab), lab.kube.version
        await set_level(lab, "2")
        second = published(lab)
        other = lab.kube.another_client()
        lab.kube.silence_watches()
        await other.patch(CONFIG_MAPS, Key("lab", "settings"), {"data": {"level": "1"}})
        await other.patch(CONFIG_MAPS, PUBLISHED, {"data": {"lab": json.dumps({LEVEL: "of a backup"})}})
        lab.kube.rewind(backup)
        await lab.clock.advance(SEEN_S)
        assert (await item_of(lab))["fileValues"] == [{"path": "b", "content": _base64("1")}]
        assert (published(lab), first == second) == (first, False)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return body_of(CONFIG_MAPS, name, {"labels": LABEL}, data=data)


def too_many(count: int = 3_500) -> dict[str, str]:
    """Return data whose digests do not fit into a ConfigMap, though the data themselves do."""
    return {f"{number:0250}": "x" for number in range(count)}


@asynccontextmanager
async def two_namespaces() -> AsyncIterator[GatewayLab]:
    """Run a gateway beside a ConfigMap in each of the namespaces lab and other; a deployment approves that of lab."""
    async with running_lab(references_namespaces=("lab", "other"), lease_namespace="praetor-system") as lab:
        for namespace in ("lab", "other"):
            await lab.kube.create(CONFIG_MAPS, namespace, config_map("settings", level="1"))
        await lab.clock.advance(PERIOD_S)
        files = [{"path": "a", **OF_MAP, "approved": published(lab)[LEVEL]}]
        await lab.declare("leaf-1", execution=execution(*files))
        yield lab


def notes(lab: GatewayLab) -> list[tuple[str, str]]:
    """Return what events say of digests that are left out, by their namespaces."""
    events = lab.kube.objects(CORE_EVENTS).items()
    return [(key.namespace, obj["message"]) for key, obj in events if obj["reason"] == "DigestsLeftOut"]


async def test_a_namespace_with_too_many_keys_delays_no_contents_of_another_one() -> None:
    async with two_namespaces() as lab:
        await lab.kube.create(CONFIG_MAPS, "other", config_map("many", **too_many()))
        await lab.clock.advance(PERIOD_S)
        before = published(lab)
        await set_level(lab, "2")
        assert published(lab)[LEVEL] != before[LEVEL]
        assert INCOMPLETE not in published(lab)
        await lab.kube.create(CONFIG_MAPS, "lab", config_map("new", level="1"))
        await lab.clock.advance(PERIOD_S)
        assert "configmap/new key level" in published(lab)
        assert int(published(lab, "other")[INCOMPLETE]) > 0
        ((where, note),) = notes(lab)
        assert where == "other"
        assert "configmap/many" in note


async def test_contents_that_processes_have_come_first_where_a_namespace_has_too_many_keys() -> None:
    async with two_namespaces() as lab:
        await lab.kube.create(CONFIG_MAPS, "lab", config_map("many", **too_many()))
        await lab.clock.advance(PERIOD_S)
        before = published(lab)
        assert INCOMPLETE in before
        await set_level(lab, "2")
        assert published(lab)[LEVEL] not in ("", before[LEVEL])
        await lab.settled(lab.kube.delete(CONFIG_MAPS, Key("lab", "settings")))
        await lab.clock.advance(PERIOD_S)
        assert published(lab)[LEVEL] == ABSENT  # not left out, but gone
        await lab.settled(lab.kube.delete(CONFIG_MAPS, Key("lab", "many")))
        await lab.clock.advance(PERIOD_S)
        assert published(lab) == {}
        assert len(notes(lab)) == 1


async def test_a_namespace_without_references_any_more_is_dropped() -> None:
    async with two_namespaces() as lab:
        assert published(lab, "other")
        kube, clock = lab.kube.another_client(), lab.clock
    async with running_lab(kube, clock, references_namespaces=("lab",), lease_namespace="praetor-system") as later:
        await later.clock.advance(SEEN_S)
        assert kube.objects(CONFIG_MAPS)[PUBLISHED]["data"].keys() == {"lab"}


async def test_without_a_change_no_digest_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    digests = ReferenceStore.digests

    def counted(store: ReferenceStore, namespace: str, known: Mapping[str, str]) -> dict[str, str]:
        made.append(namespace)
        return digests(store, namespace, known)

    async with two_namespaces() as lab:
        await lab.clock.advance(5 * PERIOD_S)
        monkeypatch.setattr(ReferenceStore, "digests", counted)
        patch = {"metadata": {"annotations": {"a": "b"}}}
        await lab.settled(lab.kube.patch(CONFIG_MAPS, Key("lab", "settings"), patch))
        await lab.clock.advance(60 * PERIOD_S)
        assert made == []
        await set_level(lab, "2")
        await lab.clock.advance(60 * PERIOD_S)
        assert set(made) == {"lab"}
        assert len(made) == 2  # once more as it was stored


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({}, {}),
        ({"a": 100}, {"a": 100}),
        ({"a": 101}, {"a": 100}),
        ({"a": 90, "b": 10}, {"a": 90, "b": 10}),
        ({"a": 900, "b": 10}, {"a": 90, "b": 10}),
        ({"a": 900, "b": 800, "c": 20}, {"a": 40, "b": 40, "c": 20}),
    ],
)
def test_who_needs_less_than_its_share_leaves_the_rest_to_others(sizes: dict[str, int], found: dict[str, int]) -> None:
    assert shares(sizes, 100) == found


@given(
    st.dictionaries(st.text(max_size=12), st.sampled_from(["0" * 32, "1" * 32, ABSENT]), max_size=12),
    st.sets(st.text(max_size=12), max_size=4),
    st.integers(40, 600),
)
def test_what_fits_is_right_and_names_what_processes_have_first(
    digests: dict[str, str], used: set[str], room: int
) -> None:
    digests.pop(INCOMPLETE, None)
    used.discard(INCOMPLETE)
    text, left_out = fitted(digests, used, room)
    said = json.loads(text)
    assert len(text) <= room
    count = said.pop(INCOMPLETE, "0")
    assert int(count) == len(left_out)
    assert said.keys() | set(left_out) >= digests.keys()
    assert not said.keys() & set(left_out)
    assert all(said[each] == digests.get(each, ABSENT) for each in said)
