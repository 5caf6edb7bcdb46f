# SPDX-License-Identifier: Apache-2.0
"""What a fleet costs a gateway, counted in bytes of its objects: a hundred thousand devices are to fit in one."""

from __future__ import annotations

import gc
import sys
from datetime import UTC, datetime, timedelta
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway_testing import GatewayLab, process_object, running_lab
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.kube.codec import format_time
from praetor_gateway.gateway import Gateway
from praetor_gateway.http.connection import ConnectionLimits
from praetor_gateway.http.uvicorn import UvicornServer

MOST_BYTES = 2_048
FEW, MANY = 150, 300
"""Both fill the tables of a dictionary to the same share."""
ALIGNED = 16
"""Bytes of which an allocation takes a multiple."""
AT_ONCE = 40
"""Processes whose statuses change within one second: the gateway writes 50 a second."""
START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = (
    ConditionType.AGENT_CONNECTED,
    ConditionType.SPEC_OBSERVED,
    ConditionType.ARTIFACT_DOWNLOADED,
    ConditionType.ARTIFACT_VERIFIED,
    ConditionType.PROCESS_STARTED,
    ConditionType.HEALTHY,
)
SPEC: dict[str, Any] = {
    "artifact": {"type": "oci", "url": "registry.example.com/network/agent@sha256:" + 64 * "a"},
    "execution": {
        "backend": "systemd",
        "command": ["/usr/bin/agent"],
        "args": ["--config=/etc/agent/config.yaml", "--log-level=info"],
        "env": [{"name": "REGION", "value": "eu-1"}, {"name": "ROLE", "value": "leaf"}],
    },
    "healthCheck": {"exec": {"command": ["/usr/bin/agent", "--check"]}, "periodSeconds": 30},
}

_CODE = (type, ModuleType, FunctionType, MethodType, BuiltinMethodType)


def name_of(number: int) -> str:
    return f"leaf-{number}.rack-{number // 32}.dc-1"


def boot_of(number: int) -> str:
    return f"{number:032x}"


def status_of(number: int) -> dict[str, Any]:
    at = format_time(START + timedelta(seconds=number // AT_ONCE))
    said = {"status": "True", "message": "", "lastTransitionTime": at, "observedGeneration": 1}
    return {
        "phase": "Running",
        "observedGeneration": 1,
        "observedSpecHash": f"sha256:{number:064x}",
        "artifactDigest": "sha256:" + 64 * "a",
        "pid": 1000 + number,
        "startTime": at,
        "restartCount": 0,
        "conditions": [{"type": kind, "reason": f"{kind}Reported", **said} for kind in KINDS],
        "reported": {"bootID": boot_of(number), "revision": 1000 + number},
    }


async def used(devices: int) -> int:
    """Return the bytes that a gateway keeps that knows *devices*, each with a process, and has heard them all."""
    async with running_lab() as lab:
        for number in range(devices):
            await lab.kube.create(DEVICE_PROCESSES, "lab", process_object(name_of(number), **SPEC))
        for number in range(devices):  # so that each process is read in two versions
            key = Key("lab", f"agent-{name_of(number)}")
            await lab.kube.patch(DEVICE_PROCESSES, key, {"status": status_of(number)}, subresource="status")
        await lab.clock.settle()
        for number in range(devices):
            await beat(lab, number)
        await lab.clock.settle()
        assert lab.value("devices") == lab.value("devices_connected") == devices
        return bytes_of(lab.gateway)


async def beat(lab: GatewayLab, number: int) -> None:
    body = {"agentVersion": "1.0.0", "bootID": boot_of(number), "seq": 300 + number, "heartbeat": True}
    answer = await lab.client.post(f"/v1/devices/{name_of(number)}/report", body)
    assert answer.status == 200


def bytes_of(gateway: Gateway) -> int:
    """Return the bytes of all objects that *gateway* keeps of devices, but not of what works on them."""
    gc.collect()
    stores = [informer._store for informer in gateway._informers]
    left: list[Any] = [gateway._fleet, gateway._liveness, gateway._writer._projection, *stores]
    found, seen = 0, {id(gateway), id(gateway._clock), id(gateway._elector), id(gateway._pending)}
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, _CODE):
            continue
        seen.add(id(each))
        found += -(-sys.getsizeof(each) // ALIGNED) * ALIGNED
        left += gc.get_referents(each)
    return found


@pytest.mark.timeout(120)
async def test_a_device_and_its_process_take_at_most_2_kib() -> None:
    each = (await used(MANY) - await used(FEW)) / (MANY - FEW)
    assert each <= MOST_BYTES


async def test_connections_share_the_keys_of_their_attributes() -> None:
    """A dictionary of its own takes 1.5 KiB of the 8 that a connection takes."""
    server = UvicornServer(nothing, ConnectionLimits())
    connections = [server.protocol() for _ in range(3)]
    assert max(sys.getsizeof(vars(each)) for each in connections) < 600


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError
