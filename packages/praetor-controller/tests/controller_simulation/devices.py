"""Pretend devices: what they do with what they shall run, and what the gateway says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import mutable

from controller_simulation.stored import LAB, Stored
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key, Resource
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.times import time

BAD, KILLER = "bad", "killer"
"""Versions: one that fails, and one that takes its device with it."""
_OBSERVED = ("SpecObserved", "ProcessStarted", "Healthy")


@mutable
class Pretend:
    """A device: *alive* in truth, whatever the API says; a *broken* one fails with every version.

    One that is *held* goes on with what it has, for somebody there said so.
    """

    alive: bool = True
    broken: bool = False
    held: bool = False


class Devices(dict[str, Pretend]):
    """The devices that there are, by name, and the gateway that speaks for them, after *before_news*."""

    def __init__(self, kube: InProcessKube, stored: Stored, clock: Clock, before_news: Callable[[], None]) -> None:
        super().__init__()
        self._kube = kube
        self._stored = stored
        self._clock = clock
        self._before_news = before_news

    async def report(self, *names: str) -> None:
        """Let devices (all of them by default) run what they shall, and say so."""
        for key, obj in list(self._stored.objects(DEVICE_PROCESSES).items()):
            device = obj["spec"]["deviceRef"]["name"]
            pretend = self.get(device)
            if pretend is None or not pretend.alive or (names and device not in names):
                continue
            version = obj["spec"]["execution"]["command"][0]
            is_new = obj.get("status", {}).get("observedGeneration") != obj["metadata"]["generation"]
            if not pretend.held and _is_held(obj):
                await self._say(DEVICE_PROCESSES, key, obj, {"UpdateHeld": "False"}, {})
                obj = self._stored.objects(DEVICE_PROCESSES)[key]
            if pretend.held and is_new:
                said = {"AgentConnected": "True", "UpdateHeld": "True"}
                await self._say(DEVICE_PROCESSES, key, obj, said, {})
            elif version == KILLER and is_new:
                pretend.alive = False
            else:
                await self._show(key, obj, good=version != BAD and not pretend.broken, held=pretend.held)

    async def notice(self) -> None:
        """Tell who is alive."""
        for name, each in self.items():
            await self.connect(name, connected=each.alive)

    async def connect(self, name: str, *, connected: bool) -> None:
        said = {"AgentConnected": str(connected)}
        key = Key(LAB, name)
        await self._say(NETWORK_SWITCHES, key, self._stored.objects(NETWORK_SWITCHES)[key], said, {})
        for each, obj in list(self._stored.objects(DEVICE_PROCESSES).items()):
            if obj["spec"]["deviceRef"]["name"] == name and obj.get("status"):
                await self._say(DEVICE_PROCESSES, each, obj, said, {"phase": "Running" if connected else "Unknown"})

    async def _show(self, key: Key, obj: dict[str, Any], *, good: bool, held: bool) -> None:
        wanted = dict.fromkeys(_OBSERVED, "True") | {
            "AgentConnected": "True", "Healthy": str(good), "UpdateHeld": str(held),
        }  # fmt: skip
        status = {"phase": "Running" if good else "Failed", "observedGeneration": obj["metadata"]["generation"]}
        await self._say(DEVICE_PROCESSES, key, obj, wanted, status)

    async def _say(
        self, resource: Resource, key: Key, obj: dict[str, Any], wanted: dict[str, str], status: dict[str, Any]
    ) -> None:
        told = obj.get("status") or {}
        old = {each["type"]: each for each in told.get("conditions") or ()}
        if all(old.get(type_, {}).get("status") == value for type_, value in wanted.items()) and (
            status.get("observedGeneration") == told.get("observedGeneration") or "observedGeneration" not in status
        ):
            return
        for type_, value in wanted.items():
            if old.get(type_, {}).get("status") != value:
                old[type_] = {"type": type_, "status": value, "lastTransitionTime": time(self._clock.now())}
        body = {"status": status | {"conditions": list(old.values())}}
        self._before_news()
        await self._kube.patch(resource, key, body, subresource="status")


def _is_held(obj: dict[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(each["type"] == "UpdateHeld" and each["status"] == "True" for each in conditions)
