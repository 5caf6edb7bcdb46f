# SPDX-License-Identifier: Apache-2.0
"""Many simulated devices in a namespace: declared one by one, run by one program or a few."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import count

from e2e.clusters.api.credentials import write_secret
from e2e.stack.errors import Refused
from e2e.stack.kube import SWITCHES, Kube, condition
from e2e.stack.manifests import network_switch
from e2e.stack.program import Program
from e2e.stack.stack import Stack, environment, script
from e2e.stack.waiting import eventually

SPLAY_S = 1


class SimulatedFleet:
    """Switches with unique names, and the programs that simulate them."""

    def __init__(self, stack: Stack, kube: Kube) -> None:
        self.labels: dict[str, Mapping[str, str]] = {}
        self._stack = stack
        self._kube = kube
        self._workdir = stack.workdir / "simulated" / kube.namespace
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._secret_file = write_secret(self._workdir / "secret", stack.secret.encode())
        self._programs: list[Program] = []
        self._numbers = count(1)

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that were declared, by name."""
        return tuple(sorted(self.labels))

    def declare(self, number: int, labels: Callable[[int], Mapping[str, str]] = lambda _: {}) -> tuple[str, ...]:
        """Make *number* switches with *labels* of their numbers, and return their names."""
        made = [self._declare(index, labels(index)) for index in range(number)]
        return tuple(made)

    def power_on(self, devices: Sequence[str], *flags: str, variables: Mapping[str, str] | None = None) -> Program:
        """Run *devices* as one program with further *flags* of `praetor-agent simulate`; returns at once.

        *variables* are further ones in its environment.
        """
        name = f"devices-{len(self._programs)}"
        file = self._workdir / name
        file.write_text("\n".join(devices))
        settings = {
            "gateway": self._stack.gateway_url,
            "devices-file": file,
            "token-secret-file": self._secret_file,
            "start-splay": SPLAY_S,
        }
        argv = [
            script("praetor-agent", self._stack.settings.release),
            "simulate",
            *(f"--{key}={value}" for key, value in settings.items()),
            *flags,
        ]
        program = Program(name, argv, workdir=self._workdir, env=environment() | dict(variables or {}))
        self._programs.append(program)
        program.start()
        return program

    def add(
        self, number: int, *flags: str, labels: Callable[[int], Mapping[str, str]] = lambda _: {}
    ) -> tuple[str, ...]:
        """Declare *number* devices, run them, and return their names once all are connected."""
        devices = self.declare(number, labels)
        self.power_on(devices, *flags)
        self.await_connected(devices)
        return devices

    def await_connected(self, devices: Iterable[str], status: str = "True") -> None:
        """Return when AgentConnected of all *devices* is *status*."""
        wanted = set(devices)

        def others() -> list[str]:
            found = {item["metadata"]["name"]: condition(item, "AgentConnected") for item in self._kube.list(SWITCHES)}
            return sorted(device for device in wanted if found.get(device) != status)

        eventually(others, lambda left: not left, what=f"AgentConnected of all devices is {status}", within_s=300)

    def close(self) -> None:
        """Delete the devices, then end the programs."""
        self._kube.delete_devices()
        for program in self._programs:
            program.begin_stop()
        for program in self._programs:
            program.stop()

    def _declare(self, index: int, labels: Mapping[str, str]) -> str:
        name = f"{self._kube.namespace}-{next(self._numbers):04}"
        answer = self._kube.api.post(self._kube.path(SWITCHES), network_switch(name, labels))
        if answer.status != HTTPStatus.CREATED:
            raise Refused(f"cannot declare {name}: {answer.status} {answer.message}")
        self.labels[name] = labels
        return name
