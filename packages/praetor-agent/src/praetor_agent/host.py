# SPDX-License-Identifier: Apache-2.0
"""All backends of the device together: what they observe, and the actions on them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from praetor_agent.artifacts.fetcher import Fetcher
from praetor_agent.backends import procfs
from praetor_agent.backends.protocol import DEFINITIONS, PREFIX, Backend, KeepsDefinition, KeepsOutput, Owner
from praetor_agent.core.allowances import NOTHING, Allowances
from praetor_agent.core.masking import Masking
from praetor_agent.core.model import Failure, FailureReason, Memory, Observed, ObservedDevice, Record, Revision
from praetor_agent.core.reconcile import Refresh, Remove, Repair, Start, Stop
from praetor_agent.errors import ArtifactGone, BackendError, unforeseen
from praetor_agent.files.store import FileStore
from praetor_agent.settings import container_runtime_of
from praetor_agent.state import installation_id
from praetor_api.protocol import DesiredItem
from praetor_api.spec import Backend as BackendName
from praetor_api.wire import clean_text

if TYPE_CHECKING:
    from praetor_agent.backends.command import Command

log = logging.getLogger(__name__)

_STATE = {
    BackendName.PROCESS: "processes",
    BackendName.SYSTEMD: "systemd",
    BackendName.INITD: "initd",
    BackendName.CONTAINER: "containers",
}
_SYSTEMD = "/run/systemd/system"
_NOT_ROOT = "the agent does not run as root"

OUTPUT_CHARACTERS = 2000
"""How much of the end of a process's output is kept; the protocol allows little more."""


class Host:
    """The backends that can be used, and why the others cannot. *has_artifacts* is whether any process has one."""

    def __init__(
        self,
        backends: Mapping[BackendName, Backend],
        unavailable: Mapping[BackendName, str],
        fetcher: Fetcher,
        boot_id: str,
        allowances: Allowances = NOTHING,
        files: FileStore | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.fetcher = fetcher
        self._masking = masking or Masking()
        self._files = files
        self._collected: Collection[str] | None = None
        self.has_artifacts = True  # until it is known that there are none
        self._allowances = allowances
        self.boot_id = boot_id
        self._backends = backends
        self._unseen: dict[str, str] = {}
        self._unavailable = {
            name: f"backend {name} is not available on this device: {reason}" for name, reason in unavailable.items()
        }

    def observe(self) -> ObservedDevice:
        """Return the device as it is now. A backend that cannot be asked is unavailable for this pass."""
        observed: dict[str, Observed] = {}
        unseen: dict[str, str] = {}
        silent: dict[BackendName, str] = {}
        for name, backend in self._backends.items():
            try:
                seen = backend.observe()
            except Exception as e:  # what one backend meets must not stop the supervision by the others
                known = isinstance(e, BackendError)
                why = str(e) if known else unforeseen(e)
                log.warning("cannot observe backend=%s reason=%s", name, why, exc_info=not known)
                silent[name] = f"backend {name} does not answer: {why}"
                continue
            for uid, process in seen.items():
                if process.unseen:
                    unseen[uid] = f"it is not known whether it runs: {process.unseen}"
                elif uid not in observed or process.running:
                    observed[uid] = process
        for uid in unseen:
            observed.pop(uid, None)
        self._log_unseen(unseen)
        artifacts = self.fetcher.states() if self.has_artifacts else {}
        unavailable = {**self._unavailable, **silent}
        return ObservedDevice(
            boot_id=self.boot_id,
            observed=observed,
            artifacts=artifacts,
            unavailable=unavailable,
            silent=silent,
            unseen=unseen,
            allowances=self._allowances,
        )

    def _log_unseen(self, unseen: dict[str, str]) -> None:
        for uid, why in unseen.items():
            if self._unseen.get(uid) != why:
                log.warning("cannot observe process uid=%s reason=%s", uid, why)
        self._unseen = unseen

    def start(self, action: Start) -> None:
        """Start the action's revision; StartError if that fails, ArtifactGone if its artifact is missing."""
        item, path = action.revision.item, action.revision.artifact_path
        if path and not Path(path).exists():
            raise ArtifactGone(f"the artifact {path} is gone from this device")
        log.info("starting process namespace=%s name=%s hash=%s", item.namespace, item.name, item.spec_hash)
        if (
            self._files is not None
            and not action.as_they_are
            and (item.spec.execution.files or self._files.ledger.entries)
        ):
            self._files.write(item)
            self._files.signalled(item.uid)  # it reads them now
        self._backends[item.spec.execution.backend].start(self._command_of(action.revision, at_boot=action.at_boot))

    def stop(self, action: Stop, record: Record | None) -> None:
        """Ask the action's process to end."""
        log.info("stopping process uid=%s force=%s", action.uid, action.force)
        grace = record.current.item.spec.execution.termination_grace_period_seconds if record and record.current else 0
        self._backends[action.backend].stop(action.uid, grace_seconds=grace, force=action.force)

    def remove(self, action: Remove) -> None:
        """Remove what the action's process left."""
        log.info("removing process uid=%s", action.uid)
        self._backends[action.backend].remove(action.uid)

    def repair(self, action: Repair) -> None:
        """Write the definition of the action's process again; StartError or BackendError if that fails."""
        item = action.revision.item
        backend = self._backends[item.spec.execution.backend]
        if isinstance(backend, KeepsDefinition):
            if action.edited:
                log.warning("definition was edited, writing it again name=%s", item.name)
            backend.repair(self._command_of(action.revision, at_boot=action.at_boot))

    def refresh(self, action: Refresh) -> tuple[str, ...]:
        """Write the files of the action's revision, send the signals that they ask for, and return what was written.

        FileError or BackendError if that fails; what was not sent is still due then.
        """
        item = action.revision.item
        if self._files is None:
            return ()
        written = self._files.write(item, running=True)
        for name in self._files.due(item.uid):
            log.info("sending a signal name=%s signal=%s", item.name, name)
            self._backends[item.spec.execution.backend].signal(item.uid, Signals[name])
        self._files.signalled(item.uid)
        return written

    def file_problem(self, item: DesiredItem) -> Failure | None:
        """Return why the files of *item* cannot be written; None if they can, or it has none."""
        try:
            problem = self._files.problem(item) if self._files is not None and item.spec.execution.files else None
        except Exception as e:  # what one process meets must not stop the supervision of the others
            return Failure(reason=FailureReason.FILES_NOT_WRITTEN, message=unforeseen(e))
        if problem is None:
            return None
        reason = FailureReason.FILES_NOT_WRITTEN if problem.allowed else FailureReason.NOT_ALLOWED
        return Failure(reason=reason, message=str(problem))

    def edited_files(self, uids: Iterable[str]) -> frozenset[str]:
        """Return those of *uids* whose files were changed on the device."""
        if self._files is None or not self._files.ledger.entries:
            return frozenset()
        return frozenset(uid for uid in uids if self._is_edited(self._files, uid))

    def _is_edited(self, files: FileStore, uid: str) -> bool:
        try:
            return files.edited(uid)
        except Exception:  # to write them again meets the same, and says so of this process alone
            return True

    def collect_files(self, used: Collection[str]) -> None:
        """Remove the files of all processes whose uid is not in *used*."""
        if self._files is not None and (self._files.ledger.entries or used != self._collected):
            self._files.collect(used)
            self._collected = used

    def tail(self, record: Record) -> str:
        """Return the end of what the process wrote, fit for display and without values of Secrets.

        "" if there is none or it cannot be read.
        """
        backend: object = self._backends.get(record.current.item.spec.execution.backend) if record.current else None
        if not isinstance(backend, KeepsOutput):
            return ""
        try:
            text = backend.tail(record.uid, 4 * OUTPUT_CHARACTERS)  # bytes, of which a character has up to four
        except Exception as e:  # the report then omits it
            log.warning("cannot read the output name=%s reason=%s", record.name, e)
            return ""
        return clean_text(self._masking(text, cut=True))[-OUTPUT_CHARACTERS:]

    def _command_of(self, revision: Revision, *, at_boot: bool) -> Command:
        from praetor_agent.backends.command import command_of

        return command_of(revision, at_boot=at_boot, files=self.files_of(revision.item))

    def files_of(self, item: DesiredItem) -> str:
        """Return the path of the own directory of *item*; "" if it has no files."""
        return self._files.directory_of(item) if self._files is not None and item.spec.execution.files else ""

    def keep_artifacts(self, items: Collection[DesiredItem], memory: Memory) -> None:
        """Forget all artifacts but those of *items*; those that *memory* names are not removed for others."""
        some = any(item.spec.artifact is not None for item in items)
        if some or self.has_artifacts:
            self.fetcher.keep(items, artifacts_of(memory))
        self.has_artifacts = some


def revisions_of(memory: Memory) -> list[Revision]:
    """Return the current revisions and those to roll back to."""
    return [revision for record in memory.values() for revision in (record.current, record.last_good) if revision]


def artifacts_of(memory: Memory) -> list[str]:
    """Return the artifact paths of the current revisions and of those to roll back to."""
    return [revision.artifact_path for revision in revisions_of(memory) if revision.artifact_path]


class Backends(dict[BackendName, Backend]):
    """The backends that have something on the device; any other is loaded on first use.

    *unavailable* says why this device cannot use the others; *options* are for the container *runtime*, and
    *allowances* for its containers.
    """

    def __init__(
        self,
        device: str | None,
        state_dir: Path,
        boot_id: str,
        runtime: Sequence[str] | None = None,
        options: Sequence[str] = (),
        allowances: Allowances = NOTHING,
    ) -> None:
        super().__init__()
        self._allowances = allowances
        self._owner = Owner(device or "", installation_id(state_dir))
        self._state_dir, self._boot_id, self._options = state_dir, boot_id, options
        self._runtime = runtime or container_runtime_of(os.environ.get("PRAETOR_AGENT_CONTAINER_RUNTIME"))
        reasons = {
            BackendName.SYSTEMD: _no_systemd(),
            BackendName.INITD: _no_initd(),
            BackendName.CONTAINER: None if self._runtime else "none of docker, podman and nerdctl is found on PATH",
        }
        nameless = None if device else "the device has no name yet"
        self.unavailable = {name: why for name, reason in reasons.items() if (why := reason or nameless)}
        for name in BackendName:
            if name not in self.unavailable and self._left_something(name):
                self[name] = self._load(name)

    def __missing__(self, name: BackendName) -> Backend:
        self[name] = backend = self._load(name)
        return backend

    def all(self) -> Mapping[BackendName, Backend]:
        """Return every backend that this device has."""
        return {name: self[name] for name in BackendName if name not in self.unavailable}

    def _left_something(self, name: BackendName) -> bool:
        definitions = DEFINITIONS.get(name, self._state_dir / "none").glob(f"{PREFIX}*-{'[0-9a-f]' * 16}*")
        return name is BackendName.CONTAINER or (self._state_dir / _STATE[name]).exists() or any(definitions)

    def _load(self, name: BackendName) -> Backend:
        directory = self._state_dir / _STATE[name]
        if name is BackendName.SYSTEMD:
            from praetor_agent.backends.systemd import SystemdBackend

            return SystemdBackend(self._owner, directory)
        if name is BackendName.INITD:
            from praetor_agent.backends.initd import InitdBackend

            return InitdBackend(self._owner, directory, self._boot_id)
        if name is BackendName.CONTAINER:
            from praetor_agent.backends.container import ContainerBackend, Runtime

            runtime = Runtime(self._runtime or ())
            return ContainerBackend(self._owner, directory, runtime, self._options, self._allowances)
        from praetor_agent.backends.process import ProcessBackend

        return ProcessBackend(directory, self._boot_id, device=self._owner.device)


def _no_systemd() -> str | None:
    if not os.path.isdir(_SYSTEMD):
        return "systemd is not the init system here"
    if shutil.which("systemctl") is None:
        return "systemctl is not found on PATH"
    return None if os.geteuid() == 0 else _NOT_ROOT


def _no_initd() -> str | None:
    if os.path.isdir(_SYSTEMD):
        return "systemd is the init system here; use the backend systemd"
    if not DEFINITIONS[BackendName.INITD].is_dir():
        return f"there is no {DEFINITIONS[BackendName.INITD]}"
    if procfs.boot_id() is None:
        return "the kernel has no boot id"
    return None if os.geteuid() == 0 else _NOT_ROOT
