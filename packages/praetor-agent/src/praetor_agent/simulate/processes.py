# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent simulate`: as many processes as the devices need, and what all of them did together."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from threading import Event
from typing import Any, TextIO
from urllib.parse import urlsplit

from praetor_agent.clock import SystemClock
from praetor_agent.errors import AgentError, UsageError
from praetor_agent.simulate.device import SimulateSettings
from praetor_agent.simulate.disconnections import Disconnections
from praetor_agent.simulate.fleet import STOP_SIGNALS, Shift
from praetor_agent.simulate.sources import Plan, Room, is_loopback, plan, ports_of_a_source
from praetor_agent.simulate.statistics import Census, Receipt, Spread, Tally, as_json, progress, table
from praetor_agent.simulate.statuses import Statuses

MAX_OPEN_FILES = 2**20
"""What is asked for where the hard limit is none at all."""

LOOK_SECONDS = 0.2
TICK_SECONDS = 1.0
"""How often a process says what its devices did, unless summaries come more often."""
END_SECONDS = 20.0
"""How long the processes have to end; a connection is closed without waiting for the other side."""

_fork = multiprocessing.get_context("fork")


def simulate(settings: SimulateSettings) -> None:
    """Simulate the devices until SIGTERM or SIGINT; AgentError if that is impossible, or a process ended by itself."""
    tls = _tls(settings)
    planned = _plan(settings)
    shares = [settings.devices[number :: planned.processes] for number in range(planned.processes)]
    statuses = _statuses(settings)
    stopping = Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as stack:
        summary = Summary(settings, _changes_file(settings, stack), statuses, processes=planned.processes)
        children = stack.enter_context(_running(settings, tls, shares, planned.reporting))
        if statuses is not None:
            statuses.follow()  # only now: a process that is forked has no part in a thread
        while not stopping.is_set():
            summary.take(_received(children, LOOK_SECONDS))
            summary.print_if_due()
            if ended := [child for child in children if not child.is_alive()]:
                if stopping.is_set():  # the signal was sent to all of us
                    break
                raise AgentError(f"a process of the simulator ended with {ended[0].exitcode}")
        for child in children:
            child.terminate()
        deadline = time.monotonic() + END_SECONDS
        while any(not pipe.closed for pipe in children.values()) and time.monotonic() < deadline:
            summary.take(_received(children, LOOK_SECONDS))
        summary.print_last()


class Summary:
    """Adds up what the *processes* say, and prints it; each changed spec is a line of *changes*.

    What the devices did is compared with their *statuses*, if these are followed.
    """

    def __init__(
        self, settings: SimulateSettings, changes: TextIO | None, statuses: Statuses | None, *, processes: int
    ) -> None:
        self._settings = settings
        self._changes = changes
        self._statuses = statuses
        self._processes = processes
        self._disconnections = Disconnections()
        self._clock = SystemClock()
        self._spread = Spread()
        self._censuses: dict[ForkProcess, Census] = {}
        self._all, self._since_last = Tally(), Tally()
        self._began = self._last_at = time.monotonic()

    def take(self, said: Iterator[tuple[ForkProcess, Census, Tally]]) -> None:
        """Take what processes said."""
        for child, census, tally in said:
            self._censuses[child] = census
            self._all.merge(tally)
            self._since_last.merge(tally)
            self._spread.add(tally.receipts)
            self._write(tally.receipts)
            self._disconnections.follow(tally.contacts, ())
        if self._statuses is not None:
            self._disconnections.follow((), self._statuses.take())
        if len(self._censuses) == self._processes:
            self._disconnections.decide(min(census.at for census in self._censuses.values()))

    def print_if_due(self) -> None:
        """Print progress, and with `--output json` what happened since the last time."""
        now = time.monotonic()
        seconds = now - self._last_at
        if seconds < self._settings.summary_seconds:
            return
        census, tally = self._census(), self._since_last
        self._last_at, self._since_last = now, Tally()
        sys.stderr.write(progress(census, tally, seconds, now - self._began) + "\n")
        sys.stderr.flush()
        if self._settings.as_json:
            self._print(json.dumps(self._said(census, tally, seconds)))

    def print_last(self) -> None:
        """Print what happened in all the time."""
        seconds = time.monotonic() - self._began
        last = self._said(self._census(), self._all, seconds)
        self._print(json.dumps({**last, "final": True}) if self._settings.as_json else table(last))

    def _said(self, census: Census, tally: Tally, seconds: float) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = None
        if self._statuses is not None:
            found = {**self._disconnections.as_json(self._clock.now()), "failure": self._statuses.failure}
        return as_json(census, tally, self._spread.histogram(), seconds, found)

    def _census(self) -> Census:
        each = self._censuses.values()
        count = len(self._settings.devices)
        return Census(count, sum(census.connected for census in each), sum(census.silent for census in each))

    def _write(self, receipts: Sequence[Receipt]) -> None:
        if self._changes is None:
            return
        for receipt in receipts:
            line = {"device": receipt.device, "specHash": receipt.spec_hash, "at": receipt.wall}
            self._changes.write(json.dumps(line) + "\n")
        self._changes.flush()

    @staticmethod
    def _print(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


@contextmanager
def _running(
    settings: SimulateSettings, tls: ssl.SSLContext | None, shares: Sequence[Sequence[str]], reporting: int
) -> Iterator[dict[ForkProcess, Connection]]:
    """Run a process for each of *shares* around the block, in which *reporting* devices may report; yield its pipe."""
    every = min(TICK_SECONDS, settings.summary_seconds)
    children: dict[ForkProcess, Connection] = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for devices in shares:
            pipe, end = _fork.Pipe(duplex=False)
            child = _fork.Process(target=_work, args=(settings, tls, devices, every, end, reporting), daemon=True)
            child.start()
            children[child] = pipe
            end.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        yield children
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join(END_SECONDS)
            child.kill()
            child.join()


def _work(
    settings: SimulateSettings,
    tls: ssl.SSLContext | None,
    devices: Sequence[str],
    every: float,
    end: Connection,
    reporting: int,
) -> None:
    Shift(settings, tls, devices, every=every, send=end.send, reporting=reporting).run()


def _received(children: dict[ForkProcess, Connection], seconds: float) -> Iterator[tuple[ForkProcess, Census, Tally]]:
    """Yield what processes say within *seconds*; the pipe of one that ended is closed."""
    pipes = {pipe: child for child, pipe in children.items() if not pipe.closed}
    for ready in wait(list(pipes), seconds):
        assert isinstance(ready, Connection)  # noqa: S101  # nothing else was waited for
        try:
            census, tally = ready.recv()
        except EOFError:
            ready.close()
        else:
            yield pipes[ready], census, tally


def _plan(settings: SimulateSettings) -> Plan:
    """Return how many processes run the devices, and raise the limit of open files for them."""
    gateways = set(settings.gateways)
    on_loopback = all(is_loopback(urlsplit(url).hostname or "") for url in gateways)
    room = Room(
        files=_raise_open_files(),
        ports=ports_of_a_source(),
        gateways=len(gateways),
        sources=len(settings.sources) or (0 if on_loopback else 1),
    )
    count = len(settings.devices)
    planned = plan(count, settings.processes, room)
    if planned.processes > 1:
        limit = f"{room.files} open files" if planned.most == room.by_files else f"{room.ports} ports of an address"
        sys.stderr.write(f"{count} devices in {planned.processes} processes; {limit} allow {planned.most} in each\n")
    return planned


def _statuses(settings: SimulateSettings) -> Statuses | None:
    if settings.api is None:
        return None
    statuses = Statuses(settings.api, settings.namespace, settings.devices, SystemClock())
    statuses.begin()
    return statuses


def _raise_open_files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def _tls(settings: SimulateSettings) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in settings.gateways):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_bundle)
    except ssl.SSLError as e:
        raise UsageError(f"--ca-bundle {settings.ca_bundle} holds no certificates: {e}") from e


def _changes_file(settings: SimulateSettings, stack: ExitStack) -> TextIO | None:
    if settings.changes_file is None:
        return None
    try:
        return stack.enter_context(settings.changes_file.open("a", encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"--changes-file {settings.changes_file} cannot be written: {e.strerror}") from e
