# SPDX-License-Identifier: Apache-2.0
"""A program that listens: on ports of its own, and ready when it says so on its probe port."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import requests

from e2e.clusters.programs.ports import free_ports
from e2e.stack.errors import StackError
from e2e.stack.program import Program

ATTEMPTS = 4
POLL_S, MAX_POLL_S = 0.05, 1.0
POLLS = 20
"""How often to look in the time that has passed: a program that takes long is asked less often."""
READY_S = 300.0
IN_USE = "address already in use"

Arguments = Callable[[Sequence[int]], Sequence[str]]


class Server:
    """A controller or gateway; the ports that it got stay its own when it is started again.

    *arguments* makes the command line from the ports, of which the last is the probes', number *metrics* the metrics'.
    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        *,
        ports: int,
        metrics: int = -1,
        workdir: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._metrics = metrics
        self._arguments = arguments
        self._count = ports
        self._workdir = workdir
        self._env = env
        self.ports: tuple[int, ...] = ()
        self.program = self._program(free_ports(ports))

    @property
    def probe_url(self) -> str:
        """Where `/healthz` and `/readyz` are."""
        return f"http://127.0.0.1:{self.ports[-1]}"

    @property
    def ready(self) -> bool:
        """Whether `/readyz` says so now."""
        return self.probe("/readyz") == HTTPStatus.OK

    def probe(self, path: str) -> int | None:
        """Return the status that *path* of the probe port answers, or None when nothing does."""
        try:
            return requests.get(self.probe_url + path, timeout=10).status_code
        except requests.RequestException:
            return None

    def metrics(self) -> str:
        """Return what `/metrics` says."""
        return requests.get(f"http://127.0.0.1:{self.ports[self._metrics]}/metrics", timeout=60).text

    def start(self, within_s: float = READY_S) -> None:
        """Start and return when ready; on the first start it tries other ports when its own are in use."""
        for _ in range(ATTEMPTS):
            since = self.program.log.stat().st_size if self.program.log.exists() else 0
            self.program.start()
            if self._became_ready(since, within_s):
                return
            self.program = self._program(free_ports(self._count))
        raise StackError(f"{self.name} found no free port in {ATTEMPTS} attempts")

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Return when `/readyz` says so; StackError with the log when it does not in time."""
        began = time.monotonic()
        while not self.ready:
            waited_s = time.monotonic() - began
            if not self.program.running or waited_s > within_s:
                raise StackError(f"{self.name} is not ready; {self.program.log} ends:\n{self.program.tail()}")
            time.sleep(min(max(POLL_S, waited_s / POLLS), MAX_POLL_S))

    def restart(self, *, kill: bool = False) -> None:
        """End the program, gracefully or not, and start it on the same ports; returns when it is ready."""
        self.program.restart(kill=kill)
        self.wait_ready()

    def _became_ready(self, since: int, within_s: float) -> bool:
        try:
            self.wait_ready(within_s)
        except StackError:
            taken = IN_USE in self.program.tail(since=since).lower()
            self.program.stop()
            if taken:
                return False
            raise
        return True

    def _program(self, ports: tuple[int, ...]) -> Program:
        self.ports = ports
        return Program(self.name, self._arguments(ports), workdir=self._workdir, env=self._env)
