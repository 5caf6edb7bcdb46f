"""Images of containers: had before anything is stopped, by the runtime, beside the loop.

A file for each image, named by its digest, tells its id; it is what the agent remembers as the artifact's path.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from praetor_agent.artifacts.fetcher import MOST_AT_ONCE, Fetcher, present
from praetor_agent.backends.container import Runtime
from praetor_agent.clock import doubling
from praetor_agent.errors import BackendError
from praetor_agent.records import ArtifactState, Failure
from praetor_agent.state import replace_file
from praetor_api.protocol import DesiredItem
from praetor_api.spec import Backend

log = logging.getLogger(__name__)

PULL_SECONDS = 1800
RETRY_CAP_SECONDS = 300.0


class Images(Fetcher):
    """Fetches images for containers by *runtime*, and all other artifacts as its base does.

    An archive `<digest>.tar` in *directory* is loaded, so that no registry is needed.
    """

    def __init__(self, runtime: Runtime, directory: Path, *rest: Any) -> None:
        super().__init__(*rest)
        self._runtime = runtime
        self._directory = directory
        self._images: dict[str, ArtifactState] = {}
        self._pause: dict[str, tuple[int, float]] = {}
        self._pulling: set[str] = set()

    def states(self) -> Mapping[str, ArtifactState]:
        """Return by spec hash how far the artifacts are."""
        return {**super().states(), **present(self._images)}

    def want(self, item: DesiredItem, now: float) -> None:
        """Fetch the item's image now, unless others are being fetched or its backoff is not over."""
        key, busy = item.spec_hash, self._pulling
        if item.spec.execution.backend is not Backend.CONTAINER or item.spec.artifact is None:
            super().want(item, now)
        elif key not in busy and len(busy) < MOST_AT_ONCE and now >= self._pause.get(key, (0, 0.0))[1]:
            busy.add(key)
            Thread(target=self._pull, args=(key, item.spec.artifact.url), name="pull image", daemon=True).start()

    def next_at(self, now: float) -> float | None:
        """Return when the next failed artifact may be tried again, if that is to come."""
        others = super().next_at(now)
        due = [at for _, at in tuple(self._pause.values()) if at > now]
        return min([*due, *([] if others is None else [others])], default=None)

    def _pull(self, spec_hash: str, reference: str) -> None:
        digest = reference.rpartition("@")[2]
        try:
            image = self._have(reference, digest)
            path = self._directory / digest.removeprefix("sha256:")
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, f"{image} {reference}".encode())
            state = ArtifactState(path=str(path), digest=digest)
            self._pause.pop(spec_hash, None)
        except (BackendError, OSError, ValueError, LookupError) as e:
            log.warning("cannot fetch image reference=%s reason=%s", reference, e)
            failures = self._pause.get(spec_hash, (0, 0.0))[0] + 1
            self._pause[spec_hash] = (
                failures,
                self._clock.now() + doubling(failures, first=1.0, cap=RETRY_CAP_SECONDS),
            )
            failure = Failure(reason="DownloadFailed", message=f"artifact: {e}", artifact_downloaded=False)
            state = ArtifactState(failure=failure)
        self._images[spec_hash] = state
        self._pulling.discard(spec_hash)
        self._wake()

    def _have(self, reference: str, digest: str) -> str:
        with suppress(BackendError):
            return self._runtime.image_id(reference)
        archive = self._directory / f"{digest.removeprefix('sha256:')}.tar"
        if not archive.is_file():
            self._runtime("pull", "--quiet", reference, timeout=PULL_SECONDS)
            return self._runtime.image_id(reference)
        loaded = self._runtime("load", "--input", str(archive), timeout=PULL_SECONDS).strip().rpartition(": ")[2]
        shown = json.loads(self._runtime("image", "inspect", loaded))[0]
        known = {shown.get("Digest"), *(name.rpartition("@")[2] for name in shown.get("RepoDigests") or ())}
        if digest not in known:
            raise BackendError(
                f"the image in {archive} is not {digest} but {', '.join(filter(None, known)) or 'unknown'}"
            )
        return str(shown["Id"])
