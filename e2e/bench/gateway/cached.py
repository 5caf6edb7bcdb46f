# SPDX-License-Identifier: Apache-2.0
"""The memory of a gateway that caches a fleet, has served every device and has heard of it.

`python -m e2e.bench.gateway.cached PROCESSES SWITCHES [SPEC]` prints its resident memory in KiB.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from typing import Any, cast

from prometheus_client import CollectorRegistry

from e2e.bench.gateway.references import NAMESPACE, SPECS, delivered
from e2e.bench.gateway.synthetic_api import SyntheticApi, name_of
from e2e.bench.measure.proc import resident_kib
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.kube.runtime.logs import configure_logs
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER, TOKEN_HEADER, Report, desired_path, report_path
from praetor_api.tokens import device_token
from praetor_api.wire import write
from praetor_gateway.cli import main, read_settings
from praetor_gateway.gateway import Gateway

SYNC_S = 100.0
POLL_S = 0.05
SECRET = "a secret of this benchmark"
FLAGS = (
    f"--device-token-secret={SECRET}",
    "--log-level=error",
    "--lease-namespace=default",
    f"--references-namespace={NAMESPACE}",
    "--tls-terminated",
)
NO_ERROR = 400


async def measure(processes: int, switches: int, spec: str = "plain") -> float:
    """Return the memory, in KiB, after every device has its desired state, and sent a heartbeat."""
    synthetic = SyntheticApi(processes=processes, switches=switches, spec=SPECS[spec], others=delivered())
    api = cast(KubeApi, synthetic)
    settings = read_settings(main.make_context("praetor-gateway", list(FLAGS)).params)
    configure_logs(settings.log_level, settings.log_format)
    gateway = Gateway(api, settings, SystemClock(), CollectorRegistry())
    async with gateway.lifespan():
        async with asyncio.timeout(SYNC_S):
            while not gateway.is_synced():  # noqa: ASYNC110 - the gateway has no event for it
                await asyncio.sleep(POLL_S)
        for number in range(max(processes, switches)):
            served = await _request(gateway, number, "GET", desired_path(name_of(number)))
            if number < processes and b'"spec"' not in served:
                raise RuntimeError(f"not served its process: {served.decode()}")
            await _beat(gateway, number)
            await asyncio.sleep(0)  # as between real requests: the loop drops the timers that ended
        gc.collect()
        return resident_kib(os.getpid())


async def _beat(gateway: Gateway, number: int) -> None:
    report = Report(agent_version="0.1.0", boot_id=f"{number:032x}", seq=1, timestamp="2026-01-01T00:00:00Z")
    await _request(gateway, number, "POST", report_path(name_of(number)), json.dumps(write(report)).encode())


async def _request(gateway: Gateway, number: int, method: str, path: str, body: bytes = b"") -> bytes:
    own = {
        TOKEN_HEADER: device_token(SECRET.encode(), name_of(number)),
        FEATURES_HEADER: ",".join(sorted(AGENT_FEATURES)),
        "Content-Length": str(len(body)),
    }
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in own.items()],
        "query_string": b"",
    }
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status", 200) >= NO_ERROR:
            raise RuntimeError(f"{method} {path} was refused: {message['status']}")
        parts.append(message.get("body", b""))

    await gateway.app(scope, receive, send)
    return b"".join(parts)


if __name__ == "__main__":
    print(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
    sys.stdout.flush()
    os._exit(0)  # skip the cleanup of a large heap; no output is pending
