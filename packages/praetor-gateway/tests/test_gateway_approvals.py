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

from gateway_testing import SHARED_TOKEN, AsgiClient, GatewayLab, running_lab
from kube_testing import body_of
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, SECRETS, Key
from praetor_api.names import FILE_DIGESTS
from praetor_api.tokens import device_token
from praetor_gateway.http.auth import RELOAD_S
from praetor_gateway.settings import Credentials
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


def published(lab: GatewayLab) -> Mapping[str, str]:
    """Return the digests that the gateway says of the namespace lab."""
    data = lab.kube.objects(CONFIG_MAPS)[PUBLISHED]["data"]
    found: dict[str, str] = json.loads(data["lab"])
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
