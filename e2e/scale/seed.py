# SPDX-License-Identifier: Apache-2.0
"""A large fleet at once: what the programs stored for one device is copied in etcd for all others.

The apiserver and the controller would take ten minutes for 100,000 devices, which is not what is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from uuid import uuid4

from e2e.bench.measure.fleet import GROUP
from e2e.clusters.envtest import Envtest
from praetor_agent.simulate.device import boot_id_of
from praetor_api.canonical import spec_hash

PREFIX = "/registry/azure.com"


def copy_device(cluster: Envtest, prototype: str, names: Sequence[str], groups: int, up_since: str) -> None:
    """Copy the objects of the device *prototype* for each of *names*; by the label GROUP they are in *groups*.

    All booted at *up_since*: the statuses are those that a fleet has which was only away for a moment.
    """
    stored = {key: value for key, value in cluster.stored(PREFIX).items() if prototype in key}
    if len(stored) != 2:
        raise ValueError(f"{prototype} has the objects {', '.join(stored) or 'none'}, not a switch and a process")
    # it reads all at once when it starts, which takes seconds; to follow so many changes takes it minutes
    cluster.stop_apiserver()
    cluster.store(_copies(stored, prototype, names, groups, up_since))
    cluster.start_apiserver()


def _copies(
    stored: Mapping[str, str], prototype: str, names: Sequence[str], groups: int, up_since: str
) -> Iterator[tuple[str, str]]:
    boot_id = boot_id_of(prototype, up_since)
    for key, value in stored.items():
        uid = json.loads(value)["metadata"]["uid"]
        for number, name in enumerate(names, start=1):  # the prototype is number 0
            copied = value.replace(uid, str(uuid4())).replace(boot_id, boot_id_of(name, up_since))
            item = json.loads(copied.replace(prototype, name))
            del item["metadata"]["managedFields"]  # half of what an object takes in an apiserver's memory
            if "deviceRef" in item["spec"]:
                item["status"]["observedSpecHash"] = spec_hash(item["spec"])
            else:
                item["metadata"]["labels"] = {GROUP: str(number % groups)}
            yield key.replace(prototype, name), json.dumps(item)
