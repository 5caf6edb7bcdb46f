"""`python -m e2e.bench.watching KUBECONFIG NAMESPACE OUTPUT`: note when a watch tells of each generation.

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

from praetor_api.kube.client import KubeClient
from praetor_api.kube.resource import DEVICE_PROCESSES

TIMEOUT_S = 300


async def watch(kubeconfig: Path, namespace: str, output: Path) -> None:
    """Write lines until the watch ends or a signal ends us."""
    async with await KubeClient.from_config(str(kubeconfig)) as client:
        page = await client.list_page(DEVICE_PROCESSES, namespace, limit=1)
        version = page["metadata"]["resourceVersion"]
        events = client.watch(DEVICE_PROCESSES, namespace, resource_version=version, timeout_s=TIMEOUT_S)
        with output.open("w", buffering=1, encoding="utf-8") as file:
            file.write("{}\n")
            async with aclosing(events):
                async for event in events:
                    at, metadata = time.monotonic(), event.object["metadata"]
                    seen = {"name": metadata.get("name"), "generation": metadata.get("generation"), "at": at}
                    file.write(json.dumps(seen) + "\n")
    raise SystemExit("the watch ended")


if __name__ == "__main__":
    asyncio.run(watch(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
