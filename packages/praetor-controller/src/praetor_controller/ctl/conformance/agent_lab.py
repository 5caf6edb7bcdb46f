# SPDX-License-Identifier: Apache-2.0
"""An agent under test, the gateway that it is given, and the processes that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from attrs import define, field, frozen

from praetor_api.canonical import spec_hash
from praetor_controller.ctl.conformance.checks import Broken
from praetor_controller.ctl.conformance.scripted import ScriptedGateway

DEVICE, TOKEN = "leaf-1", "conformance-token"
PREFIX = "PRAETOR_AGENT_"
POLL_S = 0.05
LAST_LINES = 3
PROGRAM = """
dir=$1; shift
printf '%s\\0' "$@" >"$dir/args.$$"
printf '%s\\0' "${WORD-}" "$PWD" >"$dir/world.$$"
echo "$$" >>"$dir/starts"
"""
"""What a process does first: write down what it was given, and then that it started."""
STAYS, ENDS = "exec sleep 100000", 'while [ ! -e "$dir/end" ]; do sleep 0.1; done; exit 7'
STUBBORN = "trap '' TERM; while :; do sleep 0.1; done"


@frozen(kw_only=True)
class AgentUnderTest:
    """The *command* that runs an agent, the backend to ask it for, and how many seconds an event may take.

    Once *ended* is set, no check goes on, so that all that it started is killed.
    """

    command: Sequence[str]
    backend: str = "process"
    timeout_s: float = 60.0
    ended: Event = field(factory=Event)


@define(eq=False)
class AgentLab:
    """One agent with a state directory of its own below *place*."""

    under_test: AgentUnderTest
    place: Path
    gateway: ScriptedGateway
    _agent: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _groups: list[int] = field(factory=list, init=False)

    def start(self) -> None:
        """Start the agent."""
        self._go_on()
        for name in ("state", "initd"):
            (self.place / name).mkdir(exist_ok=True)
        self.write_token(self.gateway.token)
        given = {
            "GATEWAY": self.gateway.url,
            "DEVICE": DEVICE,
            "TOKEN_FILE": str(self.place / "token"),
            "STATE_DIR": str(self.place / "state"),
            "HOLD_FILE": str(self.place / "hold"),
            "INITD_DIR": str(self.place / "initd"),
            "START_SPLAY": "0",
            "PROXY": "none",
        }
        environment = os.environ | {PREFIX + name: value for name, value in given.items()}
        environment.pop(PREFIX + "TOKEN", None)
        try:
            with (self.place / "output").open("ab") as output:
                self._agent = subprocess.Popen(
                    self.under_test.command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as e:
            raise Broken(f"the agent cannot be started: {e}") from e
        self._groups.append(self._agent.pid)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent by the signal *number*, which reaches its whole process group as when a service ends."""
        assert self._agent is not None  # noqa: S101 - start() comes first
        with suppress(ProcessLookupError):
            os.killpg(self._agent.pid, number)
        ends = time.monotonic() + self.under_test.timeout_s
        while self._agent.poll() is None:
            self._go_on()
            if time.monotonic() > ends:
                raise Broken(f"the agent does not end by {signal.Signals(number).name}")
            self.under_test.ended.wait(POLL_S)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the agent and start it again, on the same state."""
        self.stop(number)
        self.start()

    def write_token(self, token: str) -> None:
        """Write *token* into the agent's file."""
        new = self.place / "token.new"
        new.write_text(token + "\n", encoding="ascii")
        new.chmod(0o600)
        new.rename(self.place / "token")

    def close(self) -> None:
        """Kill the agent and every process."""
        pids = [pid for found in self.place.glob("*/starts") for pid in map(int, found.read_text().split())]
        for group in (*self._groups, *pids):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._agent is not None:
            self._agent.wait()

    def item(
        self, name: str = "web", then: str = STAYS, args: Sequence[str] = (), version: int = 1, **spec: Any
    ) -> Mapping[str, Any]:
        """Return a desired process that writes down how it was started, and goes on with the shell script *then*.

        *spec* adds to its spec, and an `execution` in it to how it is run.
        """
        place = self.place / name
        place.mkdir(exist_ok=True)
        command = ["/bin/sh", "-c", PROGRAM + then, "sh", str(place)]
        execution: dict[str, Any] = {"backend": self.under_test.backend, "command": command, "args": list(args)}
        execution |= {"terminationGracePeriodSeconds": 30, **spec.pop("execution", {})}
        execution["env"] = [*execution.get("env", ()), {"name": "VERSION", "value": str(version)}]
        whole = {"execution": execution, "restartPolicy": "Always", **spec}
        return {
            "uid": f"uid-{name}",
            "namespace": "net",
            "name": name,
            "generation": version,
            "specHash": spec_hash(whole),
            "spec": whole,
        }

    def pids(self, name: str = "web") -> list[int]:
        """Return the pids of the process *name*, in the order of its starts."""
        try:
            return [int(pid) for pid in (self.place / name / "starts").read_text().split()]
        except FileNotFoundError:
            return []

    def words(self, kind: str, pid: int, name: str = "web") -> list[str]:
        """Return what the process wrote about what it was given: its `args`, or its `world`."""
        return (self.place / name / f"{kind}.{pid}").read_bytes().decode(errors="replace").split("\0")[:-1]

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Return when *holds*; Broken saying *what* did not happen in time."""
        ends = time.monotonic() + self.under_test.timeout_s
        while not holds():
            self._go_on()
            code = self._agent.poll() if self._agent is not None else None
            if code is not None:
                raise Broken(f"{what} did not happen: the agent ended with exit code {code}{self._said()}")
            left = ends - time.monotonic()
            if left <= 0:
                raise Broken(f"{what} did not happen within {self.under_test.timeout_s:g} s{self._said()}")
            self.gateway.wait(holds, min(left, POLL_S))

    def started(self, count: int = 1, name: str = "web") -> int:
        """Wait until the process *name* was started *count* times, and return its last pid."""
        self.until(lambda: len(self.pids(name)) >= count, f"start {count} of the process {name}")
        return self.pids(name)[count - 1]

    def settled(self) -> None:
        """Wait until the agent has had what is desired now, and sent two reports since then."""
        etag = self.gateway.etag
        self.until(
            lambda: any(each.headers.get("if-none-match") == etag for each in self.gateway.of("desired")[-1:]),
            "a poll with the present ETag",
        )
        self.reported(2)

    def reported(self, count: int = 1) -> None:
        """Wait for *count* more reports."""
        reports = len(self.gateway.reports)
        self.until(lambda: len(self.gateway.reports) >= reports + count, f"{count} more reports")

    def keeps(self, pid: int, while_: str, name: str = "web") -> None:
        """Raise Broken if the process *name* is not the one with *pid* any more."""
        if self.pids(name)[-1:] != [pid]:
            raise Broken(f"{while_}, the process was started again")
        if not is_alive(pid):
            raise Broken(f"{while_}, the process was ended")

    def _go_on(self) -> None:
        if self.under_test.ended.is_set():
            raise Broken("the check was ended")

    def _said(self) -> str:
        seen = self.gateway.complaint()
        output = (self.place / "output").read_bytes()[-2000:].decode(errors="replace").splitlines()
        return (f"\ngateway: {seen}" if seen else "") + "".join(
            f"\nagent: {line[:300]}" for line in output[-LAST_LINES:]
        )


@contextmanager
def agent_lab(under_test: AgentUnderTest) -> Iterator[AgentLab]:
    """Make a directory and a gateway for an agent, which is not started yet, and end all at the end."""
    with (
        TemporaryDirectory(prefix="praetor-conformance-", ignore_cleanup_errors=True) as place,
        ScriptedGateway(DEVICE, TOKEN) as gateway,
    ):
        lab = AgentLab(under_test, Path(place), gateway)
        try:
            yield lab
        finally:
            lab.close()


def is_alive(pid: int) -> bool:
    """Return whether the process *pid* runs; one that ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
