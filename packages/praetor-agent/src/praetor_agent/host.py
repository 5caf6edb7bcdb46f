"""The device as the loop sees it: all backends together, and the actions carried out on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from praetor_agent.artifacts.fetcher import Fetcher
from praetor_agent.backends.protocol import Backend, KeepsDefinition, KeepsOutput
from praetor_agent.errors import ArtifactGone, BackendError
from praetor_agent.launch import launch_of
from praetor_agent.reconcile import Remove, Repair, Start, Stop
from praetor_agent.records import Memory, Observed, Record, Revision, World
from praetor_api.spec import Backend as BackendName
from praetor_api.wire import clean_text

log = logging.getLogger(__name__)

OUTPUT_CHARACTERS = 2000
"""How much of what a process wrote is kept, its end; the protocol takes little more."""


class Host:
    """The backends that can be used, and why the others cannot."""

    def __init__(
        self,
        backends: Mapping[BackendName, Backend],
        unavailable: Mapping[BackendName, str],
        fetcher: Fetcher,
        boot_id: str,
    ) -> None:
        self.fetcher = fetcher
        self.boot_id = boot_id
        self._backends = backends
        self._unavailable = {
            name: f"backend {name} is not available on this device: {reason}" for name, reason in unavailable.items()
        }

    def look(self) -> World:
        """Return the world as it is now. A backend that cannot be asked is unavailable for this pass."""
        observed: dict[str, Observed] = {}
        unavailable = dict(self._unavailable)
        for name, backend in self._backends.items():
            try:
                seen = backend.observe()
            except BackendError as e:
                log.warning("cannot observe backend=%s reason=%s", name, e)
                unavailable[name] = f"backend {name} cannot be asked: {e}"
                continue
            for uid, process in seen.items():
                if uid not in observed or process.running:
                    observed[uid] = process
        artifacts = self.fetcher.states()
        return World(boot_id=self.boot_id, observed=observed, artifacts=artifacts, unavailable=unavailable)

    def start(self, action: Start) -> None:
        """Start the action's revision; StartError when it cannot be, ArtifactGone when its artifact is not there."""
        item, path = action.revision.item, action.revision.artifact_path
        if path and not Path(path).exists():
            raise ArtifactGone(f"the artifact {path} is gone from this device")
        log.info("starting process namespace=%s name=%s hash=%s", item.namespace, item.name, item.spec_hash)
        self._backends[item.spec.execution.backend].start(launch_of(action.revision))

    def stop(self, action: Stop, record: Record | None) -> None:
        """Ask the action's process to end."""
        log.info("stopping process uid=%s force=%s", action.uid, action.force)
        grace = record.current.item.spec.execution.termination_grace_period_seconds if record and record.current else 0
        self._backends[action.backend].stop(action.uid, grace_seconds=grace, force=action.force)

    def remove(self, action: Remove) -> None:
        """Take away what the action's process left."""
        log.info("removing process uid=%s", action.uid)
        self._backends[action.backend].remove(action.uid)

    def repair(self, action: Repair) -> None:
        """Write the definition of the action's process again; StartError or BackendError when it cannot be."""
        item = action.revision.item
        backend = self._backends[item.spec.execution.backend]
        if isinstance(backend, KeepsDefinition):
            log.warning("definition was changed by somebody, writing it again name=%s", item.name)
            backend.repair(launch_of(action.revision))

    def tail(self, record: Record) -> str:
        """Return the end of what the process wrote, fit to be shown; empty when there is nothing, or nobody knows."""
        backend: object = self._backends.get(record.current.item.spec.execution.backend) if record.current else None
        if not isinstance(backend, KeepsOutput):
            return ""
        try:
            text = backend.tail(record.uid, 4 * OUTPUT_CHARACTERS)  # bytes, of which a character has up to four
        except BackendError as e:
            log.warning("cannot tell the output name=%s reason=%s", record.name, e)
            return ""
        return clean_text(text)[-OUTPUT_CHARACTERS:]

    def collect(self, memory: Memory) -> None:
        """Forget artifacts that nothing in *memory* refers to."""
        self.fetcher.collect(artifacts_of(memory))


def revisions_of(memory: Memory) -> list[Revision]:
    """Return what runs, and what it would go back to."""
    return [revision for record in memory.values() for revision in (record.current, record.last_good) if revision]


def artifacts_of(memory: Memory) -> list[str]:
    """Return the paths that what runs, and what it would go back to, need."""
    return [revision.artifact_path for revision in revisions_of(memory) if revision.artifact_path]
