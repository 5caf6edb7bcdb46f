# SPDX-License-Identifier: Apache-2.0
"""Containers by the command line of docker, podman or nerdctl; one container per process.

The runtime restarts nothing: the agent does, by the policy of the spec. A container is created, compared with the
request, and only then started, because runtimes differ in how they read variables. What carries our labels is ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

from praetor_agent.backends import procfs
from praetor_agent.backends.command import CONTAINER_FILES, Command, Probe, probe_of
from praetor_agent.backends.protocol import Owner, guarded, own_name, pass_on
from praetor_agent.backends.resources import wanted
from praetor_agent.clock import PROGRESS
from praetor_agent.core import environment
from praetor_agent.core.allowances import NOTHING, Allowances, is_within, not_allowed
from praetor_agent.core.masking import ending
from praetor_agent.core.model import Observed, Revision
from praetor_agent.core.restart import reason_of
from praetor_agent.errors import ArtifactGone, BackendError, StartError
from praetor_agent.state import read_text, replace_file
from praetor_api.annotations import (
    CONTAINER_DEVICE_LABEL,
    CONTAINER_INSTALLATION_LABEL,
    CONTAINER_SPEC_HASH_LABEL,
    CONTAINER_UID_LABEL,
)
from praetor_api.spec import Backend, Capabilities, Container, HealthCheck

TIMEOUT_SECONDS = 30
ASK_AGAIN_SECONDS = 30.0
LOG_OPTIONS = {"json-file": ("max-size=5m", "max-file=2"), "k8s-file": ("max-size=10mb",)}
"""How to bound the output by the runtime's log driver. The others bound it themselves, or send it away."""
_NEVER = "0001-"
"""How the time of what did not happen begins, in what runtimes print."""
OBSERVE_SECONDS = 300.0
"""How long a container whose process is alive is not inspected again, because runtimes answer slowly."""


class Runtime:
    """A container runtime's command line."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)

    @property
    def name(self) -> str:
        """Name of the runtime's program."""
        return Path(self.command[0]).name

    def __call__(self, *words: str, timeout: int = TIMEOUT_SECONDS, merged: bool = False) -> str:
        """Run a command and return what it printed; BackendError when it fails."""
        try:
            done = subprocess.run(
                (*self.command, *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE, timeout=timeout, check=False,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.TimeoutExpired) as e:
            raise BackendError(f"{self.name} {words[0]}: {e}") from e
        finally:
            PROGRESS.get()()
        if done.returncode != 0:
            reason = ending((done.stderr or b"").decode(errors="replace").strip(), 400)
            raise BackendError(f"{self.name} {words[0]} failed ({done.returncode}): {reason}")
        return done.stdout.decode(errors="replace")

    def image_id(self, reference: str) -> str:
        """Return the id of an image that is on the device."""
        try:
            return str(_json(self("image", "inspect", reference), "image inspect")[0]["Id"])
        except LookupError as e:
            raise BackendError("image inspect: the runtime names no image") from e


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise BackendError(f"{what}: the runtime printed what is no JSON: {e}") from e


class ContainerBackend:
    """Runs processes as containers of *owner*; *options* are more words for `create`, which some hosts need.

    *allowances* are what containers may have of the device.
    """

    def __init__(
        self,
        owner: Owner,
        directory: Path,
        runtime: Runtime,
        options: Sequence[str] = (),
        allowances: Allowances = NOTHING,
    ) -> None:
        self._allowances = allowances
        self._owner = owner
        self._device = owner.device
        self._directory = directory
        self._runtime = runtime
        self._options = tuple(options)
        self._log_options: tuple[str, ...] | None = None
        self._seen: dict[str, Observed] = {}
        self._ticks: dict[str, int | None] = {}
        self._inspect_at = 0.0
        self._problem: BackendError | None = None

    def observe(self) -> Mapping[str, Observed]:
        """Return by uid the latest container of every process of this device."""
        alive = all(seen.pid and self._ticks[uid] == procfs.start_ticks(seen.pid) for uid, seen in self._seen.items())
        if time.monotonic() >= self._inspect_at or not (alive or self._problem):
            began, before, pause = time.monotonic(), self._problem, OBSERVE_SECONDS
            self._problem = None
            try:
                self._inspect_all()
            except BackendError as e:  # a runtime that hangs must not delay everything else
                took = time.monotonic() - began
                self._problem, pause = e, max(ASK_AGAIN_SECONDS, 10 * took if before else took)
            self._inspect_at = time.monotonic() + pause
        if self._problem is not None:
            raise self._problem
        return dict(self._seen)

    def start(self, command: Command) -> None:
        """Create the container, compare it with the request, and start it."""
        self.remove(command.uid)
        env_file = self._directory / f"{container_name(self._device, command.name, command.uid)}.env"
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(env_file, render_environment(command.env).encode())
            said = self._run("create", *self._flags(command, str(env_file), self._image(command))).split()
            if not said:
                raise BackendError(f"{self._runtime.name} create named no container")
            made = said[-1]
            check(command, self._inspect(made)[0])
            self._run("start", made)
        except BackendError as e:
            self.remove(command.uid)
            raise e if isinstance(e, StartError) else StartError(str(e)) from e
        except OSError as e:
            raise StartError(f"{e.filename or self._directory} cannot be written: {e.strerror}") from e
        finally:
            with suppress(OSError):
                env_file.unlink(missing_ok=True)

    def stop(self, uid: str, *, grace_seconds: int, force: bool) -> None:
        """Ask the container's process to end, or kill it."""
        for shown in self._ours():
            if shown["Config"]["Labels"][CONTAINER_UID_LABEL] == uid and shown["State"].get("Pid"):
                with suppress(BackendError):  # it ended meanwhile
                    self._run("kill", "--signal", "KILL" if force else "TERM", shown["Id"])

    def signal(self, uid: str, number: Signals) -> None:
        for shown in self._ours():
            if shown["Config"]["Labels"][CONTAINER_UID_LABEL] == uid and shown["State"].get("Pid"):
                self._run("kill", "--signal", number.name.removeprefix("SIG"), shown["Id"])

    def remove(self, uid: str) -> None:
        """Remove the containers of the process."""
        for shown in self._ours():
            if shown["Config"]["Labels"][CONTAINER_UID_LABEL] == uid:
                self._run("rm", "-f", shown["Id"])

    def tail(self, uid: str, limit: int) -> str:
        """Return the end of the container's output, from the runtime's log."""
        for shown in self._ours():
            if shown["Config"]["Labels"][CONTAINER_UID_LABEL] == uid:
                return self._run("logs", "--tail", "100", shown["Id"], merged=True)[-limit:]
        return ""

    def show(self, uid: str, lines: int | None, follow: Callable[[], bool] | None) -> None:
        more = (*(("--follow",) if follow else ()), *(() if lines is None else (f"--tail={lines}",)))
        for shown in self._ours():
            if shown["Config"]["Labels"][CONTAINER_UID_LABEL] == uid:
                pass_on(*self._runtime.command, "logs", *more, shown["Id"], follow=follow)

    def _flags(self, command: Command, env_file: str, image: str) -> Iterator[str]:
        yield from (
            "--name",
            container_name(self._device, command.name, command.uid),
            "--network",
            command.container.network,
            "--restart",
            "no",
        )
        for label, value in (
            (CONTAINER_UID_LABEL, command.uid),
            (CONTAINER_DEVICE_LABEL, self._device),
            (CONTAINER_SPEC_HASH_LABEL, command.spec_hash),
            (CONTAINER_INSTALLATION_LABEL, self._owner.installation),
        ):
            yield from ("--label", f"{label}={value}")
        yield from ("--env-file", env_file)
        if command.working_dir:
            yield from ("--workdir", command.working_dir)
        if command.user is not None:
            yield from ("--user", command.user)
        for resource, value in wanted(command.resources):
            flag = {"memory": "--memory", "cpu": "--cpus", "tasks": "--pids-limit"}[resource]
            yield from (flag, str(float(value) / 100) if resource == "cpu" else value)
        yield from self._granted(command.container)
        if command.files:
            yield from ("--mount", f"type=bind,src={command.files},dst={CONTAINER_FILES},readonly")
        yield from self._bounded_log()
        yield from self._options
        words = command.argv
        if command.entrypoint:
            # podman parses whatever resembles JSON as JSON, so it always gets JSON
            program = json.dumps(words[:1]) if self._runtime.name == "podman" else words[0]
            yield from ("--entrypoint", program)
            words = words[1:]
        yield from (image, *words)

    def _granted(self, container: Container) -> Iterator[str]:
        """Yield the words for what *container* asks for; StartError for what is not allowed once links are followed."""
        refusal = self._allowances.refusal(container)
        if refusal is not None:  # the agent may have been started with fewer since
            raise StartError(refusal)
        for index, volume in enumerate(container.volumes):
            source = _followed(f"volumes[{index}]", volume.host_path, self._allowances.volumes, "--allow-volumes")
            only = ",readonly" if volume.read_only else ""
            yield from ("--mount", f"type=bind,src={source},dst={volume.mount_path}{only}")
        for index, device in enumerate(container.devices):
            source = _followed(f"devices[{index}]", device.host_path, self._allowances.devices, "--allow-devices")
            yield from ("--device", f"{source}:{device.mount_path or device.host_path}:{device.permissions}")
        capabilities = container.capabilities or Capabilities()
        for flag, names in (("--cap-add", capabilities.add), ("--cap-drop", capabilities.drop)):
            for name in names:
                yield from (flag, name)
        if container.privileged:
            yield "--privileged"

    def _bounded_log(self) -> tuple[str, ...]:
        """Return the words that bound the output, unless the user's options say where it goes."""
        if self._log_options is None:
            chosen = any(word.startswith(("--log-driver", "--log-opt")) for word in self._options)
            field = "{{.Host.LogDriver}}" if self._runtime.name == "podman" else "{{.LoggingDriver}}"
            driver = "" if chosen else self._run("info", "--format", field).strip()
            self._log_options = tuple(word for option in LOG_OPTIONS.get(driver, ()) for word in ("--log-opt", option))
        return self._log_options

    def _inspect_all(self) -> None:
        found = sorted(self._ours(), key=lambda shown: str(shown.get("Created")))
        self._seen = {
            uid: guarded(uid, Backend.CONTAINER, partial(self._look, shown))
            for shown in found
            if (uid := shown["Config"]["Labels"][CONTAINER_UID_LABEL])
        }
        self._ticks = {uid: procfs.start_ticks(seen.pid) if seen.pid else None for uid, seen in self._seen.items()}

    def _look(self, shown: Mapping[str, Any]) -> Observed:
        return self._owner.judged(_seen(shown), _owner_of(shown), f"container {shown.get('Name') or shown['Id']}")

    def _image(self, command: Command) -> str:
        """Return the image's id; ArtifactGone if it was removed, since a pull would delay all other processes."""
        place = Path(command.artifact_path or "")
        image = next(iter(read_text(place).split()), "")
        try:
            if not image:  # the device lost power while it was written
                raise BackendError("its name was not stored")
            return self._runtime.image_id(image)
        except BackendError as e:
            place.unlink(missing_ok=True)
            raise ArtifactGone(f"the image of {place} is gone from this device: {e}") from e

    def _ours(self) -> list[dict[str, Any]]:
        """Return the containers of our device and of our installation, whatever the device was called then."""
        wanted = [f"{CONTAINER_DEVICE_LABEL}={self._device}"]
        if self._owner.installation:
            wanted.append(f"{CONTAINER_INSTALLATION_LABEL}={self._owner.installation}")
        listing = ("ps", "--all", "--no-trunc", "--format", "{{.ID}}", "--filter")
        listed = dict.fromkeys(id_ for label in wanted for id_ in self._run(*listing, f"label={label}").split())
        shown = self._inspect(*listed) if listed else []
        return [each for each in shown if (each["Config"].get("Labels") or {}).get(CONTAINER_UID_LABEL)]

    def _inspect(self, *names: str) -> list[dict[str, Any]]:
        return list(_json(self._run("container", "inspect", *names), "container inspect"))

    def _run(self, *words: str, merged: bool = False) -> str:
        if words[0] in ("create", "start", "kill", "rm"):
            self._inspect_at = 0.0
        return self._runtime(*words, merged=merged)


def _followed(field: str, path: str, allowed: Sequence[str], flag: str) -> str:
    """Return where *path* leads on this device; StartError if there is nothing, or what *flag* does not allow."""
    where = f"{field}.hostPath"
    try:
        real = os.path.realpath(path)
        os.stat(real)  # what leads nowhere is an error
    except OSError as e:
        raise StartError(f"spec.execution.container.{where}: {path!r} cannot be used: {e.strerror}") from e
    if not is_within(real, map(os.path.realpath, allowed)):
        raise StartError(f"{not_allowed(where, real, flag)} ({path!r} leads there)")
    if set(real) & set(',:"'):
        raise StartError(f"spec.execution.container.{where}: {path!r} leads to {real!r}, which no runtime takes")
    return real


def container_name(device: str, name: str, uid: str) -> str:
    """Return the container's name: readable, and of this device's process alone."""
    return own_name(name, f"{device}/{uid}")


def probe_in(runtime: Runtime, device: str) -> Callable[..., Probe]:
    """Return a function that makes the probe of a health check: inside the container if the process is one."""

    def probe(revision: Revision, check: HealthCheck, files: str = "") -> Probe:
        item = revision.item
        if item.spec.execution.backend is not Backend.CONTAINER:
            return probe_of(revision, check, files)
        return Probe(
            argv=(*runtime.command, "exec", container_name(device, item.name, item.uid), *check.command),
            env=dict(os.environ),
            working_dir="/",
            user=None,
            timeout_seconds=check.timeout_seconds,
        )

    return probe


def render_environment(env: Mapping[str, str]) -> str:
    """Return the file for `--env-file`, in which a line is a variable and nothing is quoted."""
    for name, value in env.items():
        fault = environment.variable_fault(Backend.CONTAINER, name, value)
        if fault is not None:
            raise StartError(f"spec.{fault}")
    return "".join(f"{name}={value}\n" for name, value in env.items())


def check(command: Command, shown: Mapping[str, Any]) -> None:
    """Raise StartError if the created container is not the requested one."""
    config = shown["Config"]
    entrypoint = config.get("Entrypoint") or []
    words = [*([entrypoint] if isinstance(entrypoint, str) else entrypoint), *(config.get("Cmd") or [])]
    if command.entrypoint and tuple(words) != command.argv:
        raise StartError(f"the container runtime made {words!r} of the command {list(command.argv)!r}")
    made = config.get("Env") or []
    for name, value in command.env.items():
        if f"{name}={value}" not in made:
            raise StartError(f"spec.execution: env[{name}]: the container runtime does not take its value as it is")


def _owner_of(shown: Mapping[str, Any]) -> Owner:
    labels = shown["Config"]["Labels"]
    return Owner(labels.get(CONTAINER_DEVICE_LABEL, ""), labels.get(CONTAINER_INSTALLATION_LABEL, ""))


def _seen(shown: Mapping[str, Any]) -> Observed:
    state, labels = shown["State"], shown["Config"]["Labels"]
    status, pid = state.get("Status"), state.get("Pid") or None
    running = bool(state.get("Running") or status in ("running", "paused", "stopping"))
    started = status not in ("created", "configured", "initialized")
    finished = not str(state.get("FinishedAt", "")).startswith(_NEVER)  # else the device rebooted while it ran
    code = state.get("ExitCode") if started and finished and not running else None
    return Observed(
        uid=labels[CONTAINER_UID_LABEL],
        backend=Backend.CONTAINER,
        spec_hash=labels.get(CONTAINER_SPEC_HASH_LABEL, ""),
        running=running,
        handle=f"{shown['Id']}/{state.get('StartedAt')}" if started else None,
        pid=pid if running else None,
        watch=pid if running else None,
        exit_code=code,
        termination_reason=None
        if code is None
        else reason_of(code, signalled=code > 128, out_of_memory=bool(state.get("OOMKilled"))),
    )
