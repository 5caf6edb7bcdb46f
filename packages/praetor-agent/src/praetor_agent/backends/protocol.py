# SPDX-License-Identifier: Apache-2.0
"""What a backend does, and what all backends share. A backend only touches what carries our marker.

Backends name what they write on a device by one scheme, so that our files are recognizable by name, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from praetor_agent.clock import PROGRESS
from praetor_agent.core.masking import ending
from praetor_agent.core.model import Observed
from praetor_agent.errors import BackendError, unforeseen
from praetor_api.backports import dataclass
from praetor_api.spec import Backend as BackendName

if TYPE_CHECKING:
    from praetor_agent.backends.command import Command

CALL_SECONDS = 30
FOLLOW_SECONDS = 1.0
"""Between two checks whether a process whose output is followed is still there."""
DEFINITIONS = {BackendName.SYSTEMD: Path("/etc/systemd/system"), BackendName.INITD: Path("/etc/init.d")}
"""Where the init systems read definitions."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What marks say: the device's name, and the id of the agent's state directory; "" where there is none."""

    device: str
    installation: str = ""

    def judged(self, seen: Observed, mark: Owner, what: str) -> Observed:
        """Return *seen*, which *what* with the mark *mark* runs, with whose it is."""
        renamed, unknown = mark.device != self.device, mark.installation != self.installation
        return replace(seen, renamed=renamed, unknown=unknown, mark=f"{what} of {mark.device}")


class Backend(Protocol):
    """Runs processes; none of the methods waits for a process to end."""

    def observe(self) -> Mapping[str, Observed]:
        """Return by uid every process of ours that runs or left its exit status. BackendError if that is unknown.

        What is wrong with one process is said in its `Observed.unseen`.
        """
        ...

    def start(self, command: Command) -> None:
        """Start a process that does not run; StartError with the reason if that fails."""
        ...

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        """Ask a process to end, or end it by force with all that it started."""
        ...

    def signal(self, uid: str, number: Signals) -> None:
        """Send a signal to the program of a process, and to nothing that it started; none if it ended meanwhile."""
        ...

    def remove(self, uid: str) -> None:
        """Remove what is left of a process that ended."""
        ...


@runtime_checkable
class KeepsOutput(Protocol):
    """A backend that keeps the output of processes."""

    def tail(self, uid: str, limit: int) -> str:
        """Return the end of the latest run's output, about *limit* bytes; "" if there is none.

        BackendError if it cannot be read; the report then omits it.
        """
        ...

    def show(self, uid: str, lines: int | None, follow: Callable[[], bool] | None) -> None:
        """Write the output, or its last *lines*, to standard output, byte for byte.

        With *follow*, also what comes later, as long as *follow* returns True.
        BackendError if it cannot be read.
        """
        ...


@runtime_checkable
class KeepsDefinition(Protocol):
    """A backend that writes a definition of each process (a unit, a script) that may be edited on the device.

    `Observed.edited` is set while it is edited.
    """

    def repair(self, command: Command) -> None:
        """Write the definition again; the running process is not touched. BackendError if that fails."""
        ...


PREFIX = "praetor-"

_READABLE_LENGTH = 60
_UNSAFE = re.compile(r"[^a-z0-9-]+")


def own_name(name: str, uid: str) -> str:
    """Return our prefix, the readable part of *name*, and a hash of *uid*, which alone is unique."""
    return f"{PREFIX}{readable(name).strip('-')}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def readable(name: str) -> str:
    """Return the part of *name* that file names and log identifiers can contain."""
    return _UNSAFE.sub("-", name.lower())[:_READABLE_LENGTH]


def pass_on(*command: str, follow: Callable[[], bool] | None = None) -> None:
    """Run *command*, which writes to our standard output, and end it when *follow* returns False.

    BackendError if it fails.
    """
    import subprocess

    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as running:
            while True:
                try:
                    code = running.wait(FOLLOW_SECONDS if follow is not None else None)
                    break
                except subprocess.TimeoutExpired:
                    if follow is not None and not follow():
                        running.terminate()
                        return
    except OSError as e:
        raise BackendError(f"{command[0]}: {e.strerror}") from e
    if code:
        raise BackendError(f"{command[0]} failed ({code})")


def guarded(uid: str, backend: BackendName, look: Callable[[], Observed]) -> Observed:
    """Return what *look* sees of the process *uid*, or why it sees nothing: that must not hide the other processes."""
    try:
        return look()
    except Exception as e:
        return unseen(uid, backend, e)


def unseen(uid: str, backend: BackendName, error: Exception) -> Observed:
    """Return what is known of the process *uid*, which *error* hides."""
    why = str(error) if isinstance(error, BackendError) else unforeseen(error)
    return Observed(uid=uid, backend=backend, spec_hash="", running=False, unseen=why)


def call(*command: str, timeout: float = CALL_SECONDS, env: Mapping[str, str] | None = None) -> str:
    """Run *command* and return what it printed; BackendError with the end of its error output if it fails."""
    import subprocess

    name = " ".join(word for word in command[:3] if not word.startswith("-"))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise BackendError(f"{name}: {e}") from e
    finally:
        PROGRESS.get()()
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise BackendError(f"{name} failed ({done.returncode}): {ending(complaint, 400)}")
    return done.stdout.decode(errors="replace")
