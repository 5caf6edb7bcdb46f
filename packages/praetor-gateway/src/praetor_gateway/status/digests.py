# SPDX-License-Identifier: Apache-2.0
"""Digests of what ConfigMaps and Secrets hold, for the controller, which may not read them.

A file with onChange: Restart gets the content that was approved with its version alone: the controller sees here that
it changed, and rolls the new digest out. By namespace the data are JSON: digests by their sources as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import Key
from praetor_api.kube.delivered import published_digests
from praetor_api.kube.runtime.clock import Clock
from praetor_gateway.fleet.references import ReferenceStore
from praetor_gateway.status.shared_data import Data, SharedData


def shared_digests(
    api: KubeApi, key: Key, store: ReferenceStore, clock: Clock, leads: Callable[[], bool]
) -> SharedData:
    """Return what writes the digests of *store* to the ConfigMap *key* while *leads*."""

    def wanted(stored: Data) -> Data:
        found = dict(stored)
        for namespace in store.namespaces:
            if store.knows(namespace):  # else another replica may know more
                digests = store.digests(namespace, published_digests(stored.get(namespace)))
                found[namespace] = json.dumps(digests, sort_keys=True, separators=(",", ":"))
        return found

    return SharedData("the digests of files", api, key, clock, leads, wanted)
