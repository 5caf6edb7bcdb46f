"""Runs health probes beside the loop, which never waits for one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from praetor_agent.errors import StartError
from praetor_agent.identity import identity_of
from praetor_agent.launch import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    handle: str
    process: subprocess.Popen[bytes]
    deadline: float
    timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a probe of the instance *handle* ended; *problem* is None for a success."""

    handle: str
    problem: str | None


class Prober:
    """At most one probe at a time for each process, each in a process group of its own."""

    def __init__(self) -> None:
        self._probes: dict[str, _Running] = {}

    def start(self, uid: str, handle: str, probe: Probe, now: float) -> str | None:
        """Start a probe unless one runs; return why it cannot be started, if so."""
        if uid in self._probes:
            return None
        try:
            identity = identity_of(probe.user)
            process = subprocess.Popen(
                probe.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(probe.env),
                cwd=probe.working_dir,
                start_new_session=True,
                user=identity.uid if identity else None,
                group=identity.gid if identity else None,
                extra_groups=identity.groups if identity else None,
            )
        except (OSError, ValueError, StartError) as e:
            return f"cannot execute {probe.argv[0]!r}: {e}"
        self._probes[uid] = _Running(
            handle=handle, process=process, deadline=now + probe.timeout_seconds, timeout=probe.timeout_seconds
        )
        return None

    def results(self, now: float) -> Mapping[str, Result]:
        """Return by uid the probes that ended since; one that took too long is ended, with all that it started."""
        ended: dict[str, Result] = {}
        for uid, probe in list(self._probes.items()):
            code = probe.process.poll()
            if code is None and now < probe.deadline:
                continue
            problem = None
            if code is None:
                problem = f"no answer within {probe.timeout} s"
            elif code != 0:
                problem = f"exit status {code}" if code > 0 else f"ended by signal {-code}"
            self._end(uid)
            ended[uid] = Result(handle=probe.handle, problem=problem)
        return ended

    def forget(self, uid: str) -> None:
        """End a probe whose result is of no use any more."""
        if uid in self._probes:
            self._end(uid)

    def pids(self) -> tuple[int, ...]:
        """Return the probes that run."""
        return tuple(probe.process.pid for probe in self._probes.values())

    def next_deadline(self) -> float | None:
        """Return when the first probe has taken too long."""
        return min((probe.deadline for probe in self._probes.values()), default=None)

    def close(self) -> None:
        """End all probes."""
        for uid in list(self._probes):
            self._end(uid)

    def _end(self, uid: str) -> None:
        probe = self._probes.pop(uid)
        if probe.process.returncode is None:  # once it is reaped, the number may be somebody else's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(probe.process.pid, signal.SIGKILL)
        probe.process.wait()
