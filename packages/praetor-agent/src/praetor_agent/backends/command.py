# SPDX-License-Identifier: Apache-2.0
"""Turn a spec into a command: user, argv, environment, directory. Reads the device's users and files only."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from praetor_agent.core.model import Revision
from praetor_agent.errors import StartError
from praetor_api.backports import dataclass
from praetor_api.spec import Backend, Container, Hardening, HealthCheck, Resources
from praetor_api.values import ExpansionError, Started, started_with


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user, its group and all its groups, by number."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity_of(user: str | None) -> Identity | None:
    """Return what to change to for *user*, None for the agent's own user; StartError if that is impossible."""
    if user is None:
        return None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise StartError(f"spec.execution.user: there is no user {user!r} on this device") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise StartError(f"spec.execution.user: the agent must run as root to run a process as {user!r}")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Identity(uid=entry.pw_uid, gid=entry.pw_gid, groups=tuple(groups))


_SHOWN_CHARACTERS = 60


def shown(path: str) -> str:
    """Return *path* in quotes, cut in its middle where it is long: the reason that follows it is not to be cut."""
    if len(path) > _SHOWN_CHARACTERS:
        half = (_SHOWN_CHARACTERS - 3) // 2
        path = f"{path[:half]}...{path[-half:]}"
    return repr(path)


MAX_FIRST_LINE = 256
"""The kernel reads no more of a script to find its interpreter."""

PLAIN_CONTAINER = Container()
CONTAINER_FILES = "/run/praetor/files"
"""Where a container sees the own directory of its process."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A process ready to be executed: *argv* begins with an absolute path, *env* is its whole environment.

    For a container *artifact_path* is the image, which adds variables of its own. The first *entrypoint* words of
    *argv* replace the image's entrypoint and are resolved inside the image. *at_boot*: the init system starts it.
    *files* is the own directory of a process that has files.
    """

    uid: str
    namespace: str
    name: str
    spec_hash: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    working_dir: str
    user: str | None
    resources: Resources | None
    grace_seconds: int
    at_boot: bool
    artifact_path: str | None = None
    entrypoint: int = 0
    hardening: Hardening = Hardening.BASELINE
    container: Container = PLAIN_CONTAINER
    files: str = ""


def command_of(revision: Revision, *, at_boot: bool = False, files: str = "") -> Command:
    """Return how *revision* is executed, *at_boot* by init; StartError naming the wrong field of the spec.

    *files* is its own directory, if it has files.
    """
    item, execution = revision.item, revision.item.spec.execution
    contained = execution.backend is Backend.CONTAINER
    started, root = _started(revision, CONTAINER_FILES if contained and files else files), _root(revision)
    env = _environment(started)
    words = (*started.command, *started.args)
    if contained and revision.artifact_path is None:
        raise StartError("spec.artifact: the backend container needs an artifact of type oci, which is its image")
    if any("\0" in word for word in (*words, *env.values(), execution.working_dir or "")):
        raise StartError("spec.execution: command, args, env and workingDir cannot contain a NUL character")
    if not (item.uid + item.spec_hash).isprintable():
        raise StartError("uid and specHash cannot contain control characters")
    return Command(
        uid=item.uid,
        namespace=item.namespace,
        name=item.name,
        spec_hash=item.spec_hash,
        argv=words if contained else _executable(resolve(words, env["PATH"], root)),
        env=started.env if contained else env,
        working_dir=execution.working_dir or "" if contained else _working_dir(revision),
        user=execution.user,
        resources=execution.resources,
        grace_seconds=execution.termination_grace_period_seconds,
        at_boot=at_boot,
        artifact_path=revision.artifact_path,
        entrypoint=len(execution.command) if contained else 0,
        hardening=execution.hardening or Hardening.BASELINE,
        container=execution.container or PLAIN_CONTAINER,
        files=files,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A health probe ready to be executed: beside the process, as the same user."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    working_dir: str
    user: str | None
    timeout_seconds: int


def probe_of(revision: Revision, check: HealthCheck, files: str = "") -> Probe:
    """Return how *check* is executed for *revision*, of a container beside it; StartError if that is impossible.

    *files* is the own directory of the process, if it has files.
    """
    contained = revision.item.spec.execution.backend is Backend.CONTAINER
    env, root = _environment(_started(revision, files)), None if contained else _root(revision)
    argv = resolve(check.command, env["PATH"], root)
    return Probe(
        argv=argv if contained else _executable(argv),
        env=env,
        working_dir="/" if contained else _working_dir(revision),
        user=None if contained else revision.item.spec.execution.user,
        timeout_seconds=check.timeout_seconds,
    )


def _executable(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return *argv*; StartError if the kernel would refuse its program for a reason that its own words do not name."""
    program = argv[0]
    try:
        if os.statvfs(program).f_flag & os.ST_NOEXEC:
            raise StartError(
                f"command[0]: {program!r} is on a file system that is mounted noexec; mount it with exec, or keep the "
                "agent's state elsewhere with --state-dir"
            )
        if os.path.isfile(program) and not os.stat(program).st_mode & 0o111:
            raise StartError(f"command[0]: {program!r} is not executable; run: chmod +x, before it is packed")
        with open(program, "rb") as file:
            first = file.read(MAX_FIRST_LINE).partition(b"\n")[0]
    except OSError:  # the backend says what it is
        return argv
    if not first.startswith(b"#!"):
        return argv
    words = os.fsdecode(first[2:]).strip(" \t").replace("\t", " ").split(" ")
    by_env = os.path.basename(words[0]) == "env" and len(words) == 2
    if words[-1].endswith("\r") and (len(words) == 1 or by_env):
        raise StartError(
            f"command[0]: {program!r} has Windows line ends (CRLF), so that its interpreter is not found; "
            "convert it, as with dos2unix"
        )
    if not words[0] or os.path.exists(words[0]):
        return argv
    raise StartError(
        f"command[0]: {program!r} needs the interpreter {words[0]!r}, which is not on this device; install it, or "
        "correct the first line"
    )


def _started(revision: Revision, files: str) -> Started:
    try:
        return started_with(revision.item.spec.execution, revision.item.values, files)
    except ExpansionError as e:
        raise StartError(str(e)) from e


def _environment(started: Started) -> dict[str, str]:
    return {"PATH": DEFAULT_PATH, **started.env}


def _root(revision: Revision) -> Path | None:
    path = Path(revision.artifact_path) if revision.artifact_path else None
    return path if path is None or path.is_dir() else path.parent


def _working_dir(revision: Revision) -> str:
    root, wanted = _root(revision), revision.item.spec.execution.working_dir or ""
    path = os.path.join(root or "/", wanted)
    if root is not None and not os.path.isabs(wanted) and not _is_within(root, path):
        raise StartError(
            f"workingDir: {wanted!r} leads out of the artifact; name a directory inside, or an absolute one"
        )
    return path


def _is_within(root: Path, path: str) -> bool:
    """Return whether *path* is in *root* after links are resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def resolve(words: tuple[str, ...], path: str, root: Path | None) -> tuple[str, ...]:
    """Return *words* with the program as an absolute path: in the artifact's directory *root* first, then on *path*."""
    if not words or not words[0]:
        raise StartError("the command is empty; name the program to run")
    program = words[0]
    if os.path.isabs(program):
        return words
    inside = os.path.join(root, os.path.normpath(program)) if root is not None else ""
    if root is not None and ".." not in program.split("/") and os.path.isfile(inside):
        if not _is_within(root, inside):
            raise StartError(f"command[0]: {program!r} leads out of the artifact; give its absolute path")
        return (inside, *words[1:])
    if "/" not in program:
        for directory in path.split(":"):
            candidate = os.path.join(directory or "/", program)
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return (candidate, *words[1:])
    where = "in the artifact or on PATH" if root is not None else "on PATH"
    raise StartError(f"command[0]: {program!r} is not found {where}; give its absolute path")
