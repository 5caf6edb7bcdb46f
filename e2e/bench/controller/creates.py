# SPDX-License-Identifier: Apache-2.0
"""Create COUNT DeviceProcesses at full speed, with the bodies that the controller writes.

`python -m e2e.bench.controller.creates KUBECONFIG NAMESPACE DEPLOYMENT COUNT` prints as JSON how many seconds it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

from e2e.stack.manifests import deployment, process_spec
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_controller.model.actions import Create
from praetor_controller.model.manifests import process_manifest
from praetor_controller.model.projection import project_deployment
from praetor_controller.reconcile.writer import CONCURRENCY, FIELD_MANAGER


async def create(kubeconfig: str, namespace: str, name: str, count: int) -> dict[str, float]:
    """Return how many seconds it took, without what comes before the first and after the last request."""
    manifest = deployment(name, process_spec(["/bin/sleep", "1000"]))
    manifest["metadata"] |= {"namespace": namespace, "uid": "no-owner", "generation": 1}
    row = project_deployment(manifest)
    now = datetime.now(UTC)
    actions = (Create(f"leaf-{n}", f"{name}-leaf-{n}", row.template) for n in range(count))
    bodies = iter([process_manifest(row, action, now) for action in actions])
    async with await KubeClient.from_config(kubeconfig) as client:

        async def work() -> None:
            for body in bodies:
                del body["metadata"]["ownerReferences"]  # no such owner: it would be collected
                await client.create(DEVICE_PROCESSES, namespace, body, field_manager=FIELD_MANAGER)

        began, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for number in range(CONCURRENCY):
                group.create_task(work(), name=f"create {number}")
        return {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    json.dump(asyncio.run(create(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))), sys.stdout)
