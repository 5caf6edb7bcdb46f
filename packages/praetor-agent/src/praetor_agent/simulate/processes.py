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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from threading import Event
from typing import TextIO

from praetor_agent.errors import AgentError, UsageError
from praetor_agent.simulate.device import SimulateSettings
from praetor_agent.simulate.fleet import STOP_SIGNALS, Shift
from praetor_agent.simulate.statistics import Census, Receipt, Spread, Tally, as_json, progress, table

REPORTING_SHARE = 10
"""A tenth of the open files is for reports: a device polls on one connection, and reports on another for a moment."""
SPARE_DESCRIPTORS = 64
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
    shares = _shares(settings)
    stopping = Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as stack:
        summary = Summary(settings, _changes_file(settings, stack))
        children = stack.enter_context(_running(settings, tls, shares))
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
    """Adds up what the processes say, and prints it; each changed spec is a line of *changes*."""

    def __init__(self, settings: SimulateSettings, changes: TextIO | None) -> None:
        self._settings = settings
        self._changes = changes
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
            self._print(json.dumps(as_json(census, tally, self._spread.histogram(), seconds)))

    def print_last(self) -> None:
        """Print what happened in all the time."""
        seconds = time.monotonic() - self._began
        last = as_json(self._census(), self._all, self._spread.histogram(), seconds)
        self._print(json.dumps({**last, "final": True}) if self._settings.as_json else table(last))

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
    settings: SimulateSettings, tls: ssl.SSLContext | None, shares: Sequence[Sequence[str]]
) -> Iterator[dict[ForkProcess, Connection]]:
    """Run a process for each of *shares* around the block; yield the pipe of each."""
    every = min(TICK_SECONDS, settings.summary_seconds)
    children: dict[ForkProcess, Connection] = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        for devices in shares:
            pipe, end = _fork.Pipe(duplex=False)
            child = _fork.Process(target=_work, args=(settings, tls, devices, every, end), daemon=True)
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
    settings: SimulateSettings, tls: ssl.SSLContext | None, devices: Sequence[str], every: float, end: Connection
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    Shift(settings, tls, devices, every=every, send=end.send, reporting=limit // REPORTING_SHARE).run()


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


def _shares(settings: SimulateSettings) -> Sequence[Sequence[str]]:
    """Return the devices of each process, and raise the limit of open files for them."""
    count, limit = len(settings.devices), _raise_open_files()
    most = limit * (REPORTING_SHARE - 1) // REPORTING_SHARE - SPARE_DESCRIPTORS
    if most < 1:
        raise AgentError(f"{limit} open files are not enough for a device; raise it with ulimit -n")
    needed = -(-count // most)
    processes = settings.processes or needed
    if processes < needed:
        raise AgentError(
            f"--processes {processes} are too few for {count} devices: each may open {limit} files, enough for {most} "
            f"devices; give --processes {needed}, or raise the limit with ulimit -n"
        )
    if processes > 1:
        sys.stderr.write(f"{count} devices in {processes} processes; {limit} open files allow {most} in each\n")
    return [settings.devices[number::processes] for number in range(min(processes, count))]


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
