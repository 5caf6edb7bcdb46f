"""A SysV init script as text. Pure. Nothing of the spec that is executed is in it: the stage reads that from its job.

What is in it is hostile all the same: words are quoted for a POSIX shell, comments hold no line breaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from praetor_agent.backends.naming import own_name
from praetor_agent.errors import StartError
from praetor_agent.launch import Launch

MARKER = "# Written by praetor-agent, which overwrites changes and removes the script with its DeviceProcess."

_SCRIPT = """#!/bin/sh
{marker}
# X-Praetor-UID={uid}
# X-Praetor-Device={device}
### BEGIN INIT INFO
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

# The record names the process by boot, pid and start time: a pid alone may be somebody else's by now.
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
    [ "$answer" = ok ] || running && return 0  # somebody else may have been quicker
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
    """Where the stage and what it reads are on the device."""

    place: str
    shim: str
    python: str


def render_script(launch: Launch, device: str, places: Places) -> str:
    """Return the script that starts and stops *launch*; StartError naming what cannot be written safely."""
    return _SCRIPT.format(
        marker=MARKER,
        uid=_comment("uid", launch.uid),
        device=_comment("device", device),
        name=own_name(launch.name, launch.uid),
        title=_comment("name", f"{launch.namespace}/{launch.name}"),
        place=quote(places.place),
        shim=quote(places.shim),
        python=quote(places.python),
        grace=max(1, launch.grace_seconds),
    )


def quote(word: str) -> str:
    """Return *word* as one word of a POSIX shell, where nothing but a quote is special between quotes."""
    if "\0" in word:
        raise StartError(f"{word!r} holds a NUL character, which no program can be given")
    return "'" + word.replace("'", "'\\''") + "'"


def owner(text: str) -> tuple[str, str] | None:
    """Return uid and device of a script of ours; None of anybody else's."""
    lines = text.split("\n")[1:4]
    keys = ("# X-Praetor-UID=", "# X-Praetor-Device=")
    if len(lines) < 3 or lines[0] != MARKER or not all(map(str.startswith, lines[1:], keys)):
        return None
    return lines[1].removeprefix(keys[0]), lines[2].removeprefix(keys[1])


def _comment(field: str, text: str) -> str:
    if not text.isprintable():
        raise StartError(f"{field}: {text!r} cannot be written into an init script")
    return text
