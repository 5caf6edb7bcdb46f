# SPDX-License-Identifier: Apache-2.0
"""Runs health probes and keeps their results. The loop never waits for a probe."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from threading import Thread
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import urljoin, urlsplit

from praetor_agent.__about__ import __version__
from praetor_agent.clock import Clock
from praetor_agent.core import health as healths
from praetor_agent.core import reboot
from praetor_agent.core.health import Health
from praetor_agent.core.masking import Masking
from praetor_agent.core.model import Memory, ObservedDevice, Revision
from praetor_agent.errors import StartError, unforeseen
from praetor_api.backports import dataclass
from praetor_api.protocol import DesiredItem
from praetor_api.spec import HealthCheck, HttpGetProbe, HttpScheme
from praetor_api.wire import clean_text

if TYPE_CHECKING:
    import subprocess

    from praetor_agent.backends.command import Probe

log = logging.getLogger(__name__)

MAX_END_BYTES, MAX_WORDS = 4096, 200
DRAIN_SECONDS = 0.5
"""How long to wait for the rest of what a probe that ended said."""
MAX_BODY_BYTES = 10 * 1024
"""How much of an answer's body is read, as by a kubelet."""
MAX_REDIRECTS = 10
MAX_UNWANTED = 4
"""Threads of a process's checks that may wait for a name server, which nothing can interrupt."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Probes:
    """Keeps *health* by uid for the processes that run and have a health check. *wake* causes a pass.

    *files* returns the own directory of a process that has files.
    """

    def __init__(
        self,
        clock: Clock,
        probe: Callable[..., Probe] | None = None,
        wake: Callable[[], None] = lambda: None,
        files: Callable[[DesiredItem], str] = lambda _: "",
        masking: Masking | None = None,
    ) -> None:
        self.health: dict[str, Health] = {}
        self._prober = Prober(wake, masking)
        self._probe = probe
        self._files = files
        self._clock = clock

    def step(self, memory: Memory, device: ObservedDevice) -> float | None:
        """Collect results, start due probes, and return when to be called again."""
        checked = {uid: (handle, revision, check) for uid, handle, revision, check in _checked(memory, device)}
        for uid in set(self.health) - set(checked):
            self._prober.forget(uid)
            del self.health[uid]
        if not checked:
            return None
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
                problem = self._guarded_start(uid, handle, revision, check, now)
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

    def _guarded_start(self, uid: str, handle: str, revision: Revision, check: HealthCheck, now: float) -> str | None:
        try:
            return self._start(uid, handle, revision, check, now)
        except Exception as e:  # what one process meets must not stop the supervision of the others
            return unforeseen(e)

    def _start(self, uid: str, handle: str, revision: Revision, check: HealthCheck, now: float) -> str | None:
        if not check.command:
            return self._prober.start(uid, handle, check, now)
        from praetor_agent.backends.command import probe_of

        files = self._files(revision.item)
        try:
            if revision.item.spec.post_check is not None:  # no process runs that it could be inside of
                return self._prober.start(uid, handle, probe_of(revision, check, files), now)
            return self._prober.start(uid, handle, (self._probe or probe_of)(revision, check, files), now)
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
        post_check = reboot.check_of(record) if record.checking else None
        if record.current is not None and post_check is not None:
            yield uid, reboot.check_handle(record), record.current, post_check
            continue
        seen = device.observed.get(uid)
        check = record.current.item.spec.health_check if record.current is not None else None
        if record.current is None or check is None or seen is None or not seen.running:
            continue
        if seen.spec_hash == record.mark:
            yield uid, seen.handle or "", record.current, check


class _Output:
    """The end of what a probe says. A thread reads it, so that a probe never waits for us."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._end = b""
        self._thread = Thread(target=self._read, name="probe output", daemon=True)
        self._thread.start()

    def words(self, mask: Masking) -> str:
        """Return the last line of it that says something, at most 200 characters; "" if there is none."""
        self._thread.join(DRAIN_SECONDS)  # something that the probe left may keep the pipe open without an end
        return last_line(mask(self._end.decode(errors="replace"), cut=True))

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._end = (self._end + chunk)[-MAX_END_BYTES:]


def last_line(text: str) -> str:
    """Return the last line of *text* that says something, without control characters; "" if there is none."""
    for line in reversed(_COLOURS.sub("", text).splitlines()):
        words = " ".join(clean_text(line).replace("\ufffd", " ").split())
        if words:
            return words[-MAX_WORDS:]
    return ""


class _Command:
    """A probe that is a command, in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._output = _Output(cast("IO[bytes]", process.stdout))

    @property
    def pids(self) -> tuple[int, ...]:
        return (self._process.pid,)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def problem(self) -> str | None:
        """Return why it failed, after it ended; None for a success."""
        code = self._process.returncode
        return None if code == 0 else f"exit status {code}" if code > 0 else f"ended by signal {-code}"

    def words(self, mask: Masking) -> str:
        return self._output.words(mask)

    def end(self) -> None:
        """Kill it with its children."""
        if self._process.returncode is None:  # once it is reaped, the kernel may reuse the pid
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class _Exchange:
    """A probe over the network, in a thread of its own: the environment's proxies are not used."""

    pids: tuple[int, ...] = ()

    def __init__(self, check: HealthCheck, wake: Callable[[], None]) -> None:
        self._check = check
        self._wake = wake
        self._result: tuple[str | None, str] | None = None
        self._until = time.monotonic() + check.timeout_seconds
        self._peer: socket.socket | None = None
        self._unwanted = False
        Thread(target=self._run, name="probe", daemon=True).start()

    def ended(self) -> bool:
        return self._result is not None

    def problem(self) -> str | None:
        """Return why it failed, after it ended; None for a success."""
        return self._result[0] if self._result is not None else None

    def words(self, mask: Masking) -> str:
        return last_line(mask(self._result[1])) if self._result is not None and not self._unwanted else ""

    def end(self) -> None:
        """Hang up. Its thread ends at once, unless it waits for a name server."""
        self._unwanted = self._result is None
        if self._peer is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._peer, socket.SHUT_RDWR)

    def _run(self) -> None:
        result: tuple[str | None, str] = "ended without a result", ""
        try:
            result = self._made()
        except (TimeoutError, socket.timeout):  # two before Python 3.10
            result = f"no answer within {self._check.timeout_seconds} s", ""
        except OSError as e:
            result = f"{self._what} failed ({last_line(e.strerror or str(e)) or type(e).__name__})", ""
        except (HTTPException, ValueError) as e:
            result = f"{self._what} failed", str(e) if last_line(str(e)) else type(e).__name__
        finally:
            self._result = result
            self._wake()

    def _made(self) -> tuple[str | None, str]:
        """Return why the check failed, None for a success, and what the server said."""
        if self._check.http_get is not None:
            return self._get(self._check.http_get)
        if self._check.tcp_socket is not None:
            self._connected(self._check.tcp_socket.host, self._check.tcp_socket.port).close()
        return None, ""

    @property
    def _what(self) -> str:
        name, wanted = "httpGet", self._check.http_get or self._check.tcp_socket
        if self._check.http_get is None:
            name = "tcpSocket"
        return f"{name} {_authority(wanted.host, wanted.port)}" if wanted is not None else name

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0 or self._unwanted:
            raise TimeoutError
        return left

    def _connected(self, host: str, port: int) -> socket.socket:
        """Return a connection; OSError of the last address if none of those of *host* answers."""
        refused: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            peer = self._peer = socket.socket(family, kind, protocol)
            try:
                peer.settimeout(self._left())
                peer.connect(address)
            except OSError as e:
                peer.close()
                refused = e
            else:
                return peer
        raise refused or OSError("the host has no address")

    def _get(self, get: HttpGetProbe) -> tuple[str | None, str]:
        secure, host, port, path = get.scheme is HttpScheme.HTTPS, get.host, get.port, get.path
        for _ in range(MAX_REDIRECTS + 1):
            with closing(self._connected(host, port)) as peer:
                if secure:
                    peer = self._secured(peer, host)
                status, reason, target = self._ask(peer, get, host, port, path)
            if status < 300 or status >= 400 or target is None:
                break
            scheme = "https" if secure else "http"
            onward = urlsplit(urljoin(f"{scheme}://{_authority(host, port)}{path}", target))
            if onward.scheme not in ("http", "https") or onward.hostname != host.lower():
                break  # an answer, and what is elsewhere says nothing of this process
            secure = onward.scheme == "https"
            port = onward.port or (443 if secure else 80)
            path = (onward.path or "/") + ("?" + onward.query if onward.query else "")
        else:
            return f"{self._what} redirects more than {MAX_REDIRECTS} times", ""
        return None if 200 <= status < 400 else f"{self._what} answered {status}", reason

    def _secured(self, peer: socket.socket, host: str) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # as a kubelet: a server on the device itself has no name to verify
        wrapped = self._peer = context.wrap_socket(
            peer, server_hostname=None if _is_address(host) else host, do_handshake_on_connect=False
        )
        try:
            wrapped.settimeout(self._left())
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _ask(
        self, peer: socket.socket, get: HttpGetProbe, host: str, port: int, path: str
    ) -> tuple[int, str, str | None]:
        """Return the status, its words, and where the answer leads."""
        own = {
            "Host": _authority(host, port),
            "User-Agent": f"praetor-agent/{__version__}",
            "Accept": "*/*",
            "Connection": "close",
        }
        given = {header.name.lower() for header in get.http_headers}
        with closing(peer), closing(HTTPConnection(host, port)) as connection:
            peer.settimeout(self._left())
            connection.sock = peer
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in own.items():
                if name.lower() not in given:
                    connection.putheader(name, value)
            for header in get.http_headers:
                connection.putheader(header.name, header.value)
            connection.endheaders()
            with closing(connection.getresponse()) as response:
                body = response.read(MAX_BODY_BYTES)
                if response.length and len(body) < MAX_BODY_BYTES:
                    raise HTTPException("the answer was cut off")
                self._left()  # one that was hung up on may look like a whole one
                return response.status, response.reason, response.headers.get("Location")


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    handle: str
    probe: _Command | _Exchange
    deadline: float
    timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a probe of the instance *handle*; *problem* is None for a success."""

    handle: str
    problem: str | None


class Prober:
    """At most one probe at a time for each process. *wake* is called when one over the network ended."""

    def __init__(self, wake: Callable[[], None] = lambda: None, masking: Masking | None = None) -> None:
        self._masking = masking or Masking()
        self._probes: dict[str, _Running] = {}
        self._unwanted: list[tuple[str, _Exchange]] = []
        self._wake = wake

    def start(self, uid: str, handle: str, probe: Probe | HealthCheck, now: float) -> str | None:
        """Start a probe, a command or a check over the network, unless one runs; return why it cannot be, if so."""
        if uid in self._probes:
            return None
        try:
            started = self._exchange(uid, probe) if isinstance(probe, HealthCheck) else _execute(probe)
        except StartError as e:
            return str(e)
        self._probes[uid] = _Running(
            handle=handle, probe=started, deadline=now + probe.timeout_seconds, timeout=probe.timeout_seconds
        )
        return None

    def results(self, now: float) -> Mapping[str, Result]:
        """Return by uid the probes that ended since; one that timed out is ended, a command with its children."""
        ended: dict[str, Result] = {}
        for uid, running in list(self._probes.items()):
            in_time = running.probe.ended()
            if not in_time and now < running.deadline:
                continue
            try:
                problem = self._ended(uid, running, in_time=in_time)
            except Exception as e:  # what one process meets must not stop the supervision of the others
                problem = unforeseen(e)
            ended[uid] = Result(handle=running.handle, problem=problem)
        return ended

    def _ended(self, uid: str, running: _Running, *, in_time: bool) -> str | None:
        self._end(uid)
        problem = running.probe.problem() if in_time else f"no answer within {running.timeout} s"
        said = running.probe.words(self._masking) if problem is not None else ""
        return f"{problem}: {said}" if said else problem

    def forget(self, uid: str) -> None:
        """End a probe whose result is no longer needed."""
        if uid in self._probes:
            self._end(uid)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the running probes."""
        return tuple(pid for running in self._probes.values() for pid in running.probe.pids)

    def next_deadline(self) -> float | None:
        """Return when the first probe times out."""
        return min((running.deadline for running in self._probes.values()), default=None)

    def close(self) -> None:
        """End all probes."""
        for uid in list(self._probes):
            self._end(uid)

    def _exchange(self, uid: str, check: HealthCheck) -> _Exchange:
        self._unwanted = [each for each in self._unwanted if not each[1].ended()]
        if sum(of == uid for of, _ in self._unwanted) >= MAX_UNWANTED:
            raise StartError("the name server does not answer")
        try:
            return _Exchange(check, self._wake)
        except RuntimeError as e:  # no thread can be started
            raise StartError(str(e)) from e

    def _end(self, uid: str) -> None:
        probe = self._probes.pop(uid).probe
        probe.end()
        if isinstance(probe, _Exchange):
            self._unwanted.append((uid, probe))


def _execute(probe: Probe) -> _Command:
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
        raise StartError(f"cannot execute {shown(probe.argv[0])}: {getattr(e, 'strerror', None) or e}") from e
    try:
        return _Command(process)
    except RuntimeError as e:  # no thread can be started that reads what it says
        with process, suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        raise StartError(f"cannot execute {shown(probe.argv[0])}: {e}") from e
