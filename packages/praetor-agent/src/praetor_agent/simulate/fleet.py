# SPDX-License-Identifier: Apache-2.0
"""The simulated devices of one process, in one event loop, and what they did, for the process that started it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
from collections.abc import Callable, Sequence
from importlib import import_module

from praetor_agent.clock import SystemClock
from praetor_agent.simulate.device import SimulatedDevice, SimulatedFleet, SimulateSettings
from praetor_agent.simulate.http import Link, endpoint
from praetor_agent.simulate.statistics import Census, Tally
from praetor_api.tokens import device_token

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Send = Callable[[tuple[Census, Tally]], None]


class Shift:
    """The *devices* of this process; *send* gets what they did every *every* seconds and at the end.

    At most *reporting* devices report at a time.
    """

    def __init__(
        self,
        settings: SimulateSettings,
        tls: ssl.SSLContext | None,
        devices: Sequence[str],
        *,
        every: float,
        send: Send,
        reporting: int,
    ) -> None:
        endpoints = [endpoint(url, tls) for url in settings.gateways]
        link = Link(endpoints=endpoints, sources=settings.sources, lag=settings.lag, loss=settings.loss)
        self._tally = Tally()
        self._settings = settings
        self._every = every
        self._send = send
        self._clock = SystemClock()
        fleet = SimulatedFleet(
            settings=settings,
            link=link,
            clock=self._clock,
            tally=lambda: self._tally,
            most_reporting=reporting,
            crowded=len(devices) > 4 * reporting,
        )
        self._devices = [
            SimulatedDevice(name, _token(settings, name), fleet, number) for number, name in enumerate(devices)
        ]

    def run(self) -> None:
        """Simulate until a signal of STOP_SIGNALS, or until the process that started this one is gone.

        The signals are blocked by the caller until they are heeded here.
        """
        gc.set_threshold(50_000, 20, 20)
        gc.collect()
        gc.freeze()  # the devices stay: to visit them again and again would be half of the work
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._run(os.getppid()))

    async def _run(self, parent: int) -> None:
        stop = asyncio.Event()
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(device.run(), name=device.name) for device in self._devices]
            tasks.append(group.create_task(self._follow(parent, stop), name="summary"))
            if self._settings.reconnect_seconds:
                tasks.append(group.create_task(self._reconnect(), name="reconnect"))
            await stop.wait()
            self._report()
            for task in tasks:
                task.cancel()

    async def _follow(self, parent: int, stop: asyncio.Event) -> None:
        while os.getppid() == parent:
            await asyncio.sleep(self._every)
            self._report()
        stop.set()

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._settings.reconnect_seconds)
            for device in self._devices:
                device.hang_up()

    def _report(self) -> None:
        tally, self._tally = self._tally, Tally()
        now = self._clock.now()
        if self._settings.api is not None:
            tally.contacts = [found for each in self._devices if (found := each.contact(now)) is not None]
        connected = sum(device.is_connected for device in self._devices)
        silent = sum(device.silent for device in self._devices)
        self._send((Census(len(self._devices), connected, silent, now), tally))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's where it is installed; the agent does not depend on it."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def _token(settings: SimulateSettings, device: str) -> str | None:
    return device_token(settings.secret, device) if settings.secret is not None else settings.token
