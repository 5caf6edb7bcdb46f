"""What the device keeps on disk, in files that survive a crash and a power cut: checksummed, replaced whole, with the
previous one to fall back to. Also the veto of whoever is at the device.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from praetor_agent.core.model import Memory, Record, View
from praetor_agent.errors import AgentError
from praetor_api.canonical import canonical_json
from praetor_api.protocol import Desired, read_desired
from praetor_api.wire import WireError, clean_text, parse_json, read, write

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
        replace_file(self._path, _encode(value), keep=self._previous)


def replace_file(
    path: Path, content: bytes, *, mode: int = 0o600, keep: Path | None = None, flush: bool = True
) -> None:
    """Write *content* beside *path*, flush it to disk and move it there; *keep* gets what was there."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        if flush:
            os.fsync(file.fileno())
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(fresh, path)
    if flush:
        sync_directory(path.parent)


def read_text(path: Path) -> str:
    """Return the text of a file, and none of one that cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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


def _encode(value: object) -> bytes:
    body = canonical_json(value)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(content: bytes) -> object:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise OSError("its checksum does not match")
    return parse_json(body)


MAX_BYTES = 512


def read_freeze(path: Path) -> str | None:
    """Return why nothing may be changed, in the words of the file *path*; None when it is not there.

    One that cannot be read holds as well.
    """
    if not os.path.lexists(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for its writer
        try:
            text = os.read(descriptor, MAX_BYTES).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError:
        text = ""
    words = " ".join(clean_text(text).split())
    return f"held by {path}" + (f": {words}" if words else "")


FORMAT = 1
LEAST_FREE_BYTES = 256 * 1024
"""With less, what does not fit may be the record of a process whose predecessor was ended for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A desired state as the gateway sent it; the raw body too, of which an upgraded agent may understand more."""

    etag: str | None
    body: Mapping[str, Any]
    desired: Desired


class State:
    """The files of the state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._desired = JsonFile(directory / "desired.json")
        self._memory = JsonFile(directory / "memory.json")
        self._view = directory / "view.json"

    def full(self) -> str | None:
        """Return how much is free if that is next to nothing."""
        with suppress(OSError):
            disk = os.statvfs(self._directory)
            free = disk.f_bfree * disk.f_frsize
            if free < LEAST_FREE_BYTES:
                return f"{os.strerror(errno.ENOSPC)} ({free // 1024} KiB are free)"
        return None

    def device(self) -> str | None:
        """Return the device that the stored desired state is for."""
        device = _mapping(self._desired.load()).get("device")
        return device if isinstance(device, str) else None

    def load_desired(self, device: str) -> Received | None:
        """Return what *device* shall run as last known, or None when that is not known."""
        data = _mapping(self._desired.load())
        if data.get("device") != device:
            return None
        body, etag = _mapping(data.get("body")), data.get("etag")
        try:
            return Received(etag=etag if isinstance(etag, str) else None, body=body, desired=read_desired(body))
        except WireError as e:
            log.warning("stored desired state cannot be read reason=%s", e)
            return None

    def save_desired(self, device: str, received: Received) -> None:
        """Keep *received* for the next start without network."""
        self._desired.save({"format": FORMAT, "device": device, "etag": received.etag, "body": received.body})

    def load_memory(self) -> dict[str, Record]:
        """Return the records; one that cannot be read is left out, for the backends know what runs."""
        records = _mapping(self._memory.load()).get("records")
        memory = {}
        for data in records if isinstance(records, list) else ():
            try:
                record = read(Record, data)
            except WireError as e:
                log.warning("record cannot be read reason=%s", e)
                continue
            memory[record.uid] = record
        return memory

    def save_memory(self, memory: Memory) -> None:
        """Keep *memory*."""
        self._memory.save({"format": FORMAT, "records": [write(memory[uid]) for uid in sorted(memory)]})

    def load_view(self) -> View:
        """Return what an agent last left to be looked at."""
        try:
            return read(View, JsonFile(self._view).load() or {})
        except WireError:
            return View()

    def save_view(self, view: View) -> None:
        """Leave *view* to be looked at. It changes with every heartbeat, so that no disk is made to flush it."""
        replace_file(self._view, _encode(write(view)), flush=False)

    def confirm(self, uid: str, spec_hash: str) -> None:
        """Leave word for the agent that somebody confirmed *spec_hash*."""
        replace_file(self._word(uid), spec_hash.encode())

    def confirmed(self, memory: Memory) -> dict[str, str]:
        """Return by uid what was confirmed of the changes that wait for it."""
        found = {}
        for uid, record in memory.items():
            if record.confirmation is not None:
                with suppress(OSError):
                    found[uid] = self._word(uid).read_bytes().decode(errors="replace")
        return found

    def _word(self, uid: str) -> Path:
        return self._directory / f"confirmed-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _mapping(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}
