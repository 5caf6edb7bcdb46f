# SPDX-License-Identifier: Apache-2.0
"""Fetches artifacts from their sources, a few at a time, in threads that live only while they fetch."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from threading import Lock, Thread
from typing import TYPE_CHECKING, Protocol

from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.clock import Clock
from praetor_agent.core.backoff import doubling
from praetor_agent.core.model import ArtifactState, Failure, pinned
from praetor_agent.errors import ArtifactError
from praetor_api.backports import TypeAlias, dataclass
from praetor_api.protocol import ArtifactReason, DesiredItem
from praetor_api.spec import Artifact, ArtifactType, Backend

if TYPE_CHECKING:
    from praetor_agent.artifacts.partial_download import Work
    from praetor_agent.settings import Registries

log = logging.getLogger(__name__)

MAX_CONCURRENT = 2
"""More than one, so that a slow server does not delay the next artifact."""

RETRY_FIRST_SECONDS = 1.0
RETRY_CAP_SECONDS = 300.0
PERMANENT_FIRST_SECONDS = 30.0
PERMANENT_CAP_SECONDS = 3600.0
"""For failures that a retry, which costs the whole download, is unlikely to change."""

_PERMANENT = frozenset(ArtifactReason) - {
    ArtifactReason.DOWNLOAD_FAILED,
    ArtifactReason.UNREACHABLE,
    ArtifactReason.NOT_FOUND,
    ArtifactReason.UNAUTHORIZED,
    ArtifactReason.DISK_FULL,
}


class Source(Protocol):
    """Fetches artifacts of one type; ArtifactError if that fails."""

    def fetch(self, artifact: Artifact, work: Work) -> str:
        """Put the verified artifact into the root of *work* and return its digest."""
        ...


Sources: TypeAlias = Mapping[ArtifactType, Callable[[], Source]]
"""Factories of sources, so that a source's modules are loaded on first use."""


def device_sources(registries: Registries | None = None, ca_bundle: str | None = None) -> Sources:
    """Return the sources that this agent has."""

    def file() -> Source:
        from praetor_agent.artifacts.files import FileSource

        return FileSource()

    def http() -> Source:
        from praetor_agent.artifacts.files import HttpSource
        from praetor_agent.artifacts.web import Web

        return HttpSource(Web(ca_bundle=ca_bundle))

    def oci() -> Source:
        from praetor_agent.artifacts.oci import OciSource
        from praetor_agent.artifacts.web import Web
        from praetor_agent.settings import Registries

        return OciSource(Web(ca_bundle=ca_bundle), registries or Registries())

    return {ArtifactType.FILE: file, ArtifactType.HTTP: http, ArtifactType.OCI: oci}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    state: ArtifactState
    failures: int = 0
    not_before: float = 0.0


Key: TypeAlias = tuple[Artifact, str]


class Fetcher:
    """Keeps artifacts ready by spec hash. Failures are retried after 1 s, doubling to 5 min, with jitter.

    Specs with the same artifact share it, its attempts and its backoff.
    """

    def __init__(self, store: ArtifactStore, sources: Sources, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._sources = sources
        self._clock = clock
        self._wake = wake
        self._opened: dict[ArtifactType, Source] = {}
        self._lock = Lock()
        self._attempts: dict[Key, _Attempt] = {}
        self._keys: dict[str, Key] = {}
        self._used: tuple[str, ...] = ()
        self._busy: dict[Key, Thread] = {}

    def states(self) -> Mapping[str, ArtifactState]:
        """Return by spec hash the state of the artifacts, without those that were removed from the disk."""
        with self._lock:
            known = {hash_: self._attempts[key].state for hash_, key in self._keys.items() if key in self._attempts}
        return {key: state for key, state in known.items() if state.path is None or os.path.exists(state.path)}

    def want(self, item: DesiredItem, now: float) -> None:
        """Fetch the item's artifact now, unless it is ready or waits, or too many others are being fetched."""
        artifact = item.spec.artifact
        if artifact is None:
            return
        with self._lock:
            key = self._keys[item.spec_hash] = _key(artifact, item)
            last = self._known(key)
            here = last is not None and last.state.path is not None and os.path.exists(last.state.path)
            if here or (last is not None and now < last.not_before):
                return
            if key in self._busy or len(self._busy) >= MAX_CONCURRENT:
                return
            self._busy[key] = Thread(target=self._fetch, args=(key, last), name="fetch artifact", daemon=True)
            self._busy[key].start()

    def _known(self, key: Key) -> _Attempt | None:
        found = self._stored(key[0]) if key not in self._attempts and key[1] != Backend.CONTAINER else None
        if found is not None:
            self._attempts[key] = _Attempt(state=found)
        return self._attempts.get(key)

    def _stored(self, artifact: Artifact) -> ArtifactState | None:
        try:
            return self._store.find(artifact)
        except Exception:  # the attempt to fetch it meets the same, and says so of this artifact alone
            return None

    def next_at(self, now: float) -> float | None:
        """Return when the next failed artifact may be retried; None if none waits."""
        with self._lock:
            return min((a.not_before for a in self._attempts.values() if a.not_before > now), default=None)

    def keep(self, items: Iterable[DesiredItem], used: Iterable[str] = ()) -> None:
        """Forget all but the artifacts of *items*. The paths *used* are not removed even if space is needed.

        What is in the store already is known from now on: an agent that was killed while it replaced an old version
        must not start the old one again.
        """
        with self._lock:
            self._used = tuple(used)
            self._keys = {
                item.spec_hash: _key(item.spec.artifact, item) for item in items if item.spec.artifact is not None
            }
            kept = set(self._keys.values())
            self._attempts = {key: attempt for key, attempt in self._attempts.items() if key in kept}
            for key in kept:
                self._known(key)

    def collect(self, used: Iterable[str]) -> None:
        """Remove from the disk what is neither in *used*, a list of paths, nor just fetched."""
        with self._lock:
            if not self._busy:
                pending = any(attempt.failures for attempt in self._attempts.values())
                self._store.collect((*used, *self._fetched()), parts=pending)

    def _fetched(self) -> list[str]:
        return [attempt.state.path for attempt in self._attempts.values() if attempt.state.path is not None]

    def _fetch(self, key: Key, last: _Attempt | None) -> None:
        with self._lock:
            used = (*self._used, *self._fetched())
        failures, attempts = (last.failures, last.state.attempts) if last else (0, 0)
        state = ArtifactState()
        try:
            state, failures, delay = self._obtain(key, used), 0, 0.0
        except Exception as e:  # a bug met by one artifact must not keep all others from being fetched
            if not isinstance(e, ArtifactError):
                log.exception("fetching crashed")
                e = ArtifactError(f"the agent cannot handle it: {e!r}")
            log.warning("cannot fetch artifact url=%s reason=%s problem=%s", key[0].url, e.reason, e)
            failures = 1 if e.progress else failures + 1
            message, downloaded = f"artifact: {e}", e.downloaded
            failure = Failure(reason=e.reason, message=message, artifact_downloaded=downloaded, artifact_verified=False)
            state, delay = ArtifactState(failure=failure), max(_pause(e.reason, failures), e.retry_after)
        with self._lock:
            del self._busy[key]
            if key in self._keys.values():
                not_before = self._clock.now() + delay if failures else 0.0
                state = replace(state, attempts=attempts + 1)
                self._attempts[key] = _Attempt(state=state, failures=failures, not_before=not_before)
        self._wake()

    def _obtain(self, key: Key, used: Iterable[str]) -> ArtifactState:
        return self._store.add(key[0], self._source(key[0].type).fetch, used)

    def _source(self, kind: ArtifactType) -> Source:
        if kind not in self._sources:
            raise ArtifactError(
                f"artifacts of type {kind} are not supported on this device", ArtifactReason.UNSUPPORTED
            )
        if kind not in self._opened:
            self._opened[kind] = self._sources[kind]()
        return self._opened[kind]


def _key(artifact: Artifact, item: DesiredItem) -> Key:
    if item.spec.execution.backend is Backend.CONTAINER:
        return artifact, Backend.CONTAINER  # the runtime has the image, not the store
    return artifact, "" if pinned(artifact) else item.spec_hash  # without a digest, each spec is fetched again


def _pause(reason: ArtifactReason, failures: int) -> float:
    permanent = reason in _PERMANENT
    first, cap = (
        (PERMANENT_FIRST_SECONDS, PERMANENT_CAP_SECONDS) if permanent else (RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS)
    )
    return doubling(failures, first=first, cap=cap) * (1.0 - 0.25 * random.random())  # noqa: S311 - no secret
