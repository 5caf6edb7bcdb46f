# SPDX-License-Identifier: Apache-2.0
"""`python -m e2e.bench.gateway.watching KUBECONFIG NAMESPACE OUTPUT`: record when a watch delivers each generation.

A line `{name, generation, at}` for each event, *at* in monotonic seconds of this machine; `{}` once it is watching.
It is a process and a connection of its own, so that the gateway's own delay is not taken for the apiserver's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing
from pathlib import Path

from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import DEVICE_PROCESSES

TIMEOUT_S = 300
REPLAY_S = 1.0


async def watch(kubeconfig: Path, namespace: str, output: Path) -> None:
    """Write lines until a signal ends the process. *at* is null for what may have happened while no watch was open."""
    async with await KubeClient.from_config(str(kubeconfig)) as client:
        page = await client.list_page(DEVICE_PROCESSES, namespace, limit=1)
        version, opened = page["metadata"]["resourceVersion"], -REPLAY_S
        with output.open("w", buffering=1, encoding="utf-8") as file:
            file.write("{}\n")
            while True:
                events = client.watch(DEVICE_PROCESSES, namespace, resource_version=version, timeout_s=TIMEOUT_S)
                async with aclosing(events):
                    async for event in events:
                        now, metadata = time.monotonic(), event.object["metadata"]
                        version = metadata["resourceVersion"]
                        at = now if now - opened >= REPLAY_S else None
                        seen = {"name": metadata.get("name"), "generation": metadata.get("generation"), "at": at}
                        file.write(json.dumps(seen) + "\n")
                opened = time.monotonic()  # the apiserver ends the watches of slow readers


if __name__ == "__main__":
    asyncio.run(watch(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
