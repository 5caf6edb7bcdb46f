# SPDX-License-Identifier: Apache-2.0
"""The files in the agent's state directory. They survive a crash and a power cut: each has a checksum and is replaced
as a whole, and the version before it is kept. Also the freeze file, by which an operator on the device forbids changes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Optional

from praetor_agent.core.masking import secret_values
from praetor_agent.core.model import Memory, ProcessStage, Record, View
from praetor_agent.errors import AgentError
from praetor_api.backports import dataclass
from praetor_api.protocol import Desired, DesiredItem, read_desired
from praetor_api.spec import RestartPolicy
from praetor_api.wire import WireError, clean_text, parse_json, read, write

log = logging.getLogger(__name__)


class JsonFile:
    """One JSON value in a file whose first line is the SHA-256 of the rest. `<name>.previous` is the version before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._previous = path.with_name(path.name + ".previous")
        self._is_flushed: bool | None = None

    def load(self) -> object:
        """Return the latest value, or the previous one if the latest is damaged; None if neither can be read."""
        for path in (self._path, self._previous):
            try:
                return _decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except PermissionError as e:  # not damaged: another user's, to be left alone
                raise AgentError(f"{path} cannot be read: {e.strerror}; try as root") from e
            except (OSError, WireError) as e:
                log.warning("state file is damaged path=%s reason=%s", path, e)
        return None

    def intact(self) -> bool:
        """Return whether the latest value can be read, or none was written yet."""
        try:
            _decode(self._path.read_bytes())
        except FileNotFoundError:
            return True
        except (OSError, WireError):
            return False
        return True

    def mentions(self, words: bytes) -> bool:
        """Return whether *words* are in the latest or in the previous value; True if that cannot be read."""
        for path in (self._path, self._previous):
            try:
                if words in path.read_bytes():
                    return True
            except FileNotFoundError:
                continue
            except OSError:
                return True
        return False

    def save(self, value: object, *, flush: bool = True, both: bool = False) -> None:
        """Replace the value. After a crash of the agent at any moment, the new or the old value is found.

        A power cut may lose a value that was not *flush*ed to disk; the latest flushed one is found then, because
        only a flushed value is ever moved to `<name>.previous`.
        With *both* it replaces the previous value, too, so that nothing is left of either.
        """
        content = _encode(value)
        if both:
            replace_file(self._previous, content)
            flush, self._is_flushed = True, False
        if self._is_flushed is None:  # an agent before this one may have left it without a flush
            self._is_flushed = self.intact() and _flush_file(self._path)
        replace_file(self._path, content, keep=self._previous if self._is_flushed else None, flush=flush)
        self._is_flushed = flush


def replace_file(
    path: Path, content: bytes, *, mode: int = 0o600, keep: Path | None = None, flush: bool = True
) -> None:
    """Write *content* to a new file, flush it to disk unless *flush* is False, and move it to *path*.

    The old file is moved to *keep* first, if that is given.
    """
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
    """Return the text of a file, or "" if it cannot be read."""
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


def _flush_file(path: Path) -> bool:
    """Flush the content of *path* to disk and return True, or return False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def lock_directory(path: Path) -> int:
    """Lock the state directory *path* for this agent; return the descriptor that holds the lock."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # for reading, so that an agent can still start after the file system became read-only
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
    """Return whether an agent runs with the state directory *place*."""
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
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    body = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(content: bytes) -> object:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise OSError("its checksum does not match")
    return parse_json(body)


def installation_id(directory: Path, *, create: bool = False) -> str:
    """Return the random id of the state directory, by which an agent knows what it started; "" if there is none."""
    path = directory / "installation"
    known = read_text(path).strip()
    if known or not create:
        return known
    fresh = os.urandom(16).hex()
    try:
        replace_file(path, fresh.encode())
    except OSError as e:
        log.warning("cannot store the id of this installation reason=%s", e)
        return ""
    return fresh


MAX_FREEZE_BYTES = 512


def read_freeze(path: Path) -> str | None:
    """Return why nothing may be changed, with the text of the freeze file *path*; None if there is no such file.

    A freeze file that cannot be read freezes the device, too.
    """
    if not os.path.lexists(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait
        try:
            text = os.read(descriptor, MAX_FREEZE_BYTES).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError:
        text = ""
    words = " ".join(clean_text(text).split())
    return f"held by {path}" + (f": {words}" if words else "")


FORMAT = 1
_SECRET_REFERENCE = b'"secretKeyRef"'
"""In each stored spec that refers to a Secret."""
LEAST_FREE_BYTES = 256 * 1024
"""With less free space the disk counts as full: the next record may not fit, and its process would be forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A desired state as the gateway sent it. *body* is kept because an upgraded agent may understand more of it."""

    etag: Optional[str]
    body: Mapping[str, Any] = field(repr=False)
    desired: Desired


class State:
    """The files of the state directory *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._desired = JsonFile(directory / "desired.json")
        self._memory = JsonFile(directory / "memory.json")
        self._view = directory / "view.json"
        self._secrets: dict[JsonFile, frozenset[str]] = {}
        self._written: Memory | None = None
        self._flushed: Memory | None = None
        self.newer: str | None = None
        """Why the records, which a newer agent wrote, must not be written again; None if this agent knows them all."""

    def full(self) -> str | None:
        """Return how much space is free if that is too little; None if there is enough."""
        with suppress(OSError):
            disk = os.statvfs(self._directory)
            free = disk.f_bfree * disk.f_frsize
            if free < LEAST_FREE_BYTES:
                return f"{os.strerror(errno.ENOSPC)} ({free // 1024} KiB are free)"
        return None

    def device(self) -> str | None:
        """Return the name of the device that the stored desired state is for."""
        device = _mapping(self._desired.load()).get("device")
        return device if isinstance(device, str) else None

    def load_desired(self, device: str) -> Received | None:
        """Return the stored desired state of *device*; None if there is none, or it cannot be read."""
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
        """Store *received* for a start of the agent without network."""
        value = {"format": FORMAT, "device": device, "etag": received.etag, "body": received.body}
        self._save(self._desired, value, received.desired.items)

    def load_memory(self) -> dict[str, Record]:
        """Return the stored records, as far as they can be read.

        Those that cannot be, though the file is as it was written, are of a newer agent. The file is then left alone,
        so that nothing is lost and no job runs twice: *newer* says why, and save_memory raises OSError with it.
        """
        stored = _mapping(self._memory.load())
        records, written_as = stored.get("records"), stored.get("format", FORMAT)
        memory, unknown = {}, []
        for data in records if isinstance(records, list) else ():
            try:
                record = read(Record, data)
            except WireError as e:
                log.warning("record cannot be read reason=%s", e)
                unknown.append(str(e))
                continue
            memory[record.uid] = record
        what = f"format {written_as!r}, of which this agent knows {FORMAT}" if written_as != FORMAT else ""
        what = what or (f"{len(unknown)} of its records: {unknown[0]}"[:200] if unknown else "")
        remedy = "upgrade this agent again, or remove the file and restart this agent"
        file = self._directory / "memory.json"
        self.newer = f"{file} is of a newer agent ({what}); {remedy}" if what else None
        self._written = dict(memory) if self._memory.intact() else None
        self._flushed = _durable(memory)
        return memory

    def save_memory(self, memory: Memory) -> None:
        """Store *memory* if it changed. Flush it to disk unless a restart of the device makes the change void."""
        if memory == self._written:
            return
        if self.newer is not None:
            raise OSError(self.newer)
        kept = _durable(memory)
        flush = kept != self._flushed
        self._written = None  # if writing fails, the next call tries again
        if flush:
            self._flushed = None  # and flushes, whatever it stores: what a power cut would find then is unknown
        records = [*map(write, map(memory.__getitem__, sorted(memory)))]
        items = (each.item for record in memory.values() for each in (record.current, record.last_good) if each)
        self._save(self._memory, {"format": FORMAT, "records": records}, items, flush=flush)
        self._written, self._flushed = dict(memory), kept

    def _save(self, file: JsonFile, value: object, items: Iterable[DesiredItem], *, flush: bool = True) -> None:
        """Store *value*, which has *items*; a Secret that none of them has any more is in no version of *file* then."""
        now = frozenset(text for item in items if item.values or item.file_values for text in secret_values(item))
        before = self._secrets.get(file)
        gone = file.mentions(_SECRET_REFERENCE) if before is None else not before <= now
        if before is not None:
            self._secrets[file] = before | now  # if writing fails, both may be there
        file.save(value, flush=flush, both=gone)
        self._secrets[file] = now

    def load_view(self) -> View:
        """Return what an agent last stored for `praetor-agent status`."""
        try:
            return read(View, JsonFile(self._view).load() or {})
        except WireError:
            return View()

    def save_view(self, view: View) -> None:
        """Store *view* for `praetor-agent status`, without a flush, because it changes with every heartbeat."""
        replace_file(self._view, _encode(write(view)), flush=False)

    def confirm(self, uid: str, spec_hash: str) -> None:
        """Store for the agent that an operator confirmed *spec_hash* of the process *uid*."""
        replace_file(self._confirmation(uid), spec_hash.encode())

    def confirmed(self, memory: Memory) -> dict[str, str]:
        """Return by uid the confirmed spec hashes of the processes in *memory* that wait for a confirmation."""
        found = {}
        for uid, record in memory.items():
            if record.confirmation is not None:
                with suppress(OSError):
                    found[uid] = self._confirmation(uid).read_bytes().decode(errors="replace")
        return found

    def _confirmation(self, uid: str) -> Path:
        return self._directory / f"confirmed-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def durable(record: Record) -> Record:
    """Return *record* without what a restart of the device makes void. What is equal then needs no flush to disk.

    A service is started again after a restart, however far its start or stop had come. Of a job everything counts,
    because it runs once per spec.
    """
    if record.current is None or record.current.item.spec.restart_policy is not RestartPolicy.ALWAYS:
        return record
    stage = ProcessStage.RUNNING if record.stage is ProcessStage.STARTING else record.stage
    return replace(
        record, stage=stage, handle=None, started_at=0.0, start_time=None, healthy_since=None, stop_deadline=None
    )


def _durable(memory: Memory) -> Memory:
    return {uid: durable(record) for uid, record in memory.items()}


def _mapping(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}
