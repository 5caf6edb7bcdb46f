# SPDX-License-Identifier: Apache-2.0
"""Downloads that can be resumed, and the workspace where an artifact is put together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from praetor_agent.artifacts.names import TREE, check_name, file_name, is_archive
from praetor_agent.artifacts.rootfs_writer import SPARE_BYTES, RootfsWriter
from praetor_agent.errors import ArtifactError
from praetor_agent.state import read_text
from praetor_api.protocol import ArtifactReason as Reason

if TYPE_CHECKING:
    from praetor_agent.artifacts.web import Web

CHECK_BYTES = 1024**2
READ_BYTES = 256 * 1024
"""Written between two checks of the free space."""


class PartialDownload:
    """A file that grows, at most to *limit* bytes. It outlives the agent, so that a download can be resumed.

    It is verified and used through one descriptor, so that nothing can be changed in between.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._note = path.with_name(path.name + ".note")
        self._name = path.with_name(path.name + ".name")
        self._limit = limit
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.file = os.fdopen(descriptor, "r+b", buffering=0)
        self.size = os.fstat(descriptor).st_size
        self.encoding = ""
        self._checked = 0

    def append(self, piece: bytes) -> None:
        """Write *piece* at the end; ArtifactError beyond the limit, or if the disk is full."""
        if self.size + len(piece) > self._limit:
            raise ArtifactError(f"the artifact is longer than {self._limit} bytes", Reason.TOO_LARGE)
        if not self._checked or self.size - self._checked >= CHECK_BYTES:
            self.make_sure(len(piece))
            self._checked = self.size or 1
        try:
            self.file.seek(self.size)
            self.file.write(piece)
        except OSError as e:
            raise ArtifactError(f"the disk cannot be written: {e.strerror}", Reason.DISK_FULL) from e
        self.size = os.fstat(self.file.fileno()).st_size

    def make_sure(self, count: int) -> None:
        """Raise ArtifactError unless the disk has space for *count* bytes more, and a reserve."""
        disk = os.fstatvfs(self.file.fileno())
        free = disk.f_bavail * disk.f_frsize
        if free < count + SPARE_BYTES:
            missing = f"{free} bytes are free, {count} are needed and {SPARE_BYTES} stay free"
            raise ArtifactError(f"the disk has too little room: {missing}", Reason.DISK_FULL)

    def restart(self) -> None:
        """Remove the content."""
        self.file.truncate(0)
        self.size = 0

    def digest(self) -> str:
        """Return the SHA-256 of the content."""
        self.file.seek(0)
        found = hashlib.sha256()
        while chunk := self.file.read(READ_BYTES):
            found.update(chunk)
        return found.hexdigest()

    def verify(self, digest: str, what: str) -> None:
        """Raise ArtifactError and remove the file unless the content has the SHA-256 *digest*."""
        found = self.digest()
        if found != digest:
            self.remove()
            sent = f" (sent with Content-Encoding {self.encoding})" if self.encoding else ""
            raise ArtifactError(f"{what}{sent} has sha256 {found}, not {digest}", Reason.DIGEST_MISMATCH)

    def validator(self) -> str | None:
        """Return the server's ETag or date of the version that is being downloaded."""
        with suppress(OSError, UnicodeDecodeError):
            return self._note.read_text() or None
        return None

    def note(self, validator: str | None) -> None:
        """Store the server's ETag or date of the version that is being downloaded."""
        self._note.write_text(validator or "")

    def name(self) -> str:
        """Return the file name that the server gave, "" if none."""
        return read_text(self._name)

    def rename(self, name: str) -> None:
        """Store the file name that the server gave."""
        if name != self.name():
            self._name.write_text(name, errors="replace")

    def close(self) -> None:
        """Close the file, which stays on disk."""
        self.file.close()

    def remove(self) -> None:
        """Remove the file; the descriptor can still read it."""
        for path in (self._path, self._note, self._name):
            path.unlink(missing_ok=True)


class Work:
    """The workspace of a source: downloads below *parts*, and *root*, an empty directory that becomes the artifact.

    *opened* maps each download in progress to its owner; at most *max_bytes* are written.
    """

    def __init__(self, parts: Path, root: Path, max_bytes: int, opened: dict[str, object] | None = None) -> None:
        self._parts = parts
        self._opened = {} if opened is None else opened
        self.root = root
        self.max_bytes = max_bytes

    @contextmanager
    def part(self, name: str) -> Iterator[PartialDownload]:
        """Open the download of that name. One that does not fit on the disk is not kept."""
        while self._opened.setdefault(name, self) is not self:  # as when two images share a layer
            name += "+"
        try:
            part = PartialDownload(self._parts / name, self.max_bytes)
            try:
                yield part
            except ArtifactError as e:
                if e.reason in (Reason.DISK_FULL, Reason.TOO_LARGE, Reason.SIZE_MISMATCH, Reason.UNSAFE_ARCHIVE):
                    part.remove()
                raise
            finally:
                part.close()
        finally:
            self._opened.pop(name, None)

    @contextmanager
    def rootfs(self, *, image: bool = False) -> Iterator[RootfsWriter]:
        """Open the root for writing."""
        rootfs = RootfsWriter(self.root, self.max_bytes, image=image)
        try:
            yield rootfs
        finally:
            rootfs.close()

    def take(self, part: PartialDownload, url: str) -> None:
        """Put the verified *part* into the root: unpacked if its name is that of an archive, else as a file."""
        name = file_name(url)
        named = not is_archive(name) and is_archive(part.name())
        if named:
            (self.root.parent / TREE).touch()
        with self.rootfs() as rootfs:
            rootfs.meter.packed(part.size)
            if named or is_archive(name):
                from praetor_agent.artifacts.unpack import unpack

                unpack(part.file, part.size, rootfs)
            else:
                part.file.seek(0)
                rootfs.file(name, part.size, part.file.read, executable=True)
        part.remove()


def download(
    web: Web,
    url: str,
    part: PartialDownload,
    *,
    headers: dict[str, str] | None = None,
    size: int | None = None,
    digest: str | None = None,
) -> None:
    """Complete *part* with the content of *url*, resuming a beginning.

    *size* is in bytes, if a manifest pins it; *digest* is a SHA-256, if a spec does. The caller verifies the content.
    """
    headers, resumed_at = dict(headers or {}), part.size
    held = part.digest() if part.size and digest else None
    if held and held == digest:
        return
    if size is not None and part.size > size:
        part.restart()
    validator = part.validator()
    if part.size and (validator or size is not None):
        headers["Range"] = f"bytes={part.size}-"
        if size is None and validator:
            headers["If-Range"] = validator
    else:
        part.restart()
    if size is not None and part.size == size:
        return
    try:
        with web.get(url, headers) as answer:
            span = answer.headers.get("Content-Range", "")
            if answer.status == 416:
                if size is None and span in ("", f"bytes */{part.size}"):
                    return  # nothing is missing
                part.restart()
            answer.expect(200, 206, verified=size is not None or digest is not None)
            begins = span.startswith(f"bytes {part.size}-")
            if answer.status == 200 or not begins:
                part.restart()
                resumed_at = 0
            if answer.status == 206 and not begins:
                raise ArtifactError(f"{url} sent another range than the one asked for")
            if size is not None and answer.length is not None and part.size + answer.length != size:
                message = f"{url} has {part.size + answer.length} bytes, not {size}"
                raise ArtifactError(message, Reason.SIZE_MISMATCH)
            part.note(_strong(answer.headers.get("ETag")) or answer.headers.get("Last-Modified"))
            part.encoding = answer.encoding
            if size is None:
                given = answer.headers.get_filename()
                part.rename(check_name(file_name(quote(given))) if given else "")
            part.make_sure(answer.length or 0)
            for piece in answer.pieces():
                if size is not None and part.size + len(piece) > size:
                    raise ArtifactError(f"{url} has more than {size} bytes", Reason.SIZE_MISMATCH)
                part.append(piece)
        total = span.rpartition("/")[2] if answer.status == 206 else ""
        whole = int(total) if size is None and total.isdecimal() else size
        if whole is not None and part.size < whole:
            raise ArtifactError(f"{url} ended after {part.size} of {whole} bytes")
        # The same content twice is not cut: it is another one.
        if whole is None and digest and not answer.delimited and part.digest() not in (digest, held):
            raise ArtifactError(f"{url} ended after {part.size} bytes, of a length that the server does not name")
    except ArtifactError as e:
        e.progress = part.size - resumed_at >= CHECK_BYTES
        raise


def _strong(etag: str | None) -> str | None:
    return etag if etag and etag.startswith('"') else None
