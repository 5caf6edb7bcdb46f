# SPDX-License-Identifier: Apache-2.0
"""To which namespace each contested device name belongs; names that nothing contests are not kept."""

from __future__ import annotations

from collections.abc import Callable

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_gateway.fleet.devices import Binding, DeviceIndex
from praetor_gateway.status.shared_data import Data, SharedData


def shared_bindings(api: KubeApi, key: Key, fleet: DeviceIndex, clock: Clock, leads: Callable[[], bool]) -> SharedData:
    """Return what follows the ConfigMap *key* into the bindings of *fleet*, and writes them to it while *leads*."""

    def take(before: Data, new: Data) -> None:
        changed = {name: new.get(name, "") for name, _ in before.items() ^ new.items()}
        fleet.rebind({name: Binding.parse(text) if text else None for name, text in changed.items()})

    return SharedData("the bindings of device names", api, key, clock, leads, lambda _: names(fleet), take)


def names(fleet: DeviceIndex) -> Data:
    """Return the bindings that are in effect, as they are stored."""
    return {name: str(binding) for name, binding in fleet.bindings.items()}
