# SPDX-License-Identifier: Apache-2.0
"""Simulated devices: what they do with their specs, and the status that the gateway writes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, mutable

from controller_simulation.stored import LAB, Stored
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.codec import format_time
from praetor_api.kube.runtime.clock import Clock

BAD, KILLER = "bad", "killer"
"""Versions: one that fails, and one that takes its device with it."""
_OBSERVED = ("SpecObserved", "ProcessStarted", "Healthy")


@mutable
class SimulatedDevice:
    """A device: whether it is *alive*, whatever the API shows; a *broken* one fails with every version.

    One that is *held* keeps what it runs: an operator holds updates there. *fetched* are the generations that it
    fetched last, by the uids of its processes.
    """

    alive: bool = True
    broken: bool = False
    held: bool = False
    fetched: dict[str, int] = field(factory=dict)


class SimulatedDevices(dict[str, SimulatedDevice]):
    """The devices by name, and their gateway, which calls *before_report* before it writes a status."""

    def __init__(self, kube: InProcessKube, stored: Stored, clock: Clock, before_report: Callable[[], None]) -> None:
        super().__init__()
        self._kube = kube
        self._stored = stored
        self._clock = clock
        self._before_report = before_report

    async def report(self, *names: str) -> None:
        """Let devices (all of them by default) run what their specs say, and report it."""
        for key, obj in list(self._stored.objects(DEVICE_PROCESSES).items()):
            name = obj["spec"]["deviceRef"]["name"]
            device = self.get(name)
            if device is None or not device.alive or (names and name not in names):
                continue
            device.fetched[obj["metadata"]["uid"]] = obj["metadata"]["generation"]
            version = obj["spec"]["execution"]["command"][0]
            is_new = obj.get("status", {}).get("observedGeneration") != obj["metadata"]["generation"]
            if not device.held and _is_held(obj):
                await self._write(DEVICE_PROCESSES, key, obj, {"UpdateHeld": "False"}, {})
                obj = self._stored.objects(DEVICE_PROCESSES)[key]
            if device.held and is_new:
                conditions = {"AgentConnected": "True", "UpdateHeld": "True"}
                await self._write(DEVICE_PROCESSES, key, obj, conditions, {})
            elif version == KILLER and is_new:
                device.alive = False
            else:
                await self._show(key, obj, good=version != BAD and not device.broken, held=device.held)

    async def reboot(self, name: str) -> None:
        """Let a device reboot: it reports that nothing that it runs is up yet; report() shows that it is again."""
        for key, obj in list(self._stored.objects(DEVICE_PROCESSES).items()):
            if obj["spec"]["deviceRef"]["name"] == name and self[name].alive and obj.get("status", {}).get("phase"):
                down = {"AgentConnected": "True", "ProcessStarted": "False", "Healthy": "False"}
                await self._write(DEVICE_PROCESSES, key, obj, down, {"phase": "Pending"})

    async def detect_failures(self) -> None:
        """Write which devices are connected."""
        for name, each in self.items():
            await self.connect(name, connected=each.alive)

    async def connect(self, name: str, *, connected: bool, reason: str = "") -> None:
        """Write that a device is connected or not, and the *reason* of the gateway."""
        conditions = {"AgentConnected": str(connected)}
        key = Key(LAB, name)
        await self._write(NETWORK_SWITCHES, key, self._stored.objects(NETWORK_SWITCHES)[key], conditions, {}, reason)
        for each, obj in list(self._stored.objects(DEVICE_PROCESSES).items()):
            if obj["spec"]["deviceRef"]["name"] == name and obj.get("status"):
                await self._write(
                    DEVICE_PROCESSES, each, obj, conditions, {"phase": "Running" if connected else "Unknown"}, reason
                )

    async def _show(self, key: Key, obj: dict[str, Any], *, good: bool, held: bool) -> None:
        wanted = dict.fromkeys(_OBSERVED, "True") | {
            "AgentConnected": "True", "Healthy": str(good), "UpdateHeld": str(held),
        }  # fmt: skip
        status = {"phase": "Running" if good else "Failed", "observedGeneration": obj["metadata"]["generation"]}
        await self._write(DEVICE_PROCESSES, key, obj, wanted, status)

    async def _write(
        self,
        resource: Resource,
        key: Key,
        obj: dict[str, Any],
        wanted: dict[str, str],
        status: dict[str, Any],
        reason: str = "",
    ) -> None:
        stored = obj.get("status") or {}
        old = {each["type"]: each for each in stored.get("conditions") or ()}
        if all(old.get(type_, {}).get("status") == value for type_, value in wanted.items()) and (
            status.get("observedGeneration") == stored.get("observedGeneration") or "observedGeneration" not in status
        ):
            return
        for type_, value in wanted.items():
            if old.get(type_, {}).get("status") != value:
                old[type_] = {"type": type_, "status": value, "lastTransitionTime": format_time(self._clock.now())}
                old[type_] |= {"reason": reason} if reason else {}
        if resource == DEVICE_PROCESSES and wanted.get("AgentConnected") == "False":
            fetched = self[obj["spec"]["deviceRef"]["name"]].fetched.get(obj["metadata"]["uid"], 0)
            old["AgentConnected"] |= {"observedGeneration": fetched}
        body = {"status": status | {"conditions": list(old.values())}}
        self._before_report()
        await self._kube.patch(resource, key, body, subresource="status")


def _is_held(obj: dict[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(each["type"] == "UpdateHeld" and each["status"] == "True" for each in conditions)
