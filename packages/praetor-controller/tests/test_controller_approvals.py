# SPDX-License-Identifier: Apache-2.0
"""Contents of files that restart a process: a changed one is a new revision, rolled out as any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kube_testing import body_of
from praetor_api.kube.client.resource import CONFIG_MAPS, LEASES, NETWORK_SWITCHES, Key
from praetor_api.names import FILE_DIGESTS
from praetor_api.protocol import AGENT_FEATURES
from praetor_api.values import ABSENT, INCOMPLETE
from program_testing import ProgramFixture

LEVEL = "configmap/settings key level"
PUBLISHED = Key("praetor-system", FILE_DIGESTS)
RESTARTS = {"path": "a", "configMapKeyRef": {"name": "settings", "key": "level"}}
SIGNALLED = {"path": "b", "configMapKeyRef": {"name": "settings", "key": "other"}, "onChange": "Signal"}


def spec(*files: dict[str, Any], command: str = "v1") -> dict[str, Any]:
    return {"execution": {"backend": "process", "command": [command], "files": list(files)}}


async def publish(fixture: ProgramFixture, **digests: str) -> None:
    """Say as a gateway does what the objects of the namespace lab hold: *digests* of keys of the ConfigMap settings."""
    await publish_all(fixture, {f"configmap/settings key {key}": digest for key, digest in digests.items()})


async def publish_all(fixture: ProgramFixture, digests: Mapping[str, str]) -> None:
    data = {"lab": json.dumps(digests)}
    if PUBLISHED in fixture.kube.objects(CONFIG_MAPS):
        await fixture.kube.patch(CONFIG_MAPS, PUBLISHED, {"data": data})
    else:
        await fixture.kube.create(CONFIG_MAPS, PUBLISHED.namespace, body_of(CONFIG_MAPS, FILE_DIGESTS, data=data))
    await fixture.clock.advance(2)


def approvals(fixture: ProgramFixture) -> dict[str, dict[str, str]]:
    """Return what each process approves: digests by the paths of its files."""
    return {
        name: {each["path"]: each["approved"] for each in obj["spec"]["execution"]["files"] if "approved" in each}
        for name, obj in fixture.processes().items()
    }


async def deployed(fixture: ProgramFixture, *files: dict[str, Any]) -> None:
    for name in ("a", "b"):
        await fixture.switch(name)
        facts = {"features": ",".join(AGENT_FEATURES)}
        await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", name), {"status": {"facts": facts}}, subresource="status")
    await fixture.deploy(template={"spec": spec(*files)})


async def test_a_changed_content_is_rolled_out_within_the_budget() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS, SIGNALLED)
    await publish(fixture, level="d1", other="x")
    async with fixture.controller():
        assert approvals(fixture) == {"tel-a": {"a": "d1"}, "tel-b": {"a": "d1"}}
        await fixture.report_ready()
        await fixture.clock.advance(30)
        assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")
        await publish(fixture, level="d2", other="x")
        assert approvals(fixture) == {"tel-a": {"a": "d2"}, "tel-b": {"a": "d1"}}
        await fixture.report_ready()
        await fixture.clock.advance(30)
        assert approvals(fixture) == {"tel-a": {"a": "d2"}, "tel-b": {"a": "d2"}}
        assert len(fixture.history()) == 2


async def test_what_does_not_restart_a_process_is_no_revision() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, SIGNALLED)
    async with fixture.controller():
        assert approvals(fixture) == {"tel-a": {}, "tel-b": {}}
        await publish(fixture, other="1")
        await publish(fixture, other="2")
        assert len(fixture.history()) == 1


async def test_nothing_is_written_until_a_gateway_says_what_the_objects_hold() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS)
    async with fixture.controller():
        assert fixture.processes() == {}
        assert fixture.condition("Progressing") == ("False", "ReferencePending")
        await publish(fixture, other="x")
        await publish(fixture, level=ABSENT)  # it is no text
        assert fixture.processes() == {}
        assert fixture.condition("Progressing") == ("False", "ReferencePending")
        await publish(fixture, level="d1")
        assert approvals(fixture) == {"tel-a": {"a": "d1"}, "tel-b": {"a": "d1"}}
        assert fixture.condition("Progressing")[0] == "True"
        assert len(fixture.history()) == 1


async def test_an_optional_file_may_be_approved_as_absent_and_a_required_one_stays_when_its_key_is_deleted() -> None:
    optional = {"path": "b", "configMapKeyRef": {"name": "settings", "key": "other", "optional": True}}
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS, optional)
    await publish(fixture, level="d1")
    async with fixture.controller():
        assert approvals(fixture)["tel-a"] == {"a": "d1", "b": ABSENT}
        for published, approved in (
            ({"level": "d1", "other": "x"}, {"a": "d1", "b": "x"}),
            ({"level": "d1"}, {"a": "d1", "b": ABSENT}),
            ({}, {"a": "d1", "b": ABSENT}),
            ({"level": "d2"}, {"a": "d2", "b": ABSENT}),
        ):
            await publish(fixture, **published)
            await fixture.report_ready()
            await fixture.clock.advance(30)
            assert approvals(fixture)["tel-a"] == approved


async def test_what_a_gateway_leaves_out_does_not_count_as_absent() -> None:
    optional = {"path": "b", "configMapKeyRef": {"name": "settings", "key": "other", "optional": True}}
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS, optional)
    other, left_out = LEVEL.replace("level", "other"), {INCOMPLETE: "9"}
    await publish_all(fixture, {LEVEL: "d1", **left_out})
    async with fixture.controller():
        assert fixture.processes() == {}
        assert fixture.condition("Progressing") == ("False", "ReferencePending")
        for published, approved in (
            ({LEVEL: "d1", other: "x"}, {"a": "d1", "b": "x"}),
            ({LEVEL: "d2"}, {"a": "d2", "b": "x"}),
            ({LEVEL: "d2", other: ABSENT}, {"a": "d2", "b": ABSENT}),
        ):
            await publish_all(fixture, {**published, **left_out})
            await fixture.report_ready()
            await fixture.clock.advance(30)
            assert approvals(fixture)["tel-a"] == approved


async def test_what_was_approved_stays_so_when_what_gateways_say_is_lost() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS)
    await publish(fixture, level="d1")
    async with fixture.controller():
        assert approvals(fixture) == {"tel-a": {"a": "d1"}, "tel-b": {"a": "d1"}}
    await fixture.kube.delete(CONFIG_MAPS, PUBLISHED)
    async with fixture.controller():
        await fixture.clock.advance(30)
        assert approvals(fixture) == {"tel-a": {"a": "d1"}, "tel-b": {"a": "d1"}}
        assert len(fixture.history()) == 1


async def test_what_users_approve_themselves_does_not_count() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, {**RESTARTS, "approved": "mine"}, {**SIGNALLED, "approved": "mine"})
    await publish(fixture, level="d1", other="x")
    async with fixture.controller():
        assert approvals(fixture) == {"tel-a": {"a": "d1"}, "tel-b": {"a": "d1"}}


async def test_contents_are_read_again_after_a_request_without_an_answer() -> None:
    fixture = ProgramFixture()
    await deployed(fixture, RESTARTS)
    await publish(fixture, level="d1")
    async with fixture.controller():
        await fixture.report_ready()
        await fixture.clock.advance(30)
        fixture.kube.silence_watches()
        fixture.kube.hang_next(verb="patch", resource=LEASES)
        await publish(fixture, level="d2")
        await fixture.clock.advance(30)
        assert sorted(each["a"] for each in approvals(fixture).values()) == ["d1", "d2"]
