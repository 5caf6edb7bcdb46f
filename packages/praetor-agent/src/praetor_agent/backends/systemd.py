# SPDX-License-Identifier: Apache-2.0
"""systemd: one unit per process. The agent restarts it; systemd starts it at boot once its version is proven.

Only units that carry our marker are ever touched. Specs are untrusted: every value is escaped,
or refused with the field's name. The environment goes into a file of its own, because every user can read units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import Signals

from praetor_agent.backends.command import Command
from praetor_agent.backends.protocol import DEFINITIONS, PREFIX, Owner, call, guarded, own_name, pass_on, readable
from praetor_agent.backends.resources import wanted
from praetor_agent.core import environment
from praetor_agent.core.model import Observed
from praetor_agent.core.restart import reason_of
from praetor_agent.errors import BackendError, StartError
from praetor_agent.state import read_text, replace_file
from praetor_api.backports import dataclass
from praetor_api.spec import Backend, Hardening, Resources

PROPERTIES = (
    "Id,ActiveState,SubState,MainPID,ExecMainCode,ExecMainStatus,ExecMainStartTimestampMonotonic,InvocationID,Result"
)
_ALIVE = ("active", "activating", "deactivating", "reloading")
_CLD_EXITED = "1"
_START_FAILURES = {200: "CHDIR", 203: "EXEC", 208: "STDIN", 209: "STDOUT", 216: "GROUP", 217: "USER", 226: "NAMESPACE"}


class SystemdBackend:
    """Runs processes as units of *owner*; environment files, and copies of the units, are kept in *directory*."""

    def __init__(self, owner: Owner, directory: Path, units: Path = DEFINITIONS[Backend.SYSTEMD]) -> None:
        self._owner = owner
        self._directory = directory
        self._units = units

    def observe(self) -> Mapping[str, Observed]:
        ours = dict(self._ours())
        if not ours:
            return {}
        shown = _blocks(_systemctl("show", f"--property={PROPERTIES}", *ours))
        return {
            ours[unit].uid: guarded(ours[unit].uid, Backend.SYSTEMD, partial(self._look, unit, ours[unit], props))
            for props in shown
            if (unit := props.get("Id", "")) in ours
        }

    def _look(self, unit: str, marks: Marks, props: Mapping[str, str]) -> Observed:
        seen = _seen(marks, props, edited=self._edited(unit), at_boot=self._at_boot(unit))
        return self._owner.judged(seen, marks.owner, f"unit {unit}")

    def repair(self, command: Command) -> None:
        _enable(self._write(command), command)

    def tail(self, uid: str, limit: int) -> str:
        for unit in self._units_of(uid):
            words = ("journalctl", "--quiet", "--output=cat", "--lines=100", f"--unit={unit}", "--boot")
            return call(*words)[-limit:]
        return ""

    def show(self, uid: str, lines: int | None, follow: Callable[[], bool] | None) -> None:
        for unit in self._units_of(uid):
            more = ("--follow",) if follow else ()
            number = "all" if lines is None else str(lines)
            # by --unit, systemd's own words about the unit would be shown, too
            flags = ("--quiet", "--no-pager", "--output=cat", "--boot", f"--lines={number}", *more)
            pass_on("journalctl", *flags, f"_SYSTEMD_UNIT={unit}", follow=follow)

    def start(self, command: Command) -> None:
        unit = self._write(command)
        for stale in self._units_of(command.uid):
            if stale != unit:  # renamed
                self._remove_unit(stale)
        try:
            _enable(unit, command)
            _systemctl("restart", unit)
        except BackendError as e:
            raise StartError(self._why(unit) or str(e)) from e

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        """Ask the unit to end; systemd kills it after the unit's grace period."""
        for unit in self._units_of(uid):
            _systemctl("stop", "--no-block", unit)
            if force:
                _systemctl("kill", "--kill-who=all", "--signal=SIGKILL", unit)

    def signal(self, uid: str, number: Signals) -> None:
        for unit in self._units_of(uid):
            try:
                _systemctl("kill", "--kill-who=main", f"--signal={number.name}", unit)
            except BackendError:
                if "MainPID=0" not in _systemctl("show", "--property=MainPID", unit):
                    raise

    def remove(self, uid: str) -> None:
        for unit in self._units_of(uid):
            self._remove_unit(unit)

    def _write(self, command: Command) -> str:
        unit = unit_name(command.name, command.uid)
        env_path = self._directory / f"{unit}.env"
        text, environment = render_unit(command, self._owner, str(env_path)), render_environment(command.env)
        path = self._units / unit
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else None
            if before is not None and read_marks(before) is None:
                raise StartError(f"{path} was not written by praetor-agent; move it away")
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(env_path, environment.encode())
            replace_file(self._copy(unit), text.encode())
            if before != text:
                replace_file(path, text.encode(), mode=0o644)
            elif "=yes" not in _systemctl("show", "--property=NeedDaemonReload", unit):
                return unit  # else an agent was killed before it reloaded systemd
            _systemctl("daemon-reload")
        except OSError as e:
            raise StartError(f"{e.filename or path} cannot be written: {e.strerror}") from e
        return unit

    def _remove_unit(self, unit: str) -> None:
        try:
            _systemctl("disable", "--quiet", "--now", unit)
        except BackendError:
            if (self._units / unit).exists():
                raise
            if "=inactive" not in _systemctl("show", "--property=ActiveState", unit):
                _systemctl("stop", unit)  # systemd still has it, though its file is gone
        (self._units / unit).unlink(missing_ok=True)
        (self._directory / f"{unit}.env").unlink(missing_ok=True)
        self._copy(unit).unlink(missing_ok=True)
        _systemctl("daemon-reload")
        with suppress(BackendError):  # systemd has already forgotten a unit that did not fail
            _systemctl("reset-failed", unit)

    def _why(self, unit: str) -> str | None:
        """Return in words why the unit's program could not be executed."""
        shown = next(_blocks(_systemctl("show", f"--property={PROPERTIES}", unit)), {})
        status = shown.get("ExecMainStatus", "")
        step = _START_FAILURES.get(int(status)) if status.isdigit() else None
        return f"systemd could not execute it: status={status}/{step}" if step else None

    def _units_of(self, uid: str) -> list[str]:
        return [unit for unit, marks in self._ours() if marks.uid == uid]

    def _ours(self) -> Iterator[tuple[str, Marks]]:
        names = {path.name for path in self._units.glob(f"{PREFIX}*.service")}
        names |= {path.name.removesuffix(".unit") for path in self._directory.glob(f"{PREFIX}*.service.unit")}
        for unit in sorted(names):
            # the copy still has the marks of a unit that was edited, or removed while it runs
            marks = read_marks(read_text(self._copy(unit)) or read_text(self._units / unit))
            if marks is not None:
                yield unit, marks

    def _copy(self, unit: str) -> Path:
        return self._directory / f"{unit}.unit"

    def _edited(self, unit: str) -> bool:
        written = read_text(self._copy(unit))
        return written not in ("", read_text(self._units / unit))

    def _at_boot(self, unit: str) -> bool:
        return read_text(self._copy(unit)).endswith(INSTALL)


def _seen(marks: Marks, props: Mapping[str, str], *, edited: bool, at_boot: bool) -> Observed:
    state, sub, pid = props.get("ActiveState", ""), props.get("SubState", ""), int(props.get("MainPID") or 0)
    running = state in _ALIVE and not (state == "active" and sub == "exited")
    code, reason = (None, None) if running else _ending(props)
    return Observed(
        uid=marks.uid,
        backend=Backend.SYSTEMD,
        spec_hash=marks.spec_hash,
        running=running,
        handle=props.get("InvocationID") or None,
        pid=pid or None,
        watch=(pid or None) if running else None,
        exit_code=code,
        termination_reason=reason,
        edited=edited,
        at_boot=at_boot,
    )


def _ending(props: Mapping[str, str]) -> tuple[int | None, str | None]:
    if props.get("ExecMainStartTimestampMonotonic") in ("", "0", None):
        return None, None  # not started under this boot
    status, signalled = int(props.get("ExecMainStatus") or 0), props.get("ExecMainCode") != _CLD_EXITED
    code = 128 + status if signalled else status
    return code, reason_of(code, signalled=signalled, out_of_memory=props.get("Result") == "oom-kill")


def _blocks(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        if block.strip():
            yield dict(line.split("=", 1) for line in block.strip().split("\n") if "=" in line)


def _enable(unit: str, command: Command) -> None:
    _systemctl("enable" if command.at_boot else "disable", "--quiet", "--no-reload", unit)


def _systemctl(*words: str) -> str:
    return call("systemctl", "--no-ask-password", *words)


BASELINE = ("NoNewPrivileges", "LockPersonality", "ProtectControlGroups")
STRICT = (
    "PrivateTmp", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
    "ProtectClock", "ProtectHostname", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
)  # fmt: skip
INSTALL = "\n[Install]\nWantedBy=multi-user.target\n"
MARKER = "# Written by praetor-agent, which overwrites changes and removes the unit with its DeviceProcess."

_PREFIXES = "-@:+!|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The marks in a unit: the process, the agent and the spec that it is for."""

    uid: str
    owner: Owner
    spec_hash: str


def unit_name(name: str, uid: str) -> str:
    """Return the name of the unit that runs the process *name*."""
    return f"{own_name(name, uid)}.service"


def render_unit(command: Command, owner: Owner, environment_file: str) -> str:
    """Return the unit that runs *command*; StartError naming the field that cannot be written safely."""
    lines = [
        MARKER,
        "[Unit]",
        f"Description=Praetor process {_plain('namespace', command.namespace)}/{_plain('name', command.name)}",
        f"X-Praetor-UID={_mark('uid', command.uid)}",
        f"X-Praetor-Device={_mark('device', owner.device)}",
        *([f"X-Praetor-Installation={owner.installation}"] if owner.installation else []),
        f"X-Praetor-SpecHash={_mark('specHash', command.spec_hash)}",
        "After=network.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={exec_line(command.argv)}",
        f"WorkingDirectory={_path('workingDir', command.working_dir)}",
        f"EnvironmentFile={_path('EnvironmentFile', environment_file)}",
        *([f"User={_plain('user', command.user)}"] if command.user is not None else []),
        "RemainAfterExit=yes",  # so that the exit status can still be read
        "Restart=no",  # the agent restarts, with the backoff and the policy of the spec
        "KillMode=control-group",
        f"TimeoutStopSec={max(1, command.grace_seconds)}",
        f"SyslogIdentifier={PREFIX}{readable(command.name)}",
        *_hardening(command),
        *_limits(command.resources),
    ]
    return "\n".join(lines) + "\n" + (INSTALL if command.at_boot else "")


def render_environment(env: Mapping[str, str]) -> str:
    """Return the environment file that sets *env*; values are taken literally."""
    return "".join(f"{name}={quote_value(name, value)}\n" for name, value in env.items())


def exec_line(argv: tuple[str, ...]) -> str:
    """Return *argv* as the value of ExecStart."""
    program = argv[0]
    if program[:1] in _PREFIXES or not program.startswith("/"):
        raise StartError(f"spec.execution.command[0]: {program!r} is not an absolute path")
    if "$" in program:
        raise StartError("spec.execution.command[0]: '$' is not possible in the program's path with systemd")
    return " ".join(quote_word(f"argv[{index}]", word) for index, word in enumerate(argv))


def quote_word(field: str, word: str) -> str:
    """Return *word* quoted for a command line: systemd expands specifiers (%) and variables ($) even in quotes."""
    safe = _refuse(field, word).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + safe.replace("%", "%%").replace("$", "$$") + '"'


def quote_value(name: str, value: str) -> str:
    """Return *value* quoted for an environment file, where nothing is expanded and lines may break."""
    fault = environment.variable_fault(Backend.SYSTEMD, name, value)
    if fault is not None:
        raise StartError(f"spec.{fault}")
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def read_marks(text: str) -> Marks | None:
    """Return the marks of a unit, or None if it is not ours."""
    if not text.startswith(MARKER + "\n"):
        return None
    found = dict(
        line.removeprefix("X-Praetor-").split("=", 1) for line in text.split("\n") if line[:10] == "X-Praetor-"
    )
    try:
        owner = Owner(found["Device"], found.get("Installation", ""))
        return Marks(uid=found["UID"], owner=owner, spec_hash=found["SpecHash"])
    except KeyError:
        return None


def _hardening(command: Command) -> list[str]:
    """Return what systemd keeps from the process. The baseline breaks nothing that upgrades firmware or routes."""
    if command.hardening is Hardening.UNCONFINED:
        return []
    if command.hardening is Hardening.BASELINE:
        return [f"{directive}=yes" for directive in BASELINE]
    path = command.working_dir.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    own = [f'ReadWritePaths="{path}"'] if command.working_dir.strip("/") else []
    return [f"{directive}=yes" for directive in (*BASELINE, *STRICT)] + [
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "SystemCallArchitectures=native",
        *own,
    ]


def _limits(resources: Resources | None) -> list[str]:
    directives = {"memory": "MemoryMax={}", "cpu": "CPUQuota={}%", "tasks": "TasksMax={}"}
    return [directives[resource].format(value) for resource, value in wanted(resources)]


def _mark(field: str, text: str) -> str:
    """Return *text* as it is: systemd does not read these lines, but they must stay lines."""
    if text != text.strip() or text.endswith("\\"):
        raise StartError(f"{field}: {text!r} cannot be written into a unit")
    return _refuse(field, text)


def _plain(field: str, text: str) -> str:
    return _mark(field, text).replace("%", "%%")


def _path(field: str, path: str) -> str:
    if not path.startswith("/"):
        raise StartError(f"spec.execution.{field}: {path!r} is not an absolute path")
    return _plain(f"spec.execution.{field}", path)


def _refuse(field: str, text: str) -> str:
    fault = environment.word_fault(Backend.SYSTEMD, field, text)
    if fault is not None:
        raise StartError(fault if field.startswith("spec.") else f"spec.execution: {fault}")
    return text
