# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent doctor`: checks the host as the agent would use it, and says how to fix each problem."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

from praetor_agent.artifacts.store import IMAGES, ArtifactStore
from praetor_agent.backends import procfs
from praetor_agent.core.model import Memory, Observed
from praetor_agent.errors import AgentError, BackendError, GatewayError
from praetor_agent.host import Backends
from praetor_agent.link.client import token_file
from praetor_agent.link.facts import MIB, free_bytes, size_words
from praetor_agent.service.status import table, troubles
from praetor_agent.settings import RunSettings, loose_mode
from praetor_agent.state import JsonFile, State, is_locked, read_freeze, replace_file
from praetor_api.backports import dataclass

LEAST_FREE = 100 * MIB
ALMOST = 0.9
SLOW_SECONDS = 1.0
SKEW_SECONDS = 300.0
_REMEDIES = {
    errno.ENOSPC: "free space on its disk",
    errno.EROFS: "mount its file system writable",
    errno.EACCES: "try as root",
}
OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its verdict, what was found, and how to fix it."""

    name: str
    verdict: str
    message: str
    remedy: str = ""


def doctor(settings: RunSettings, output: str, problems: Sequence[str] = ()) -> bool:
    """Print the checks and return whether the agent can work. *problems* are those of the flags."""
    found = [*(Check("settings", FAULT, problem) for problem in problems), *checks(settings)]
    if output == "json":
        sys.stdout.write(json.dumps([asdict(check) for check in found], indent=2) + "\n")
    else:
        rows = [(check.verdict, check.name, f"{check.message}{check.remedy and '; '}{check.remedy}") for check in found]
        sys.stdout.write(table(rows))
    return all(check.verdict != FAULT for check in found)


def checks(settings: RunSettings) -> Iterator[Check]:
    """Yield a check for each thing that the agent needs; one that cannot be carried out is a fault by itself."""
    every: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("python", _python),
        ("state", lambda: _state(settings.state_dir)),
        ("artifacts", lambda: _store(settings)),
        ("hold", lambda: _freeze(settings.freeze_file)),
        ("backends", lambda: _backends(settings)),
        ("processes", lambda: _processes(settings)),
        ("token", lambda: _token(settings)),
        ("gateway", lambda: _gateway(settings)),
    )
    for name, check in every:
        try:
            yield from check()
        except OSError as e:
            yield Check(name, FAULT, f"cannot be checked: {e}", _REMEDIES.get(e.errno or 0, ""))
        except AgentError as e:
            yield Check(name, FAULT, f"cannot be checked: {e}")


def _processes(settings: RunSettings) -> Iterator[Check]:
    """Yield a check for each process that something is wrong with; its message says what to do."""
    if (settings.state_dir / "memory.json").exists():
        for name, message in troubles(settings.state_dir, settings.freeze_file):
            yield Check("processes", WARNING, f"{name}: {message}")


def _token(settings: RunSettings) -> Iterator[Check]:
    file = settings.token_file
    if file is None:
        said = "given by value" if settings.token is not None else "none is given; a gateway that needs one refuses us"
        remedy = "" if settings.token is not None else "give it with --token-file"
        yield Check("token", OK if settings.token is not None else WARNING, said, remedy)
        return
    try:
        loose = loose_mode(file)
        token_file(file)()
    except (GatewayError, OSError) as e:
        yield Check("token", FAULT, str(e), "copy the device's token there; the agent waits for it")
        return
    problem, _, remedy = (loose or "").partition("; ")
    yield Check("token", FAULT, problem, remedy) if loose else Check("token", OK, f"{file} is secret")


def _python() -> Iterator[Check]:
    import requests

    version, library = sys.version.split()[0], requests.__version__
    message = f"Python {version}, requests {library}"
    if sys.version_info < (3, 9) or tuple(map(int, library.split(".")[:3])) < (2, 25, 1):
        remedy = "the agent needs Python 3.9 and requests 2.25.1; the zipapp includes requests"
        yield Check("python", FAULT, message, remedy)
        return
    yield Check("python", OK, message)


def _state(place: Path) -> Iterator[Check]:
    if not place.is_dir():
        yield Check("state", WARNING, f"{place} does not exist", "the agent creates it when it starts")
        yield Check("agent", WARNING, "no agent ran on this device", "run: praetor-agent install")
        return
    probe = place / "doctor"
    began = time.monotonic()
    try:
        replace_file(probe, b"written and flushed\n")
        probe.unlink()
    except OSError as e:
        yield Check("state", FAULT, f"{place} cannot be written: {e.strerror}", _REMEDIES.get(e.errno or 0, ""))
        return
    took = time.monotonic() - began
    if took > SLOW_SECONDS:
        yield Check("state", WARNING, f"a flush to the disk of {place} took {took:.1f} s", "check the disk")
    elif os.statvfs(place).f_flag & os.ST_NOEXEC:
        why = f"{place} is mounted noexec, so that no program of an artifact can be executed"
        yield Check("state", WARNING, why, "mount it with exec, or choose another --state-dir")
    elif place.stat().st_mode & 0o066:
        yield Check("state", WARNING, f"other users can read or write {place}", f"run: chmod go-rw {place}")
    else:
        yield Check("state", OK, f"{place} can be written")
    damaged = [name for name in ("desired.json", "memory.json") if not JsonFile(place / name).intact()]
    if damaged:
        yield Check(
            "memory", WARNING, f"{' and '.join(damaged)} in {place} cannot be read", "the agent will rewrite it"
        )
    state = State(place)
    state.load_memory()
    if state.newer is not None:
        message, _, remedy = state.newer.rpartition("; ")
        yield Check("memory", FAULT, message, remedy)
    free = free_bytes(place) or 0
    low = free < LEAST_FREE
    remedy = "artifacts need space to be unpacked; free some" if low else ""
    yield Check("disk", WARNING if low else OK, f"{size_words(free)} free below {place}", remedy)
    runs = is_locked(place)
    remedy = "" if runs else "run: praetor-agent install, or start the installed service"
    said = f"an agent {'runs' if runs else 'does not run'} with {place}"
    yield Check("agent", OK if runs else WARNING, said, remedy)


def _store(settings: RunSettings) -> Iterator[Check]:
    limit = settings.artifact_store_bytes
    used = ArtifactStore(
        settings.state_dir / "artifacts", max_bytes=limit, images=settings.state_dir / IMAGES
    ).used_bytes()
    message = f"artifacts use {size_words(used)} of {size_words(limit)}"
    almost = used >= limit * ALMOST
    remedy = "a new one may have no room; raise --artifact-store-size" if almost else ""
    yield Check("artifacts", WARNING if almost else OK, message, remedy)


def _freeze(file: Path) -> Iterator[Check]:
    held = read_freeze(file)
    if held is None:
        yield Check("hold", OK, f"changes are allowed: {file} does not exist")
        return
    yield Check("hold", WARNING, f"nothing is changed: {held}", f"remove {file} to allow changes")


def _backends(settings: RunSettings) -> Iterator[Check]:
    boot_id, runtime = procfs.boot_id() or "", settings.container_runtime
    backends = Backends(settings.device, settings.state_dir, boot_id, runtime, settings.container_options)
    received = State(settings.state_dir).load_desired(settings.device) if settings.state_dir.is_dir() else None
    wanted = {item.spec.execution.backend for item in received.desired.items} if received else set()
    memory = State(settings.state_dir).load_memory() if settings.state_dir.is_dir() else {}
    for name, backend in backends.all().items():
        try:
            observed = backend.observe()
        except BackendError as e:
            yield Check(name, FAULT, str(e), "try as root")
        else:
            yield Check(name, OK, "can run processes")
            yield from _marks(settings.device, observed, memory)
    for name, reason in backends.unavailable.items():
        needed = name in wanted
        remedy = "a process of this device asks for it; choose another execution.backend" if needed else ""
        yield Check(name, FAULT if needed else OK, f"not available: {reason}", remedy)


def _marks(device: str, observed: Mapping[str, Observed], memory: Memory) -> Iterator[Check]:
    """Yield a check for each process that another agent started, or this one under another name of the device."""
    for uid, seen in observed.items():
        if seen.unknown and uid not in memory:
            remedy = "this agent never stops it; stop and remove it by hand if nothing needs it"
            yield Check("marks", WARNING, f"{seen.mark} was not started by this installation", remedy)
        elif seen.renamed:
            remedy = (
                f"it ends once the gateway names a process for {device}; else start the agent with the old --device"
            )
            yield Check("marks", WARNING, f"{seen.mark} is of another name of this device", remedy)


def _gateway(settings: RunSettings) -> Iterator[Check]:
    from praetor_agent.link.client import GatewayClient, address_of

    if not settings.gateway or not settings.device:
        yield Check("gateway", FAULT, "cannot be asked without its URL and the device's name")
        yield Check("clock", WARNING, "cannot be compared without an answer of the gateway")
        return
    where = settings.gateway
    client = GatewayClient(address_of(settings))
    began = time.monotonic()
    try:
        date = client.date()
    except GatewayError as e:
        yield Check("gateway", FAULT, str(e), remedy_of(e))
        yield Check("clock", WARNING, "cannot be compared without an answer of the gateway")
        return
    finally:
        client.close()
    yield Check("gateway", OK, f"{where} answered after {time.monotonic() - began:.2f} s and knows {settings.device}")
    try:
        skew = (datetime.now(timezone.utc) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):  # none, or one without a zone
        return
    if abs(skew) > SKEW_SECONDS:
        remedy = "certificates and logs depend on it; set the clock"
        yield Check("clock", WARNING, f"the clock differs by {skew:+.0f} s from the gateway's", remedy)
    else:
        yield Check("clock", OK, f"the clock differs by {skew:+.0f} s from the gateway's")


def remedy_of(error: GatewayError) -> str:
    """Return how to fix *error*."""
    import requests

    if "token file" in str(error):
        return "see the check of the token"
    if error.unauthorized:
        return "make a new token (praetorctl devices token) for this device name, and check --device"
    cause = error.__cause__
    if isinstance(cause, requests.exceptions.ProxyError):
        return "check --proxy, HTTPS_PROXY and NO_PROXY"
    if isinstance(cause, requests.exceptions.SSLError):
        return "give the gateway's CA certificate with --ca-bundle, and check the clock"
    if isinstance(cause, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
        return "check --gateway, the routes, DNS and the firewalls"
    return "check --gateway: this answer is not from a Praetor gateway"
