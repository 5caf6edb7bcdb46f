# SPDX-License-Identifier: Apache-2.0
"""All simulated devices in one event loop, and a summary line every few seconds."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from praetor_agent.clock import SystemClock
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.simulate.device import SimulatedDevice, SimulatedFleet, SimulateSettings
from praetor_agent.simulate.http import endpoint
from praetor_agent.simulate.statistics import Statistics
from praetor_api.tokens import device_token

DESCRIPTORS_PER_DEVICE = 2
SPARE_DESCRIPTORS = 64


def simulate(settings: SimulateSettings) -> None:
    """Simulate the devices until SIGTERM or SIGINT; AgentError if that is impossible."""
    _allow_descriptors(len(settings.devices))
    asyncio.run(_simulate(settings))


async def _simulate(settings: SimulateSettings) -> None:
    with ExitStack() as stack:
        fleet = _fleet(settings, stack)
        devices = [SimulatedDevice(name, _token(settings, name), fleet) for name in settings.devices]
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(device.run(), name=device.name) for device in devices]
            tasks.append(group.create_task(_summarize(devices, fleet, settings.summary_seconds), name="summary"))
            await stop.wait()
            for task in tasks:
                task.cancel()
        _print(devices, fleet)


def _fleet(settings: SimulateSettings, stack: ExitStack) -> SimulatedFleet:
    on_change: Callable[[str, str, str], None] | None = None
    if settings.changes_file is not None:
        try:
            file = stack.enter_context(settings.changes_file.open("a", encoding="utf-8", buffering=1))
        except OSError as e:
            raise UsageError(f"--changes-file {settings.changes_file} cannot be written: {e.strerror}") from e

        def on_change(device: str, spec_hash: str, at: str) -> None:
            file.write(json.dumps({"device": device, "specHash": spec_hash, "at": at}) + "\n")

    try:
        where = endpoint(settings.gateway, settings.ca_bundle)
    except ssl.SSLError as e:
        raise UsageError(f"--ca-bundle {settings.ca_bundle} holds no certificates: {e}") from e
    return SimulatedFleet(
        settings=settings, endpoint=where, clock=SystemClock(), statistics=Statistics(), on_change=on_change
    )


def _token(settings: SimulateSettings, device: str) -> str | None:
    return device_token(settings.secret, device) if settings.secret is not None else settings.token


async def _summarize(devices: Sequence[SimulatedDevice], fleet: SimulatedFleet, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        _print(devices, fleet)


def _print(devices: Sequence[SimulatedDevice], fleet: SimulatedFleet) -> None:
    connected = sum(device.is_connected for device in devices)
    sys.stdout.write(fleet.statistics.line(len(devices), connected) + "\n")
    sys.stdout.flush()


def _allow_descriptors(devices: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = devices * DESCRIPTORS_PER_DEVICE + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise AgentError(f"--count {devices} needs {needed} open files, {hard} are allowed; raise it with ulimit -n")
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
