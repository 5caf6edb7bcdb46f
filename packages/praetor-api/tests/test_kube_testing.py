# SPDX-License-Identifier: Apache-2.0
"""The clock that tests move, and the client of a control plane in the process with its injected faults."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kube_testing import FakeClock, InProcessKube, Request, body_of
from praetor_api.kube.client.errors import Gone, Invalid, Unreachable
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, LEASES, Key
from praetor_api.kube.runtime.clock import Clock, SystemClock, within

KEY = Key("lab", "a")
SPEC = {"deviceRef": {"name": "leaf-1"}, "execution": {"backend": "process", "command": ["v1"]}}


def world() -> tuple[FakeClock, InProcessKube]:
    clock = FakeClock()
    return clock, InProcessKube(clock)


def lease(name: str, **labels: str) -> dict[str, Any]:
    return body_of(LEASES, name, {"labels": labels}, spec={"leaseTransitions": 1})


async def test_sleepers_wake_in_order_at_their_time() -> None:
    clock: FakeClock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))
        if name == "a":
            await sleeper("again", 1)

    tasks = [asyncio.create_task(sleeper(name, s)) for name, s in (("b", 3), ("a", 1), ("now", 0), ("late", 9))]
    await clock.advance(5)
    assert woken == [("now", 1000.0), ("a", 1001.0), ("again", 1002.0), ("b", 1003.0)]
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    tasks[3].cancel()
    await clock.advance(10)
    assert len(woken) == 4


async def test_the_system_clock_moves_on_and_knows_its_zone() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-1)
    await clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.now().utcoffset() == timedelta(0)


async def test_within_gives_the_result_the_error_or_up() -> None:
    clock = FakeClock()

    async def work(seconds: float, error: Exception | None = None) -> str:
        await clock.sleep(seconds)
        if error is not None:
            raise error
        return "done"

    tasks = [
        asyncio.create_task(within(clock, 5, work(1))),
        asyncio.create_task(within(clock, 5, work(1, ValueError("boom")))),
        asyncio.create_task(within(clock, 5, work(50))),
    ]
    await clock.advance(5)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "done"
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], TimeoutError)


async def test_objects_are_validated_by_the_projects_definitions_until_they_are_loosened() -> None:
    _clock, kube = world()
    await kube.create(DEVICE_PROCESSES, "lab", body_of(DEVICE_PROCESSES, "a", spec=SPEC))
    with pytest.raises(Invalid, match=r"execution\.command is needed"):
        await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"execution": {"command": None}}})
    await kube.loosen(DEVICE_PROCESSES)
    await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"execution": {"command": None}}})


def from_field(path: object, **more: object) -> dict[str, Any]:
    return {"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": path}}, **more}


LEVEL = {"name": "settings", "key": "level"}
FIELDS = "fieldPath is metadata.name, metadata.namespace, .* write one of them"


@pytest.mark.parametrize(
    ("variable", "refusal"),
    [
        pytest.param(from_field("metadata.name"), None, id="name"),
        pytest.param(from_field("metadata.labels['example.com/rack']"), None, id="label"),
        pytest.param(from_field("spec.managementAddress"), None, id="address"),
        pytest.param(from_field("status.facts['os']"), None, id="fact"),
        pytest.param({"name": "A", "valueFrom": {"configMapKeyRef": LEVEL}}, None, id="config-map"),
        pytest.param({"name": "A", "valueFrom": {"secretKeyRef": LEVEL}}, None, id="secret"),
        pytest.param(
            {"name": "A", "valueFrom": {"secretKeyRef": LEVEL, "configMapKeyRef": LEVEL}},
            "names one source",
            id="secret-and-config-map",
        ),
        pytest.param(from_field("metadata.uid"), FIELDS, id="another-field"),
        pytest.param(from_field("metadata.labels.rack"), FIELDS, id="label-without-brackets"),
        pytest.param(from_field("metadata.labels['a b']"), FIELDS, id="no-key-of-a-label"),
        pytest.param(from_field("metadata.annotations['a']"), FIELDS, id="annotation"),
        pytest.param(from_field("xmetadata.name"), FIELDS, id="more-before"),
        pytest.param(from_field("metadata.name", value="x"), "leave one of them out", id="value-beside"),
        pytest.param(
            {"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": "metadata.name"}, "configMapKeyRef": LEVEL}},
            "names one source",
            id="two-sources",
        ),
        pytest.param({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a"}}}, "key", id="no-key"),
        pytest.param({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "A_b", "key": "x"}}}, "name", id="name"),
        pytest.param({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "x/y"}}}, "key", id="key"),
        pytest.param({"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": LEVEL}}, "leave one", id="value-too"),
        pytest.param({"name": "A", "valueFrom": {}}, "deviceFieldRef", id="no-source"),
    ],
)
async def test_a_variable_has_a_value_or_names_a_field_of_the_device(
    variable: dict[str, Any], refusal: str | None
) -> None:
    _clock, kube = world()
    body = body_of(
        DEVICE_PROCESSES, "a", spec=SPEC | {"execution": {"backend": "process", "command": ["v1"], "env": [variable]}}
    )
    if refusal is None:
        stored = await kube.create(DEVICE_PROCESSES, "lab", body)
        assert stored["spec"]["execution"]["env"] == [variable]
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESSES, "lab", body)


FLASH = {"backend": "process", "command": ["v1"], "reboot": "Expected"}
CHECK = {"command": ["true"]}


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        pytest.param({"execution": FLASH, "postCheck": CHECK, "restartPolicy": "OnFailure"}, None, id="a-job"),
        pytest.param({"execution": {**FLASH, "reboot": "Never"}}, None, id="never"),
        pytest.param({"execution": FLASH, "restartPolicy": "Never"}, "go together; write both", id="no-check"),
        pytest.param({"postCheck": CHECK, "restartPolicy": "Never"}, "go together; write both", id="no-reboot"),
        pytest.param({"execution": FLASH, "postCheck": CHECK}, "write restartPolicy: OnFailure", id="a-service"),
    ],
)
async def test_only_a_job_with_a_check_may_reboot_its_device(changed: dict[str, Any], refusal: str | None) -> None:
    _clock, kube = world()
    body = body_of(DEVICE_PROCESSES, "a", spec=SPEC | changed)
    if refusal is None:
        stored = await kube.create(DEVICE_PROCESSES, "lab", body)
        assert stored["spec"]["execution"]["reboot"] == changed["execution"]["reboot"]
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESSES, "lab", body)


EXACTLY_ONE = "write exactly one of exec, httpGet and tcpSocket"
TCP = {"tcpSocket": {"port": 179}}


@pytest.mark.parametrize(
    ("check", "refusal"),
    [
        pytest.param({"exec": CHECK}, None, id="exec"),
        pytest.param({"httpGet": {"port": 80}}, None, id="http-get"),
        pytest.param({"tcpSocket": {"port": 179, "host": "::1"}}, None, id="tcp-socket"),
        pytest.param({}, EXACTLY_ONE, id="none"),
        pytest.param({"exec": CHECK, **TCP}, EXACTLY_ONE, id="exec-and-tcp"),
        pytest.param({"httpGet": {"port": 80}, **TCP}, EXACTLY_ONE, id="http-and-tcp"),
        pytest.param({"exec": CHECK, "httpGet": {"port": 80}}, EXACTLY_ONE, id="exec-and-http"),
        pytest.param({"exec": {"command": ["bin/check"]}}, "starts with an absolute path", id="relative"),
        pytest.param({"tcpSocket": {}}, "port", id="no-port"),
        pytest.param({"tcpSocket": {"port": 65536}}, "65535", id="port-too-large"),
        pytest.param({"tcpSocket": {"port": 80, "host": "[::1]"}}, "host", id="brackets"),
        pytest.param({"httpGet": {"port": 80, "path": "ready"}}, "path", id="relative-path"),
        pytest.param({"httpGet": {"port": 80, "path": "/a b"}}, "path", id="space-in-path"),
        pytest.param({"httpGet": {"port": 80, "scheme": "https"}}, "scheme", id="lower-case-scheme"),
        pytest.param({"httpGet": {"port": 80, "httpHeaders": [{"name": "A:"}]}}, "name", id="header-name"),
        pytest.param({"httpGet": {"port": 80, "httpHeaders": [{"name": "A", "value": "b\r\nC"}]}}, "value", id="value"),
    ],
)  # fmt: skip
async def test_a_health_check_is_one_command_or_one_address(check: dict[str, Any], refusal: str | None) -> None:
    _clock, kube = world()
    body = body_of(DEVICE_PROCESSES, "a", spec=SPEC | {"healthCheck": check})
    if refusal is None:
        stored = (await kube.create(DEVICE_PROCESSES, "lab", body))["spec"]["healthCheck"]
        assert {kind: stored[kind] | fields for kind, fields in check.items()}.items() <= stored.items()
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESSES, "lab", body)


IMAGE = {"type": "oci", "url": "registry.example/app@sha256:" + "a" * 64}


@pytest.mark.parametrize(
    ("container", "refusal"),
    [
        pytest.param({"volumes": [{"hostPath": "/var/lib/app", "mountPath": "/app"}]}, None, id="volume"),
        pytest.param({"devices": [{"hostPath": "/dev/i0", "permissions": "rm"}], "privileged": True}, None, id="node"),
        pytest.param({"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "network": "lab"}, None, id="network"),
        pytest.param({"volumes": [{"hostPath": "app", "mountPath": "/app"}]}, "hostPath", id="relative"),
        pytest.param({"volumes": [{"hostPath": "/a,rw", "mountPath": "/app"}]}, "hostPath", id="comma"),
        pytest.param({"volumes": [{"hostPath": "/a"}]}, "mountPath", id="no-mount-path"),
        pytest.param({"devices": [{"hostPath": "/dev/a", "permissions": "rx"}]}, "permissions", id="permissions"),
        pytest.param({"capabilities": {"add": ["net_admin"]}}, "add", id="lower-case"),
        pytest.param({"network": "container:x"}, "network", id="namespace-of-another"),
        pytest.param(None, "needs execution.backend: container; write both or none", id="another-backend"),
    ],
)  # fmt: skip
async def test_what_a_container_asks_for_is_checked(container: dict[str, Any] | None, refusal: str | None) -> None:
    _clock, kube = world()
    execution: dict[str, Any] = {"backend": "container", "container": container}
    if container is None:
        execution = {"backend": "process", "command": ["run"], "container": {}}
    body = body_of(DEVICE_PROCESSES, "a", spec=SPEC | {"artifact": IMAGE, "execution": execution})
    if refusal is None:
        stored = (await kube.create(DEVICE_PROCESSES, "lab", body))["spec"]["execution"]["container"]
        assert stored.keys() >= (container or {}).keys()
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESSES, "lab", body)


REF = {"name": "settings", "key": "a.b"}


@pytest.mark.parametrize(
    ("files", "refusal"),
    [
        pytest.param([{"path": "é b.conf", "content": ""}, {"path": "/x/a..b"}], "exactly one", id="no-content"),
        pytest.param([{"path": "a", "content": "", "configMapKeyRef": REF}], "exactly one", id="two-sources"),
        pytest.param([{"path": "a", "secretKeyRef": REF, "mode": "0604"}], "for its owner alone", id="open-secret"),
        pytest.param([{"path": "a", "secretKeyRef": REF, "mode": "400"}], None, id="secret"),
        pytest.param([{"path": "a", "configMapKeyRef": REF, "mode": "0644"}], None, id="config-map"),
        pytest.param([{"path": "etc/.a", "content": "x", "mode": "0600", "owner": "app:adm"}], None, id="own"),
        pytest.param([{"path": "/etc/a", "content": "x", "mode": "640", "owner": "0:0"}], None, id="absolute"),
        pytest.param([{"path": "a", "content": "x", "onChange": "Signal", "signal": "SIGUSR1"}], None, id="signal"),
        pytest.param([{"path": "a", "content": "x", "onChange": "None"}], None, id="on-change-none"),
        pytest.param([{"path": "a", "content": "x", "signal": "SIGHUP"}], "signal needs onChange: Signal", id="unsent"),
        pytest.param([{"path": "a", "content": "x", "onChange": "Signal", "signal": "SIGKILL"}], "signal", id="kill"),
        pytest.param([{"path": "..", "content": "x"}], "holds . or ..; write where", id="parent"),
        pytest.param([{"path": "/etc/../a", "content": "x"}], "holds . or ..; write where", id="dots"),
        pytest.param([{"path": "./a", "content": "x"}], "holds . or ..; write where", id="dot"),
        pytest.param([{"path": "a\0b", "content": "x"}], "path", id="nul"),
        pytest.param([{"path": "a//b", "content": "x"}], "path", id="doubled"),
        pytest.param([{"path": "a/", "content": "x"}], "path", id="directory"),
        pytest.param([{"path": "", "content": "x"}], "path", id="empty"),
        pytest.param([{"path": "a", "content": "x"}, {"path": "a", "content": "y"}], "(?i)duplicate", id="twice"),
        pytest.param([{"path": "a", "content": "x", "mode": "4755"}], "mode", id="set-uid"),
        pytest.param([{"path": "a", "content": "x", "mode": "rw"}], "mode", id="words"),
        pytest.param([{"path": "a", "content": "x", "mode": 420}], "mode", id="number"),
        pytest.param([{"path": "a", "content": "x", "owner": "a:b:c"}], "owner", id="owner"),
        pytest.param([{"path": c, "content": "x" * 65536} for c in "ab"], None, id="as-large-as-can-be"),
        pytest.param([{"path": c, "content": "x" * 65537} for c in "ab"], "larger ones into the artifact", id="large"),
        pytest.param([{"path": "a", "content": "x" * 131073}], "content", id="one-large"),
        pytest.param([{"path": f"{n}", "content": ""} for n in range(33)], "files", id="many"),
    ],
)  # fmt: skip
async def test_the_files_of_a_process_are_checked(files: list[dict[str, Any]], refusal: str | None) -> None:
    _clock, kube = world()
    execution = {"backend": "process", "command": ["run"], "files": files}
    body = body_of(DEVICE_PROCESSES, "a", spec=SPEC | {"execution": execution})
    if refusal is None:
        stored = (await kube.create(DEVICE_PROCESSES, "lab", body))["spec"]["execution"]["files"]
        assert stored == [{"onChange": "Restart", **each} for each in files]
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESSES, "lab", body)


PROCESS = {name: part for name, part in SPEC.items() if name != "deviceRef"}
ARM = {"selector": {"matchLabels": {"cpu": "arm64"}}}


@pytest.mark.parametrize(
    ("override", "refusal"),
    [
        pytest.param(ARM | {"artifact": {"url": "/app-arm"}}, None, id="one-field-of-an-artifact"),
        pytest.param(ARM | {"execution": {"args": ["x"]}}, None, id="one-field-of-an-execution"),
        pytest.param(ARM, "an override needs artifact or execution: write", id="neither"),
        pytest.param(ARM | {"execution": {}}, "execution", id="no-field"),
        pytest.param({"execution": {"args": ["x"]}}, "selector", id="no-selector"),
        pytest.param(
            {"selector": {"matchLabels": {}}, "execution": {"args": ["x"]}},
            "may not be empty: write",
            id="every-device",
        ),
        pytest.param(ARM | {"execution": {"backend": "cron"}}, "backend", id="backend"),
        pytest.param(
            ARM | {"execution": {"env": [{"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": "x"}}}]}},
            "fieldPath",
            id="field-path",
        ),
    ],
)
async def test_an_override_names_devices_and_what_differs(override: dict[str, Any], refusal: str | None) -> None:
    _clock, kube = world()
    spec = {"selector": {}, "template": {"spec": PROCESS}, "overrides": [override]}
    body = body_of(DEVICE_PROCESS_DEPLOYMENTS, "a", spec=spec)
    if refusal is None:
        stored = (await kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body))["spec"]["overrides"]
        assert stored == [override]  # nothing is filled in
        return
    with pytest.raises(Invalid, match=refusal):
        await kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body)


async def test_a_watch_replays_selects_and_ends() -> None:
    clock, kube = world()
    start = (await kube.list_page(LEASES, None))["metadata"]["resourceVersion"]
    await kube.create(LEASES, "lab", lease("a", k="v"))
    await kube.create(LEASES, "other", lease("b", k="v"))
    seen: list[tuple[str, int]] = []

    async def watch() -> None:
        async with aclosing(
            kube.watch(LEASES, "lab", resource_version=start, label_selector="k=v", timeout_s=60)
        ) as events:
            async for event in events:
                later = int(event.object["metadata"]["resourceVersion"]) - int(start)
                seen.append((event.type.value, later))

    task = asyncio.create_task(watch())
    await clock.settle()
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"z": "z"}}})
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"k": "other"}}})
    await clock.settle()
    kube.send_bookmarks()
    await clock.advance(61)
    assert task.done()
    assert seen == [("ADDED", 1), ("MODIFIED", 3), ("DELETED", 4), ("BOOKMARK", 4)]
    kube.expire_history()
    with pytest.raises(Gone):
        await anext(kube.watch(LEASES, None, resource_version=start, timeout_s=60))


async def test_a_watch_that_was_silenced_receives_nothing_and_does_not_end() -> None:
    clock, kube = world()
    seen: list[str] = []

    async def watch() -> None:
        async with aclosing(kube.watch(LEASES, "lab", resource_version=str(kube.version), timeout_s=60)) as events:
            seen.extend([event.type.value async for event in events])

    task = asyncio.create_task(watch())
    await clock.settle()
    kube.silence_watches()
    await kube.create(LEASES, "lab", lease("a"))
    kube.end_watches()
    await clock.advance(120)
    assert not task.done()
    assert seen == []
    task.cancel()


async def test_the_version_goes_back_as_after_a_restore() -> None:
    _clock, kube = world()
    before = kube.version
    await kube.create(LEASES, "lab", lease("a"))
    kube.rewind(before)
    assert (await kube.list_page(LEASES, None))["metadata"]["resourceVersion"] == str(before)


async def test_faults_hit_the_requests_that_they_name_of_one_client() -> None:
    _clock, kube = world()
    other = kube.another_client()
    kube.fail_next(Unreachable("cut"), verb="get", resource=LEASES)
    await kube.create(LEASES, "lab", lease("a"))
    await other.get(LEASES, KEY)
    with pytest.raises(Unreachable, match="cut"):
        await kube.get(LEASES, KEY)
    await kube.get(LEASES, KEY)
    kube.hang_next()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kube.get(LEASES, KEY), 0.01)
    kube.unreachable = True
    with pytest.raises(Unreachable):
        await kube.list_page(LEASES, None)
    kube.heal()
    assert other.requests == [Request("get", LEASES, KEY)]
    assert len(kube.objects(LEASES)) == 1
