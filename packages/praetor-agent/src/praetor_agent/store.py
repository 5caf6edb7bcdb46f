"""Files that survive a crash and a power cut: checksummed, replaced whole, with the previous one to fall back to."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from pathlib import Path

from praetor_agent.errors import AgentError
from praetor_api.canonical import canonical_json
from praetor_api.wire import WireError, parse_json

log = logging.getLogger(__name__)


class JsonFile:
    """One JSON value in a file whose first line is the SHA-256 of the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._previous = path.with_name(path.name + ".previous")

    def load(self) -> object:
        """Return the value last written, or the one before if that is damaged; None when there is neither."""
        for path in (self._path, self._previous):
            try:
                return _decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, WireError) as e:
                log.warning("state file is damaged path=%s reason=%s", path, e)
        return None

    def intact(self) -> bool:
        """Tell whether the file can be read, or is not there yet."""
        try:
            _decode(self._path.read_bytes())
        except FileNotFoundError:
            return True
        except (OSError, WireError):
            return False
        return True

    def save(self, value: object) -> None:
        """Write *value* so that either it or what was there before is found after a crash at any moment."""
        body = canonical_json(value)
        replace_file(self._path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body, keep=self._previous)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, keep: Path | None = None) -> None:
    """Write *content* beside *path*, flush it to disk and move it there; *keep* gets what was there."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(fresh, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the names in the directory *path* to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(path: Path) -> int:
    """Take the state directory *path* for this agent alone and return the lock's descriptor, which holds it."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # for reading: where the file system has become read-only, an agent that starts anew shall find its way
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise AgentError(f"--state-dir {path} cannot be used: {e.strerror}; name a directory you may write to") from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(descriptor)
        raise AgentError(
            f"another agent runs with --state-dir {path}; stop it, or give this one a directory of its own"
        ) from e
    return descriptor


def is_locked(place: Path) -> bool:
    """Tell whether an agent runs with the state directory *place*."""
    try:
        descriptor = os.open(place / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _decode(content: bytes) -> object:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise OSError("its checksum does not match")
    return parse_json(body)
