"""Fetches artifacts beside the loop: one at a time, in a thread that lives only while there is something to fetch."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock, Thread

from praetor_agent.artifacts.sources import Source, Sources
from praetor_agent.artifacts.store import ArtifactStore
from praetor_agent.backoff import doubling
from praetor_agent.clock import Clock
from praetor_agent.errors import ArtifactError
from praetor_agent.records import ArtifactState, Failure
from praetor_api.protocol import ArtifactReason, DesiredItem
from praetor_api.spec import Artifact, ArtifactType

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 1.0
RETRY_CAP_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    state: ArtifactState
    failures: int = 0
    not_before: float = 0.0


class Fetcher:
    """Has artifacts ready by spec hash; failures are tried again after 1 s, doubling to 5 min, with jitter."""

    def __init__(self, store: ArtifactStore, sources: Sources, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._sources = sources
        self._clock = clock
        self._wake = wake
        self._opened: dict[ArtifactType, Source] = {}
        self._lock = Lock()
        self._attempts: dict[str, _Attempt] = {}
        self._busy: Thread | None = None

    def states(self) -> Mapping[str, ArtifactState]:
        """Return by spec hash how far the artifacts are."""
        with self._lock:
            return {spec_hash: attempt.state for spec_hash, attempt in self._attempts.items()}

    def want(self, item: DesiredItem, now: float) -> None:
        """Fetch the item's artifact now, unless it is there, another is being fetched, or its backoff is not over."""
        artifact = item.spec.artifact
        if artifact is None:
            return
        with self._lock:
            last = self._attempts.get(item.spec_hash)
            if self._busy is not None or (last is not None and (last.state.path is not None or now < last.not_before)):
                return
            here = self._store.find(artifact)
            if here is not None:
                self._attempts[item.spec_hash] = _Attempt(state=here)
                self._wake()
                return
            self._busy = Thread(target=self._fetch, args=(item.spec_hash, artifact), name="fetch artifact", daemon=True)
            self._busy.start()

    def next_at(self, now: float) -> float | None:
        """Return when the next failed artifact may be tried again, if that is to come."""
        with self._lock:
            return min((a.not_before for a in self._attempts.values() if a.not_before > now), default=None)

    def keep(self, spec_hashes: set[str]) -> None:
        """Forget all but the artifacts of these specs."""
        with self._lock:
            self._attempts = {key: attempt for key, attempt in self._attempts.items() if key in spec_hashes}

    def collect(self, used: Iterable[str]) -> None:
        """Remove from the disk what neither *used*, a list of paths, nor anything just fetched needs."""
        with self._lock:
            fetched = [attempt.state.path for attempt in self._attempts.values() if attempt.state.path is not None]
            if self._busy is None:
                self._store.collect((*used, *fetched))

    def _fetch(self, spec_hash: str, artifact: Artifact) -> None:
        state = self._attempt(artifact)
        with self._lock:
            last = self._attempts.get(spec_hash)
            failures = (last.failures if last else 0) + 1 if state.failure else 0
            pause = doubling(failures, first=RETRY_FIRST_SECONDS, cap=RETRY_CAP_SECONDS)
            pause *= 1.0 - 0.25 * random.random()  # noqa: S311 - no secret
            self._attempts[spec_hash] = _Attempt(
                state=state, failures=failures, not_before=self._clock.now() + pause if failures else 0.0
            )
            self._busy = None
        self._wake()

    def _attempt(self, artifact: Artifact) -> ArtifactState:
        try:
            with self._source(artifact.type).open(artifact) as pieces:
                return self._store.add(artifact, pieces)
        except ArtifactError as e:
            log.warning("cannot fetch artifact url=%s reason=%s", artifact.url, e)
            failure = Failure(
                reason=ArtifactReason.VERIFICATION_FAILED if e.downloaded else ArtifactReason.DOWNLOAD_FAILED,
                message=f"artifact: {e}",
                artifact_downloaded=e.downloaded,
                artifact_verified=False,
            )
            return ArtifactState(failure=failure)

    def _source(self, kind: ArtifactType) -> Source:
        if kind not in self._sources:
            raise ArtifactError(f"artifacts of type {kind} are not supported on this device")
        if kind not in self._opened:
            self._opened[kind] = self._sources[kind]()
        return self._opened[kind]
