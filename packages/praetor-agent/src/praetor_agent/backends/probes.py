# SPDX-License-Identifier: Apache-2.0
"""Runs health probes and keeps their results. The loop never waits for a probe."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO, TYPE_CHECKING, cast

from praetor_agent.clock import Clock
from praetor_agent.core import health as healths
from praetor_agent.core import reboot
from praetor_agent.core.health import Health
from praetor_agent.core.model import Memory, ObservedDevice, Revision
from praetor_agent.errors import StartError
from praetor_api.spec import HealthCheck
from praetor_api.wire import clean_text

if TYPE_CHECKING:
    import subprocess

    from praetor_agent.backends.command import Probe

log = logging.getLogger(__name__)

MAX_END_BYTES, MAX_WORDS = 4096, 200
DRAIN_SECONDS = 0.5
"""How long to wait for the rest of what a probe that ended said."""


class Probes:
    """Keeps *health* by uid for the processes that run and have a health check."""

    def __init__(self, clock: Clock, probe: Callable[[Revision, HealthCheck], Probe] | None = None) -> None:
        self.health: dict[str, Health] = {}
        self._prober = Prober()
        self._probe = probe
        self._clock = clock

    def step(self, memory: Memory, device: ObservedDevice) -> float | None:
        """Collect results, start due probes, and return when to be called again."""
        checked = {uid: (handle, revision, check) for uid, handle, revision, check in _checked(memory, device)}
        for uid in set(self.health) - set(checked):
            self._prober.forget(uid)
            del self.health[uid]
        now = self._clock.now()
        results = self._prober.results(now)
        for uid, (handle, revision, check) in checked.items():
            health = self.health.get(uid)
            if health is None or health.handle != handle:
                self._prober.forget(uid)
                # Healthy before the agent restarted, it stays so until enough probes fail.
                known = memory[uid].healthy_since is not None and memory[uid].handle == handle
                health = healths.started(handle, now, since=memory[uid].started_at, healthy=known or None)
            elif uid in results and results[uid].handle == handle:
                health = self._judged(uid, health, check, results[uid].problem, now)
            if now >= health.next_at:
                problem = self._start(uid, handle, revision, check, now)
                if problem is not None:
                    health = self._judged(uid, health, check, problem, now)
            self.health[uid] = health
        return self._next_at(now)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the running probes."""
        return self._prober.pids()

    def close(self) -> None:
        """End all probes."""
        self._prober.close()

    def _start(self, uid: str, handle: str, revision: Revision, check: HealthCheck, now: float) -> str | None:
        from praetor_agent.backends.command import probe_of

        try:
            if revision.item.spec.post_check is not None:  # no process runs that it could be inside of
                return self._prober.start(uid, handle, probe_of(revision, check), now)
            return self._prober.start(uid, handle, (self._probe or probe_of)(revision, check), now)
        except StartError as e:
            return f"healthCheck.exec.{e}"

    def _judged(self, uid: str, health: Health, check: HealthCheck, problem: str | None, now: float) -> Health:
        judged = healths.probed(health, check, problem, now)
        if judged.healthy is not health.healthy:
            log.info("health changed uid=%s healthy=%s problem=%s", uid, judged.healthy, problem)
        return judged

    def _next_at(self, now: float) -> float | None:
        due = [health.next_at for health in self.health.values() if health.next_at > now]
        deadline = self._prober.next_deadline()
        return min((*due, deadline) if deadline is not None else due, default=None)


def _checked(memory: Memory, device: ObservedDevice) -> Iterator[tuple[str, str, Revision, HealthCheck]]:
    for uid, record in memory.items():
        post_check = reboot.check_of(record)
        if record.current is not None and post_check is not None:
            yield uid, reboot.check_handle(record), record.current, post_check
            continue
        seen = device.observed.get(uid)
        if record.current is None or seen is None or not seen.running or seen.spec_hash != record.spec_hash:
            continue
        check = record.current.item.spec.health_check
        if check is not None:
            yield uid, seen.handle or "", record.current, check


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    handle: str
    process: subprocess.Popen[bytes]
    output: _Output
    deadline: float
    timeout: int


class _Output:
    """The end of what a probe says. A thread reads it, so that a probe never waits for us."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._end = b""
        self._thread = Thread(target=self._read, name="probe output", daemon=True)
        self._thread.start()

    def words(self) -> str:
        """Return the last line of it, at most 200 characters; "" if the probe said nothing."""
        self._thread.join(DRAIN_SECONDS)  # something that the probe left may keep the pipe open without an end
        lines = clean_text(self._end.decode(errors="replace")).strip().splitlines()
        return " ".join(lines[-1].split())[-MAX_WORDS:] if lines else ""

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._end = (self._end + chunk)[-MAX_END_BYTES:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a probe of the instance *handle*; *problem* is None for a success."""

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
        import subprocess  # here, because few devices run probes

        from praetor_agent.backends.command import identity_of, shown

        try:
            identity = identity_of(probe.user)
            process = subprocess.Popen(
                probe.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(probe.env),
                cwd=probe.working_dir,
                start_new_session=True,
                user=identity.uid if identity else None,
                group=identity.gid if identity else None,
                extra_groups=identity.groups if identity else None,
            )
        except (OSError, ValueError, StartError) as e:
            return f"cannot execute {shown(probe.argv[0])}: {getattr(e, 'strerror', None) or e}"
        self._probes[uid] = _Running(
            handle=handle,
            process=process,
            output=_Output(cast("IO[bytes]", process.stdout)),
            deadline=now + probe.timeout_seconds,
            timeout=probe.timeout_seconds,
        )
        return None

    def results(self, now: float) -> Mapping[str, Result]:
        """Return by uid the probes that ended since; one that timed out is killed with its children."""
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
            said = probe.output.words() if problem is not None else ""
            problem = f"{problem}: {said}" if said else problem
            ended[uid] = Result(handle=probe.handle, problem=problem)
        return ended

    def forget(self, uid: str) -> None:
        """End a probe whose result is no longer needed."""
        if uid in self._probes:
            self._end(uid)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the running probes."""
        return tuple(probe.process.pid for probe in self._probes.values())

    def next_deadline(self) -> float | None:
        """Return when the first probe times out."""
        return min((probe.deadline for probe in self._probes.values()), default=None)

    def close(self) -> None:
        """End all probes."""
        for uid in list(self._probes):
            self._end(uid)

    def _end(self, uid: str) -> None:
        probe = self._probes.pop(uid)
        if probe.process.returncode is None:  # once it is reaped, the kernel may reuse the pid
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(probe.process.pid, signal.SIGKILL)
        probe.process.wait()
