# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent install`, `upgrade` and `uninstall`: versions side by side, a launcher, and a service.

ROOT/versions/VERSION-DIGEST/   a version, as a folder that Python runs
ROOT/current, previous, trial   links to versions; see the launcher
ROOT/agent.env                  the flags, as variables, and ROOT/token
/usr/local/bin/praetor-agent    runs ROOT/current

The service is a unit of systemd, or a SysV script whose launcher starts the agent again when it ended.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from praetor_agent.__about__ import __version__
from praetor_agent.backends.protocol import Backend, call
from praetor_agent.core.model import Memory, Observed
from praetor_agent.errors import AgentError, BackendError, UsageError
from praetor_agent.service.bootstrap import TRIAL_SECONDS
from praetor_agent.state import is_locked, read_text, replace_file, sync_directory
from praetor_api.backports import dataclass

NAME = "praetor-agent"
UNIT = Path("/etc/systemd/system") / f"{NAME}.service"
SCRIPT = Path("/etc/init.d") / NAME
COMMAND = Path("/usr/local/bin") / NAME
COMMAND_SECONDS = 90

# KillMode: what the backend `process` runs is in this unit's cgroup, and lives on. Of hardening only what these
# processes do not inherit to their harm: they are the user's, and anything more would change what they may do. Not
# network-online.target: a boot without network must start the processes, too.
UNIT_TEXT = """\
# Written by praetor-agent install.
[Unit]
Description=Praetor agent
After=network.target
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
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Should-Start:      $network
# Should-Stop:       $network
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


COMMAND_TEXT = """\
#!/bin/sh
# Written by praetor-agent install.
PRAETOR_AGENT_ROOT={root}
export PRAETOR_AGENT_ROOT
exec {python} -I {root}/current "$@"
"""


@dataclass(frozen=True, slots=True)
class Service:
    """The agent in *root* as a service of the init system *init*."""

    init: str
    root: Path

    @property
    def name(self) -> str:
        """Name of the service, for messages."""
        return UNIT.name if self.init == "systemd" else str(SCRIPT)

    def write(self, python: str) -> None:
        """Write the service, which starts at boot from now on, and the command on PATH."""
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
        if _is_ours(COMMAND):  # else it is on PATH already, by pip
            with suppress(OSError):  # a read-only file system
                COMMAND.parent.mkdir(parents=True, exist_ok=True)
                replace_file(COMMAND, COMMAND_TEXT.format(python=python, root=self.root).encode(), mode=0o755)

    def restart(self) -> None:
        """Restart the agent; its processes run on."""
        _run(*(("systemctl", "restart", UNIT.name) if self.init == "systemd" else (str(SCRIPT), "restart")))

    def uninstall(self) -> None:
        """Stop the agent and remove the service."""
        if _is_ours(COMMAND):
            with suppress(OSError):
                COMMAND.unlink(missing_ok=True)
        if self.init == "systemd":
            _run("systemctl", "disable", "--quiet", "--now", UNIT.name)
            UNIT.unlink(missing_ok=True)
            _run("systemctl", "daemon-reload")
            return
        _run(str(SCRIPT), "stop")
        SCRIPT.unlink(missing_ok=True)
        _enable((("update-rc.d", NAME, "remove"), ("chkconfig", "--del", NAME)))


def _is_ours(path: Path) -> bool:
    """Return whether *path* was written by an installation, or may be."""
    return "\n# Written by praetor-agent install.\n" in read_text(path) or not os.path.lexists(path)


def service_of(init: str, root: Path) -> Service:
    """Return the service of *init*, of the device's own for `auto`; UsageError if it is unknown."""
    if init == "auto":
        init = "systemd" if os.path.isdir("/run/systemd/system") else "sysv" if SCRIPT.parent.is_dir() else ""
    if init not in ("systemd", "sysv"):
        raise UsageError("--init: neither systemd nor /etc/init.d is here; start ROOT/launcher.py yourself")
    if not str(root).isascii() or any(letter in str(root) for letter in " %$\"'\\"):
        raise UsageError(f"--root {root} contains characters that no service can name; choose another")
    return Service(init, root)


def installed_service(root: Path) -> Service:
    """Return the service that was installed for *root*; AgentError if there is none."""
    if UNIT.exists():
        return Service("systemd", root)
    if SCRIPT.exists():
        return Service("sysv", root)
    raise AgentError(f"neither {UNIT} nor {SCRIPT} is there; run: praetor-agent install")


def _enable(commands: Iterable[tuple[str, ...]]) -> None:
    """Run the first of *commands* that this device has; without any, an operator must start the script."""
    for command in commands:
        if shutil.which(command[0]):
            _run(*command)
            return


def _run(*command: str) -> None:
    try:
        call(*command, timeout=COMMAND_SECONDS)
    except BackendError as e:
        raise AgentError(str(e)) from e


END_SECONDS = 60.0
PACKAGES = ("praetor_agent", "praetor_api", "requests", "urllib3", "idna", "certifi")
OTHERS = ("charset_normalizer", "chardet", "six")
"""What one requests needs and another does not: those of distributions have parts of urllib3 beside it."""


def install(root: Path, init: str, variables: Mapping[str, str], token: str | None) -> str:
    """Install this agent below *root* with *variables*, start it and return what was done; AgentError if impossible."""
    service = service_of(init, root)
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        if token is not None:
            replace_file(root / "token", f"{token}\n".encode())
            variables = {**variables, "PRAETOR_AGENT_TOKEN_FILE": str(root / "token")}
        lines = (f"{name}={value}\n" for name, value in sorted(variables.items()))
        replace_file(root / "agent.env", "".join(lines).encode())
        version = _put(root)
        replace_file(root / "launcher.py", _source("service/bootstrap.py"), mode=0o644)
        _give_up_trial(root)
        _link(root, "current", version)
    except OSError as e:
        raise _cannot("install", e) from e
    service.write(_python())
    service.restart()
    return f"{version} is installed in {root} and runs as {service.name}"


def upgrade(root: Path, file: str | None) -> str:
    """Put this agent, or the zipapp *file*, on trial in place of the installed one; AgentError if it was rejected."""
    if not (root / "current").is_symlink():
        raise AgentError(f"no agent is installed in {root}; run: praetor-agent install")
    service = installed_service(root)
    before = os.path.basename(os.path.realpath(root / "current"))
    try:
        version = _put(root, Path(file) if file else None)
        if version == before:
            return f"{version} is installed already"
        _give_up_trial(root)
        _link(root, "previous", before)
        _link(root, "trial", version)
        _prune(root)
        service.write(_python())  # what a newer version expects of it
    except (OSError, zipfile.BadZipFile) as e:
        raise _cannot("upgrade", e) from e
    service.restart()
    deadline = time.monotonic() + TRIAL_SECONDS + 30
    while (root / "trial").is_symlink():
        if time.monotonic() > deadline:
            raise AgentError(f"{version} is still on trial; see: praetor-agent status")
        time.sleep(0.2)
    if os.path.basename(os.path.realpath(root / "current")) != version:
        raise AgentError(f"{before} is back: {rejected(root)}")
    return f"{version} runs; the old one is {before}"


def uninstall(root: Path, state_dir: Path, remove: Callable[[], None] | None) -> str:
    """Uninstall the agent; with *remove*, its processes, state and settings, too."""
    if (root / "current").is_symlink():
        if UNIT.exists() or SCRIPT.exists():  # else an earlier uninstall removed it and got no further
            installed_service(root).uninstall()
    elif remove is None or not (root / "agent.env").exists():
        raise AgentError(f"no agent is installed in {root}")
    if remove is not None:
        if is_locked(state_dir):
            raise AgentError(f"an agent runs with {state_dir}; stop it, and try again")
        remove()
        shutil.rmtree(state_dir, ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
        return f"the agent, its processes, {root} and {state_dir} are removed"
    for name in ("current", "previous", "trial", "attempts", "rejected", "launcher.py"):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / "versions", ignore_errors=True)
    kept = f"{state_dir}, {root}/agent.env and the token in {root}/token" if (root / "token").exists() else None
    kept = kept or f"{state_dir} and {root}/agent.env"
    return f"the agent is uninstalled; its processes run on, {kept} are kept"


def state_dir_of(root: Path) -> str | None:
    """Return where the installed agent keeps its state."""
    with suppress(OSError):
        for line in (root / "agent.env").read_text(encoding="utf-8").splitlines():
            if line.startswith("PRAETOR_AGENT_STATE_DIR="):
                return line.partition("=")[2]
    return None


def remove_processes(state_dir: Path) -> None:
    """Stop all processes of the agent with *state_dir*, and remove what is left of them."""
    from praetor_agent.backends import procfs
    from praetor_agent.files.store import FileStore
    from praetor_agent.host import Backends
    from praetor_agent.state import State

    problems, state = [], State(state_dir)
    memory = state.load_memory()
    for backend in Backends(state.device(), state_dir, procfs.boot_id() or "").values():
        try:
            _end_all(backend, memory)
        except (BackendError, OSError) as e:
            problems.append(str(e))
    if not problems:
        FileStore(state_dir / "files", state_dir / "files.json").collect(())
    if problems:
        raise AgentError(f"not all processes could be removed: {'; '.join(problems)}; fix that, and try again")


def _end_all(backend: Backend, memory: Memory) -> None:
    def ours() -> dict[str, Observed]:
        found = {uid: seen for uid, seen in backend.observe().items() if uid in memory or not seen.unknown}
        for uid, seen in found.items():
            if seen.unseen:
                raise BackendError(f"it is not known whether the process {uid} runs: {seen.unseen}")
        return found

    deadline = time.monotonic() + END_SECONDS
    for uid, seen in ours().items():
        if seen.running:
            backend.stop(uid, grace_seconds=int(END_SECONDS), force=False)
    while any(seen.running for seen in ours().values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for uid, seen in ours().items():
        if seen.running:
            backend.stop(uid, grace_seconds=0, force=True)
        backend.remove(uid)


def promote() -> None:
    """Make the running version the current one if it is on trial: the gateway answered it."""
    root = os.environ.pop("PRAETOR_AGENT_ON_TRIAL", None)
    if root is None:
        return
    os.replace(f"{root}/trial", f"{root}/current")
    signal.alarm(0)
    sync_directory(Path(root))
    Path(root, "attempts").unlink(missing_ok=True)
    Path(root, "rejected").unlink(missing_ok=True)


def rejected(root: Path) -> str:
    """Return which version was rejected last and why, or ""."""
    with suppress(OSError):
        return (root / "rejected").read_text(encoding="utf-8").strip()
    return ""


def _put(root: Path, file: Path | None = None) -> str:
    """Copy a version into ROOT/versions and return its name, which contains a digest of its content."""
    staging = root / "versions" / ".new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True, mode=0o755)
    here = Path(__file__).parents[2]
    archive = file or (here if here.is_file() else None)
    if archive is not None:
        with zipfile.ZipFile(archive) as zipped:
            if "praetor_agent/__about__.py" not in zipped.namelist():
                raise UsageError(f"{archive} is not a praetor-agent zipapp")
            zipped.extractall(staging)  # it will run as root, so it is trusted anyway
    elif (here / "__main__.py").is_file():  # an installed version: the same one again, with its licences
        shutil.copytree(here, staging, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        import_module("requests")
        for name in (*PACKAGES, *(name for name in OTHERS if name in sys.modules)):
            spec = find_spec(name)
            source = next(iter(spec.submodule_search_locations or ()), spec.origin) if spec else None
            if source is None:
                raise AgentError(f"the package {name} cannot be found beside this agent")
            if os.path.isfile(source):
                shutil.copy2(source, staging)
            else:
                shutil.copytree(source, staging / name, ignore=shutil.ignore_patterns("__pycache__", "kube"))
        (staging / "__main__.py").write_bytes(_source("__main__.py"))
    digest = hashlib.sha256()
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            with path.open("rb") as content:
                digest.update(f"{path.relative_to(staging)}\0".encode() + content.read())
                os.fsync(content.fileno())
    about = (staging / "praetor_agent" / "__about__.py").read_text(encoding="utf-8")
    number = about.split('"')[1]
    version = f"{number}-{digest.hexdigest()[:8]}"
    if (root / "versions" / version).exists():
        shutil.rmtree(staging)
    else:
        staging.rename(root / "versions" / version)
        sync_directory(root / "versions")
    return version


def _source(name: str) -> bytes:
    import pkgutil

    return pkgutil.get_data("praetor_agent", name) or b""


def _link(root: Path, name: str, version: str) -> None:
    fresh = root / f"{name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(f"versions/{version}")
    os.replace(fresh, root / name)
    sync_directory(root)


def _give_up_trial(root: Path) -> None:
    for name in ("trial", "attempts", "rejected"):
        (root / name).unlink(missing_ok=True)


def _prune(root: Path) -> None:
    kept = {os.path.basename(os.path.realpath(root / name)) for name in ("current", "previous", "trial")}
    for path in (root / "versions").iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _python() -> str:
    """Return the base interpreter, because a virtual environment may be removed."""
    base = str(getattr(sys, "_base_executable", "") or sys.executable)
    if base == sys.executable and sys.prefix != sys.base_prefix:  # before Python 3.11 that is the environment's own
        base = os.path.realpath(sys.executable)
    return base


def _cannot(what: str, error: BaseException) -> AgentError:
    words = error.strerror if isinstance(error, OSError) else str(error)
    file = getattr(error, "filename", None)
    hint = "; try as root" if isinstance(error, PermissionError) else ""
    return AgentError(f"cannot {what} {__version__}: {f'{file}: ' if file else ''}{words}{hint}")
