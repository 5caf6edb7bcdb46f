"""The agent itself as a service: a unit of systemd, or a SysV script whose launcher starts it again when it ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from praetor_agent.backends.protocol import call
from praetor_agent.errors import AgentError, BackendError, UsageError
from praetor_agent.state import replace_file

NAME = "praetor-agent"
UNIT = Path("/etc/systemd/system") / f"{NAME}.service"
SCRIPT = Path("/etc/init.d") / NAME
COMMAND_SECONDS = 90

# KillMode: what the backend `process` runs is in this unit's cgroup, and lives on. Of hardening only what these
# processes do not inherit to their harm: they are the user's, and anything more would change what they may do.
UNIT_TEXT = """\
# Written by praetor-agent install.
[Unit]
Description=Praetor agent
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={python} -I -S {root}/launcher.py
Restart=always
RestartSec=2
KillMode=process
TasksMax=infinity
UMask=0077
LockPersonality=yes
KeyringMode=private

[Install]
WantedBy=multi-user.target
"""

SCRIPT_TEXT = """\
#!/bin/sh
# Written by praetor-agent install.
### BEGIN INIT INFO
# Provides:          praetor-agent
# Required-Start:    $remote_fs $network
# Required-Stop:     $remote_fs $network
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Praetor agent
### END INIT INFO
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LAUNCHER={root}/launcher.py
PIDFILE=/run/praetor-agent.pid

running() {{
  [ -s "$PIDFILE" ] && grep -q "$LAUNCHER" "/proc/$(cat "$PIDFILE")/cmdline" 2>/dev/null
}}

start() {{
  running && return 0
  {python} -I -S "$LAUNCHER" respawn /var/log/praetor-agent.log </dev/null >/dev/null 2>&1 &
  echo $! >"$PIDFILE"
}}

stop() {{
  running || return 0
  pid=$(cat "$PIDFILE")
  kill -TERM "$pid"
  left=60
  while running && [ "$left" -gt 0 ]; do sleep 0.5; left=$((left - 1)); done
  running && return 1
  rm -f "$PIDFILE"
}}

case "$1" in
  start) start ;;
  stop) stop ;;
  restart|force-reload) stop && start ;;
  status) if running; then echo "praetor-agent runs"; else echo "praetor-agent does not run"; exit 3; fi ;;
  *) echo "usage: $0 {{start|stop|restart|force-reload|status}}" >&2; exit 2 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Service:
    """How the init system *init* keeps the agent in *root*."""

    init: str
    root: Path

    @property
    def name(self) -> str:
        """What people call it."""
        return UNIT.name if self.init == "systemd" else str(SCRIPT)

    def install(self, python: str) -> None:
        """Write the service and start it anew."""
        systemd = self.init == "systemd"
        text = (UNIT_TEXT if systemd else SCRIPT_TEXT).format(python=python, root=self.root)
        try:
            replace_file(UNIT if systemd else SCRIPT, text.encode(), mode=0o644 if systemd else 0o755)
        except OSError as e:
            raise AgentError(f"{UNIT if systemd else SCRIPT} cannot be written: {e.strerror}; try as root") from e
        if systemd:
            _run("systemctl", "daemon-reload")
            _run("systemctl", "enable", "--quiet", UNIT.name)
        else:
            _enable((("update-rc.d", NAME, "defaults"), ("chkconfig", "--add", NAME)))
        self.restart()

    def restart(self) -> None:
        """Start it anew; what it runs lives on."""
        _run(*(("systemctl", "restart", UNIT.name) if self.init == "systemd" else (str(SCRIPT), "restart")))

    def uninstall(self) -> None:
        """Stop it and take the service away."""
        if self.init == "systemd":
            _run("systemctl", "disable", "--quiet", "--now", UNIT.name)
            UNIT.unlink(missing_ok=True)
            _run("systemctl", "daemon-reload")
            return
        _run(str(SCRIPT), "stop")
        SCRIPT.unlink(missing_ok=True)
        _enable((("update-rc.d", NAME, "remove"), ("chkconfig", "--del", NAME)))


def chosen(init: str, root: Path) -> Service:
    """Return the service of *init*, of the device's own for `auto`; UsageError when that is none we know."""
    if init == "auto":
        init = "systemd" if os.path.isdir("/run/systemd/system") else "sysv" if SCRIPT.parent.is_dir() else ""
    if init not in ("systemd", "sysv"):
        raise UsageError("--init: neither systemd nor /etc/init.d is here; start ROOT/launcher.py by your own means")
    if not str(root).isascii() or any(letter in str(root) for letter in " %$\"'\\"):
        raise UsageError(f"--root {root} holds letters that a service cannot name")
    return Service(init, root)


def installed(root: Path) -> Service:
    """Return the service that was installed for *root*; AgentError when there is none."""
    if UNIT.exists():
        return Service("systemd", root)
    if SCRIPT.exists():
        return Service("sysv", root)
    raise AgentError(f"neither {UNIT} nor {SCRIPT} is there; run: praetor-agent install")


def _enable(commands: Iterable[tuple[str, ...]]) -> None:
    """Run the first of *commands* that this device has; without any, the script is started by hand."""
    for command in commands:
        if shutil.which(command[0]):
            _run(*command)
            return


def _run(*command: str) -> None:
    try:
        call(*command, timeout=COMMAND_SECONDS)
    except BackendError as e:
        raise AgentError(str(e)) from e
