"""A systemd unit as text. Pure. Spec text is hostile: every value is escaped, or refused with the field's name.

Values of the environment go into a file of their own, for anybody may read units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from praetor_agent.backends.naming import PREFIX, own_name, readable
from praetor_agent.backends.quantity import bytes_of, cpu_percent
from praetor_agent.errors import StartError
from praetor_agent.launch import Launch
from praetor_api.spec import Hardening, Resources

BASELINE = ("NoNewPrivileges", "LockPersonality", "ProtectControlGroups")
STRICT = (
    "PrivateTmp", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
    "ProtectClock", "ProtectHostname", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
)  # fmt: skip
MARKER = "# Written by praetor-agent, which overwrites changes and removes the unit with its DeviceProcess."

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_PREFIXES = "-@:+!|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a unit of ours says of itself: whose process it is, for which device, and from which spec."""

    uid: str
    device: str
    spec_hash: str


def unit_name(name: str, uid: str) -> str:
    """Return the name of the unit that runs the process *name*."""
    return f"{own_name(name, uid)}.service"


def render_unit(launch: Launch, device: str, environment_file: str) -> str:
    """Return the unit that runs *launch*; StartError naming the field that cannot be written safely."""
    lines = [
        MARKER,
        "[Unit]",
        f"Description=Praetor process {_plain('namespace', launch.namespace)}/{_plain('name', launch.name)}",
        f"X-Praetor-UID={_mark('uid', launch.uid)}",
        f"X-Praetor-Device={_mark('device', device)}",
        f"X-Praetor-SpecHash={_mark('specHash', launch.spec_hash)}",
        "After=network.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={exec_line(launch.argv)}",
        f"WorkingDirectory={_path('workingDir', launch.working_dir)}",
        f"EnvironmentFile={_path('EnvironmentFile', environment_file)}",
        *([f"User={_plain('user', launch.user)}"] if launch.user is not None else []),
        "RemainAfterExit=yes",  # how it ended stays to be read
        "Restart=no",  # the agent restarts, with the backoff and the policy of the spec
        "KillMode=control-group",
        f"TimeoutStopSec={max(1, launch.grace_seconds)}",
        f"SyslogIdentifier={PREFIX}{readable(launch.name)}",
        *_hardening(launch),
        *_limits(launch.resources),
        *(["", "[Install]", "WantedBy=multi-user.target"] if launch.at_boot else []),
    ]
    return "\n".join(lines) + "\n"


def render_environment(env: Mapping[str, str]) -> str:
    """Return the environment file that sets *env*; values are taken literally."""
    return "".join(f"{_variable(name)}={quote_value(name, value)}\n" for name, value in env.items())


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
    safe = _refuse_control(field, word).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + safe.replace("%", "%%").replace("$", "$$") + '"'


def quote_value(name: str, value: str) -> str:
    """Return *value* quoted for an environment file, where nothing is expanded."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", _refuse_control(f"env[{name}]", value)) + '"'


def read_marks(text: str) -> Marks | None:
    """Return what a unit says of itself, or None when it is none of ours."""
    if not text.startswith(MARKER + "\n"):
        return None
    found = dict(
        line.removeprefix("X-Praetor-").split("=", 1) for line in text.split("\n") if line[:10] == "X-Praetor-"
    )
    try:
        return Marks(uid=found["UID"], device=found["Device"], spec_hash=found["SpecHash"])
    except KeyError:
        return None


def _hardening(launch: Launch) -> list[str]:
    """Return what systemd keeps from the process. The baseline breaks nothing that upgrades firmware or routes."""
    if launch.hardening is Hardening.UNCONFINED:
        return []
    if launch.hardening is Hardening.BASELINE:
        return [f"{directive}=yes" for directive in BASELINE]
    path = launch.working_dir.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    own = [f'ReadWritePaths="{path}"'] if launch.working_dir.strip("/") else []
    return [f"{directive}=yes" for directive in (*BASELINE, *STRICT)] + [
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "SystemCallArchitectures=native",
        *own,
    ]


def _limits(resources: Resources | None) -> list[str]:
    if resources is None:
        return []
    lines = []
    if resources.memory is not None:
        lines.append(f"MemoryMax={bytes_of(resources.memory)}")
    if resources.cpu is not None:
        lines.append(f"CPUQuota={cpu_percent(resources.cpu)}%")
    if resources.tasks is not None:
        lines.append(f"TasksMax={resources.tasks}")
    return lines


def _variable(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise StartError(f"spec.execution.env: systemd takes no variable named {name!r}; use letters, digits and '_'")
    return name


def _mark(field: str, text: str) -> str:
    """Return *text* as it is: systemd does not read these lines, but they must stay lines."""
    if text != text.strip() or text.endswith("\\"):
        raise StartError(f"{field}: {text!r} cannot be written into a unit")
    return _refuse_control(field, text)


def _plain(field: str, text: str) -> str:
    return _mark(field, text).replace("%", "%%")


def _path(field: str, path: str) -> str:
    if not path.startswith("/"):
        raise StartError(f"spec.execution.{field}: {path!r} is not an absolute path")
    return _plain(f"spec.execution.{field}", path)


def _refuse_control(field: str, text: str) -> str:
    if _CONTROL.search(text):
        raise StartError(f"spec.execution: {field} holds a control character, which a systemd unit cannot carry")
    return text
