# SPDX-License-Identifier: Apache-2.0
"""SysV and busybox init: one script per process, which starts our shim; at boot too once its version is proven.

The shim is a copy beside the jobs, so that init can start processes without the agent, or with an agent in a zipapp.
The script contains nothing of the command, which the shim reads from its job. What it does contain is untrusted: words
are quoted for a POSIX shell, comments contain no line breaks. Only scripts that carry our marker are ever touched, and
no shared file such as inittab.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from praetor_agent.backends import procfs
from praetor_agent.backends.command import Command
from praetor_agent.backends.process import ProcessBackend
from praetor_agent.backends.protocol import DEFINITIONS, PREFIX, Owner, call, own_name
from praetor_agent.core.model import Observed
from praetor_agent.errors import BackendError, StartError
from praetor_agent.state import read_text, replace_file
from praetor_api.backports import dataclass
from praetor_api.spec import Backend

log = logging.getLogger(__name__)

SCRIPT_DIRECTORY = DEFINITIONS[Backend.INITD]


class InitdBackend(ProcessBackend):
    """Runs processes by init scripts of *owner*; jobs and records are kept in *directory*."""

    name = Backend.INITD

    def __init__(self, owner: Owner, directory: Path, boot_id: str, scripts: Path = SCRIPT_DIRECTORY) -> None:
        super().__init__(directory, boot_id, device=owner.device)
        self._owner = owner
        self._scripts = scripts

    def observe(self) -> Mapping[str, Observed]:
        seen = {
            uid: replace(found, edited=self._edited(uid), at_boot=self._at_boot(uid))
            for uid, found in super().observe().items()
        }
        for path in self._scripts.glob(f"{PREFIX}*"):
            marks = read_marks(read_text(path))
            if marks is not None:
                uid, mark = marks
                written = Observed(uid=uid, backend=self.name, spec_hash="", running=False)  # but not started yet
                seen[uid] = self._owner.judged(seen.get(uid, written), mark, f"script {path}")
        return seen

    def repair(self, command: Command) -> None:
        self._write(command, self.place(command.uid))

    def remove(self, uid: str) -> None:
        """Remove the script and the directory of a process that ended."""
        for path in self._scripts_of(uid):
            _enable(path.name, False, self._scripts)
            path.unlink(missing_ok=True)
        super().remove(uid)

    def _boot_of_job(self) -> str:
        return ""  # the shim asks the kernel: init may start it in another boot

    def _launch_shim(self, command: Command, place: Path, job: bytes) -> str:
        from pkgutil import get_data

        try:
            replace_file(self._directory / "shim.py", get_data(__package__, "shim.py") or b"")
            replace_file(place / "job", job)
            for path in self._scripts_of(command.uid):
                if f"dir={quote(str(place))}\n" not in read_text(path):
                    _stop_elsewhere(path)
            path = self._write(command, place)
        except OSError as e:
            raise StartError(f"{e.filename or place} cannot be written: {e.strerror}") from e
        environment = procfs.markers(command.uid, place) | {"PATH": os.environ.get("PATH", os.defpath)}
        try:
            call(str(path), "start", env=environment)
        except BackendError as e:
            return str(e)
        return "ok"

    def _write(self, command: Command, place: Path) -> Path:
        name = own_name(command.name, command.uid)
        path = self._scripts / name
        places = Places(
            place=str(place), shim=str(self._directory / "shim.py"), python=os.path.realpath(sys.executable)
        )
        text = render_script(command, self._owner, places).encode()
        marks = read_marks(read_text(path))
        if path.exists() and marks is None:
            raise StartError(f"{path} was not written by praetor-agent; move it away")
        for stale in self._scripts_of(command.uid):
            if stale != path:  # renamed
                _enable(stale.name, False, self._scripts)
                stale.unlink()
        if not path.exists() or path.read_bytes() != text:
            replace_file(path, text, mode=0o755)
        replace_file(place / "script", text)
        if not _enable(name, command.at_boot, self._scripts) and command.at_boot:
            log.warning("init will not start it at boot without the agent script=%s", path)
        return path

    def _edited(self, uid: str) -> bool:
        """Return whether the script was edited or removed."""
        with suppress(OSError):
            written = (self.place(uid) / "script").read_bytes()
            return [path.read_bytes() for path in self._scripts_of(uid)] != [written]
        return False

    def _at_boot(self, uid: str) -> bool:
        return NOT_AT_BOOT not in read_text(self.place(uid) / "script")

    def _scripts_of(self, uid: str) -> list[Path]:
        pattern = f"{PREFIX}*-{own_name('', uid)[-16:]}"
        return [path for path in self._scripts.glob(pattern) if (read_marks(read_text(path)) or ("",))[0] == uid]


def _stop_elsewhere(path: Path) -> None:
    """Stop what a script runs from another state directory, where we do not see it."""
    try:
        call(str(path), "stop")
    except BackendError as e:
        raise StartError(f"{path} runs the process already and cannot stop it: {e}") from e


def _enable(name: str, wanted: bool, scripts: Path) -> bool:
    """Let init start the script at boot, or not; return whether this device has a way to do so.

    By update-rc.d or chkconfig; else by the link S95… where an rcS starts all that is called so (busybox, Buildroot).
    """
    if scripts != SCRIPT_DIRECTORY:
        return False  # init does not read this directory
    if shutil.which("update-rc.d"):
        with suppress(BackendError):
            call("update-rc.d", *((name, "defaults", "95", "05") if wanted else ("-f", name, "remove")))
        return True
    if shutil.which("chkconfig"):
        with suppress(BackendError):
            call("chkconfig", "--add" if wanted else "--del", name)
        return True
    link = scripts / f"S95{name}"
    with suppress(OSError):
        if wanted and "S??" in (scripts / "rcS").read_text(errors="replace"):
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            return True
        if not wanted and link.is_symlink():
            link.unlink()
    return False


MARKER = "# Written by praetor-agent, which overwrites changes and removes the script with its DeviceProcess."
NOT_AT_BOOT = "# Only praetor-agent starts it, not init at boot.\n"

_SCRIPT = """#!/bin/sh
{marker}
# X-Praetor-UID={uid}
# X-Praetor-Device={device}
{installation}{boot}### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $local_fs
# Required-Stop:     $local_fs
# Should-Start:      $network $syslog
# Should-Stop:       $network $syslog
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Praetor process {title}
### END INIT INFO
# chkconfig: 2345 95 05
# description: Praetor process {title}

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name={name}
dir={place}
shim={shim}
python={python}
grace={grace}

# The record identifies the process by boot, pid and start time, because the kernel reuses pids.
running() {{
    {{ read -r uid && read -r hash && read -r boot && read -r pid ticks; }} 2>/dev/null <"$dir/run" || return 1
    [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    set -f
    set -- ${{stat##*) }}
    [ "$1" != Z ] && [ "$1" != X ] && [ "${{20}}" = "$ticks" ]
}}

start() {{
    running && return 0
    rm -f "$dir/pid"
    [ -x "$python" ] || python=$(command -v python3) || {{ echo "$name: there is no python3" >&2; return 5; }}
    cd / && umask 022
    if command -v start-stop-daemon >/dev/null 2>&1; then
        answer=$(start-stop-daemon -S -q -p "$dir/pid" -a "$python" -- -I -S "$shim" <"$dir/job" 2>&1)
    else
        answer=$("$python" -I -S "$shim" <"$dir/job" 2>&1)
    fi
    [ "$answer" = ok ] || running && return 0  # the agent or init may have been faster
    printf '%s\\n' "$answer"
    return 1
}}

stop() {{
    running || return 0
    kill -TERM "-$pid"
    while running; do
        [ "$grace" -gt 0 ] || kill -KILL "-$pid"
        [ "$grace" -gt -5 ] || {{ echo "$name: process $pid does not end" >&2; return 1; }}
        grace=$((grace - 1))
        sleep 1
    done
}}

case "$1" in
    start) start ;;
    stop) stop ;;
    restart | force-reload) stop && start ;;
    status) if running; then echo "$name runs, process $pid"; else echo "$name does not run"; exit 3; fi ;;
    *) echo "Usage: $0 {{start|stop|restart|force-reload|status}}" >&2; exit 2 ;;
esac
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the shim and its files are on the device."""

    place: str
    shim: str
    python: str


def render_script(command: Command, owner: Owner, places: Places) -> str:
    """Return the script that starts and stops *command*; StartError naming what cannot be written safely."""
    return _SCRIPT.format(
        marker=MARKER,
        uid=_comment("uid", command.uid),
        device=_comment("device", owner.device),
        installation=f"# X-Praetor-Installation={owner.installation}\n" if owner.installation else "",
        boot="" if command.at_boot else NOT_AT_BOOT,
        name=own_name(command.name, command.uid),
        title=_comment("name", f"{command.namespace}/{command.name}"),
        place=quote(places.place),
        shim=quote(places.shim),
        python=quote(places.python),
        grace=max(1, command.grace_seconds),
    )


def quote(word: str) -> str:
    """Return *word* as one word of a POSIX shell, where nothing but a quote is special between quotes."""
    if "\0" in word:
        raise StartError(f"{word!r} holds a NUL character, which no argument can contain")
    return "'" + word.replace("'", "'\\''") + "'"


def read_marks(text: str) -> tuple[str, Owner] | None:
    """Return uid and owner of a script with our marker, or None."""
    lines = [*text.split("\n")[1:5], "", "", ""]
    keys = ("# X-Praetor-UID=", "# X-Praetor-Device=", "# X-Praetor-Installation=")
    if lines[0] != MARKER or not lines[1].startswith(keys[0]) or not lines[2].startswith(keys[1]):
        return None
    installation = lines[3].removeprefix(keys[2]) if lines[3].startswith(keys[2]) else ""
    return lines[1].removeprefix(keys[0]), Owner(lines[2].removeprefix(keys[1]), installation)


def _comment(field: str, text: str) -> str:
    if not text.isprintable():
        raise StartError(f"{field}: {text!r} cannot be written into an init script")
    return text
