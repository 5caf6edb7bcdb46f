# SPDX-License-Identifier: Apache-2.0
"""Writes the files of processes, all of a process or none, and removes those that are no longer wanted."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import field as dataclass_field
from dataclasses import replace
from pathlib import Path

from praetor_agent.core import files
from praetor_agent.errors import FileError
from praetor_agent.files.ledger import Entry, Ledger, digest_of, with_status
from praetor_agent.files.owner import resolved
from praetor_agent.files.place import Place, flush
from praetor_api.backports import dataclass
from praetor_api.files import File
from praetor_api.protocol import DesiredItem

log = logging.getLogger(__name__)

RESERVE_BYTES = 256 * 1024
"""What stays free on a disk after the files are written, so that the agent can store its records."""
SEARCHABLE = 0o011
"""Lets other users go through a directory, without listing it."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A file that is not on the device as it is to be: *entry* describes it, *field* names it in the spec."""

    field: str
    entry: Entry
    content: bytes = dataclass_field(repr=False)


class FileStore:
    """The files of all processes. Own directories are below *directory*; *roots* are what the device allows else.

    *ledger* are those that were written.
    """

    def __init__(self, directory: Path, ledger: Path, roots: Iterable[str] = ()) -> None:
        self._directory = Path(os.path.realpath(directory))
        self.ledger = Ledger(ledger)
        self._roots = tuple(roots)
        self._complained: set[str] = set()

    def own(self, uid: str) -> str:
        """Return the path of the own directory of the process *uid*."""
        return str(self._directory / hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:32])

    def directory_of(self, item: DesiredItem) -> str:
        """Return the path of the own directory of *item*; "" if it has no files there."""
        return self.own(item.uid) if any(files.is_own(file.path) for file in _files(item)) else ""

    def problem(self, item: DesiredItem) -> FileError | None:
        """Return why the files of *item* cannot be written, as far as that is known before; None if they can."""
        try:
            changes = self._changes(item)
            _check_space(changes)
        except FileError as e:
            return e
        return FileError(self.ledger.newer) if changes and self.ledger.newer is not None else None

    def edited(self, uid: str) -> bool:
        """Return whether a file of the process *uid* is not as it was written, or a signal is due."""
        return self.ledger.newer is None and any(
            entry.due or not entry.is_as_written() for entry in self.ledger.of(uid).values()
        )

    def due(self, uid: str) -> tuple[str, ...]:
        """Return the signals that the process *uid* has to get, because files of it were written while it runs."""
        return tuple(sorted({entry.due for entry in self.ledger.of(uid).values() if entry.due}))

    def signalled(self, uid: str) -> None:
        """Record that the process *uid* got its signals, or read its files at its start; FileError if that fails."""
        if not self.due(uid):
            return
        own = self.ledger.of(uid)
        others = {path: entry for path, entry in self.ledger.entries.items() if path not in own}
        told = {path: replace(entry, due="") for path, entry in own.items() if entry.digest}
        try:
            self.ledger.save({**others, **told})
        except OSError as e:
            raise FileError(f"the record of files cannot be written: {e.strerror or e}") from e

    def write(self, item: DesiredItem, *, running: bool = False) -> tuple[str, ...]:
        """Write the files of *item* that are not there as they are to be, and remove its others; return what changed.

        While the process is *running*, signals become due.

        FileError if one cannot be written; then no file is changed, unless the disk fails in the middle.
        """
        changes = self._changes(item, running=running)
        contents = files.contents(item)
        places = {file.path: str(self._place(at, file.path, item.uid)) for at, file in enumerate(_files(item))}
        left_out = {places[file.path]: files.signal_of(file) for file in _files(item) if file.path not in contents}
        wanted = {place for place in places.values() if place not in left_out}
        stale = [entry for path, entry in self.ledger.of(item.uid).items() if path not in wanted]
        if changes:
            self._write(changes)
        own = self.directory_of(item)
        for entry in stale:
            self._remove(entry, left_out.get(str(entry.place), "") if running else "", keep=own)
        if own and not os.path.lexists(own):  # there is no content for any of its files
            self._open_state_directory()
            try:
                os.mkdir(own, 0o755)
            except OSError as e:
                raise FileError(f"{own} cannot be written: {e.strerror}") from e
        return tuple(str(change.entry.place) for change in changes)

    def collect(self, used: Collection[str]) -> None:
        """Remove the files of every process whose uid is not in *used*."""
        if self.ledger.newer is not None:
            return
        gone = [entry for entry in self.ledger.entries.values() if entry.uid not in used]
        for entry in gone:
            self._remove(entry)
        for uid in {entry.uid for entry in gone}:
            if not self.ledger.of(uid):
                shutil.rmtree(self.own(uid), ignore_errors=True)
        kept = {os.path.basename(self.own(uid)) for uid in used}
        with suppress(OSError):  # no process has files
            for name in set(os.listdir(self._directory)) - kept:
                with suppress(OSError):  # one that no content was there for is empty
                    os.rmdir(self._directory / name)

    def _place(self, index: int, path: str, uid: str) -> Place:
        """Return where a file is to be; FileError if that is not allowed, or its directory is not there."""
        field, own = f"spec.execution.files[{index}].path", self.own(uid)
        if files.is_own(path):
            parent, _, name = path.rpartition("/")
            return Place(os.path.join(own, parent) if parent else own, name, own)
        refused = files.refusal(index, path, self._roots)
        if refused is not None:
            raise FileError(refused, allowed=False)
        parent, _, name = path.rpartition("/")
        try:
            real = os.path.realpath(parent or "/")
            os.stat(real)  # what leads nowhere is an error
        except OSError as e:
            words = "is not there; make it first" if e.errno == errno.ENOENT else f"cannot be used: {e.strerror}"
            raise FileError(f"{field}: the directory {parent!r} {words}") from None
        refused = files.refusal(index, path, tuple(map(os.path.realpath, self._roots)), f"{real.rstrip('/')}/{name}")
        if refused is not None:
            raise FileError(refused, allowed=False)
        return Place(real, name)

    def _changes(self, item: DesiredItem, *, running: bool = False) -> list[_Change]:
        """Return the files that must be written; FileError naming one that cannot be."""
        fault = files.fault(item)
        if fault is not None:
            raise FileError(f"spec.{fault}")
        contents, execution = files.contents(item), item.spec.execution
        changes = []
        for index, file in enumerate(execution.files):
            field = f"spec.execution.files[{index}]"
            place = self._place(index, file.path, item.uid)
            if file.path not in contents:  # it is optional
                continue
            owner = resolved(f"{field}.owner", files.owner_of(file, execution))
            content, mode = contents[file.path], files.mode_of(file)
            digest, entry = digest_of(content), self.ledger.entries.get(str(place))
            ours = _is_ours(field, place, entry, item.uid)
            if entry is not None and entry.asks(digest, mode, owner) and entry.is_as_written():
                continue
            fresh = Entry(
                uid=item.uid,
                process=f"{item.namespace}/{item.name}",
                directory=place.directory,
                name=place.name,
                own=place.own,
                digest=digest,
                mode=mode,
                owner=owner.uid,
                group=owner.gid,
                inode=entry.inode if entry is not None else 0,
                placed=ours,
                due=files.signal_of(file) if running else "",
            )
            changes.append(_Change(field, fresh, content))
        return changes

    def _write(self, changes: list[_Change]) -> None:
        if any(change.entry.own for change in changes):
            self._open_state_directory()
        entries = {str(change.entry.place): change.entry for change in changes}
        at = changes[0]
        try:
            self.ledger.save({**self.ledger.entries, **entries})
            for at in changes:
                _stage(at)
            for at in changes:
                entries[str(at.entry.place)] = _placed(at)
            self.ledger.save({**self.ledger.entries, **entries})
        except OSError as e:
            for change in changes:
                _unstage(change.entry.place)
            raise FileError(f"{at.field}: {at.entry.place} cannot be written: {e.strerror or e}") from e
        log.info("files written process=%s number=%d", at.entry.process, len(changes))

    def _open_state_directory(self) -> None:
        """Make the directory of all own directories; other users may go through it, for processes run as them."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o711)
            for directory in (self._directory.parent, self._directory):
                with suppress(PermissionError):
                    os.chmod(directory, stat.S_IMODE(directory.stat().st_mode) | SEARCHABLE)
        except OSError as e:
            raise FileError(f"{self._directory} cannot be written: {e.strerror}") from e

    def _remove(self, entry: Entry, due: str = "", *, keep: str = "") -> None:
        """Remove a file if it is the one that was written; what someone else put in its place stays.

        The process that runs without it is to be told by the signal *due*, if that is one. The directory *keep* stays.
        """
        place, path = entry.place, str(entry.place)
        try:
            _unstage(place)
            if entry.is_ours():
                with place.opened() as directory:
                    os.unlink(place.name, dir_fd=directory)
                    flush(directory)
            elif place.status() is not None:
                log.warning("file is not ours any more and stays path=%s process=%s", path, entry.process)
            others = {at: known for at, known in self.ledger.entries.items() if at != path}
            self.ledger.save({**others, path: entry.removed(due)} if due else others)
        except OSError as e:
            if path not in self._complained:
                log.warning("cannot remove a file path=%s reason=%s", path, e)
            self._complained.add(path)
            return
        parent = place.directory
        with suppress(OSError):  # the first directory that is not empty
            while entry.own and f"{parent}/".startswith(f"{entry.own}/") and parent != keep:
                os.rmdir(parent)
                parent = os.path.dirname(parent)


def _files(item: DesiredItem) -> tuple[File, ...]:
    return item.spec.execution.files


def _is_ours(field: str, place: Place, entry: Entry | None, uid: str) -> bool:
    """Return whether *place* may be written over, False if nothing is there; FileError if something of others is."""
    if entry is not None and entry.uid != uid:
        raise FileError(f"{field}.path: {place} belongs to the process {entry.process}; write another path")
    try:
        seen = place.status()
    except OSError as e:
        raise FileError(f"{field}.path: {place} cannot be used: {e.strerror}") from e
    ours = bool(place.own) or (entry is not None and (entry.placed or entry.is_ours()))
    if seen is None:
        return ours
    if stat.S_ISDIR(seen.st_mode):
        raise FileError(f"{field}.path: {place} is a directory; move it away, or write another path")
    if not ours:
        raise FileError(f"{field}.path: {place} was not written by praetor-agent; move it away, or write another path")
    return True


def _check_space(changes: Iterable[_Change]) -> None:
    """Raise FileError if a disk cannot take *changes*."""
    needed: dict[int, int] = {}
    for change in changes:
        directory = change.entry.directory
        while change.entry.own and not os.path.lexists(directory):  # it is made
            directory = os.path.dirname(directory)
        at = f"{change.field}: {change.entry.place} cannot be written"
        try:
            disk, device = os.statvfs(directory), os.stat(directory).st_dev
        except OSError as e:
            raise FileError(f"{at}: {e.strerror}") from e
        needed[device] = needed.get(device, 0) + len(change.content)
        if disk.f_flag & os.ST_RDONLY:
            raise FileError(f"{at}: {os.strerror(errno.EROFS)}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise FileError(f"{at}: {os.strerror(errno.EACCES)}")
        free = disk.f_bavail * disk.f_frsize
        if needed[device] + RESERVE_BYTES > free or (disk.f_files and not disk.f_favail):
            raise FileError(f"{at}: {os.strerror(errno.ENOSPC)} ({free // 1024} KiB are free)")


def _stage(change: _Change) -> None:
    """Write the content beside the file, with its owner and permissions, and flush it to disk."""
    entry, place = change.entry, change.entry.place
    with place.opened(make=True) as directory:
        with suppress(FileNotFoundError):
            os.unlink(place.temporary, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(place.temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(change.content)
            file.flush()
            if (entry.owner, entry.group) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), entry.owner, entry.group)
            os.fchmod(file.fileno(), entry.mode)
            os.fsync(file.fileno())


def _placed(change: _Change) -> Entry:
    """Move what was staged to its place; a file that someone else put there meanwhile is not replaced."""
    place = change.entry.place
    with place.opened() as directory:
        seen = os.stat(place.temporary, dir_fd=directory, follow_symlinks=False)
        if change.entry.placed:
            os.rename(place.temporary, place.name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            _link(place, directory)
        flush(directory)
    return with_status(change.entry, seen)


def _link(place: Place, directory: int) -> None:
    try:
        os.link(place.temporary, place.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        os.unlink(place.temporary, dir_fd=directory)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        os.rename(place.temporary, place.name, src_dir_fd=directory, dst_dir_fd=directory)  # no links here, as on FAT


def _unstage(place: Place) -> None:
    with suppress(OSError), place.opened() as directory:
        os.unlink(place.temporary, dir_fd=directory)
