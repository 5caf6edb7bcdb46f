# SPDX-License-Identifier: Apache-2.0
"""A KubeApi that makes a fleet's objects when they are listed, and keeps none of them.

So a gateway of any size is measured without an apiserver of that size beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from attrs import frozen

from e2e.stack.manifests import device_process, network_switch
from praetor_api.canonical import spec_hash
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.api import PatchType, WatchEvent
from praetor_api.kube.client.errors import NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.codec import format_time

START = datetime(2026, 1, 1, tzinfo=UTC)
ROLLOUT_S = 1_000
SPEC = {
    "artifact": {
        "type": "oci",
        "url": "registry.example.com/network/agent@sha256:" + 64 * "a",
        "checksumSHA256": 64 * "a",
    },
    "execution": {
        "backend": "systemd",
        "command": ["/usr/bin/agent"],
        "args": ["--config=/etc/agent/config.yaml", "--log-level=info"],
        "env": [{"name": "REGION", "value": "eu-1"}, {"name": "ROLE", "value": "leaf"}],
        "user": "agent",
    },
    "restartPolicy": "Always",
    "healthCheck": {"exec": {"command": ["/usr/bin/agent", "--check"]}, "periodSeconds": 30},
}
CONDITIONS = (
    ConditionType.AGENT_CONNECTED,
    ConditionType.SPEC_OBSERVED,
    ConditionType.ARTIFACT_DOWNLOADED,
    ConditionType.ARTIFACT_VERIFIED,
    ConditionType.PROCESS_STARTED,
    ConditionType.HEALTHY,
)


@frozen(kw_only=True)
class SyntheticApi:
    """Serve *processes* DeviceProcesses, each on a device of its own, and *switches* NetworkSwitches; drop writes.

    All processes have the *spec*; *others* are the objects of other kinds.
    """

    processes: int
    switches: int
    spec: Mapping[str, Any] = SPEC
    others: Mapping[Resource, Sequence[Mapping[str, Any]]] = {}

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return the page that begins with the number in the token."""
        first = int(continue_token or 0)
        made: dict[Resource, tuple[Callable[[int], Any], int]] = {
            DEVICE_PROCESSES: (partial(process, self.spec), self.processes),
            NETWORK_SWITCHES: (switch, self.switches),
        }
        others = self.others.get(resource, ())
        make, count = made.get(resource, (others.__getitem__, len(others)))
        last = min(first + limit, count)
        await asyncio.sleep(0)
        metadata = {"resourceVersion": "1000000", "continue": str(last) if last < count else ""}
        return {"items": [make(number) for number in range(first, last)], "metadata": metadata}

    async def watch(
        self, resource: Resource, namespace: str | None, *, on_open: Callable[[], None] | None = None, **_: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        """Report nothing, until cancelled."""
        if on_open is not None:
            on_open()
        await asyncio.Event().wait()
        yield  # type: ignore[misc]  # never reached: it makes this a generator

    async def get(self, resource: Resource, key: Key) -> dict[str, Any]:
        """Raise NotFound: objects are only listed."""
        raise NotFound(404, "NotFound", f"{key} is not there")

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Accept it."""
        return {**body, "metadata": {**body["metadata"], "uid": "made", "resourceVersion": "1"}}

    async def patch(
        self, resource: Resource, key: Key, body: Any, *, patch_type: PatchType = PatchType.MERGE, **_: Any
    ) -> dict[str, Any]:
        """Raise NotFound: listed objects do not change."""
        raise NotFound(404, "NotFound", f"{key} is not there")

    async def delete(self, resource: Resource, key: Key, **_: Any) -> None:
        """Accept it."""


def name_of(number: int) -> str:
    """Return the name of a device."""
    return f"leaf-{number}.rack-{number // 32}.dc-1"


def process(spec: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a process that runs and is healthy, as it is stored."""
    name = name_of(number)
    body = device_process(f"agent-{name}", name, dict(spec))
    at = format_time(START + timedelta(seconds=number % ROLLOUT_S))
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": f"{kind}Reported",
            "message": "",
            "lastTransitionTime": at,
            "observedGeneration": 1,
        }
        for kind in CONDITIONS
    ]
    status = {
        "phase": "Running",
        "observedGeneration": 1,
        "observedSpecHash": spec_hash(body["spec"]),
        "artifactDigest": "sha256:" + 64 * "a",
        "pid": 1000 + number,
        "startTime": at,
        "restartCount": 0,
        "conditions": conditions,
    }
    return {**body, "metadata": _metadata(body, number, "p"), "status": status}


def switch(number: int) -> dict[str, Any]:
    """Return a connected switch, as it is stored."""
    name = name_of(number)
    body = network_switch(name, {"site": f"dc-{number % 20}"}, model="S5248F", serialNumber=f"SN{number:08}")
    at = format_time(START + timedelta(seconds=number % ROLLOUT_S))
    connected = {
        "type": ConditionType.AGENT_CONNECTED,
        "status": "True",
        "reason": "HeartbeatReceived",
        "message": "",
        "lastTransitionTime": at,
        "observedGeneration": 1,
    }
    status = {
        "conditions": [connected],
        "agentVersion": "0.1.0",
        "bootID": f"{number:032x}",
        "facts": {"os": "linux", "kernel": "6.1.0", "arch": "x86_64", "hostname": name},
    }
    return {**body, "metadata": _metadata(body, number, "s"), "status": status}


def _metadata(body: Mapping[str, Any], number: int, kind: str) -> dict[str, Any]:
    own = {
        "namespace": "default",
        "uid": f"{kind}{number:07}-5d1f-4a4e-9b5e-0123456789ab",
        "resourceVersion": str(number + 1),
        "generation": 1,
        "creationTimestamp": format_time(START),
    }
    return {**body["metadata"], **own}
