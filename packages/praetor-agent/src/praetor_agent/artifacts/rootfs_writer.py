# SPDX-License-Identifier: Apache-2.0
"""Writes the entries of archives below one directory: never outside it, nor through a link.

Every step uses a descriptor of the directory before it, and follows no link. Links of images are written so that
following one later stays inside, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason as Reason

MAX_ENTRIES = 65536
MAX_DEPTH = 64
MAX_PATH = 4096
RATIO = 100
RATIO_FREE_BYTES = 16 * 1024**2
DIRECTORY_BYTES = 4096
PIECE_BYTES = 256 * 1024
SPARE_BYTES = 16 * 1024**2
"""Left free on the disk, for the state files and logs."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Segments = tuple[str, ...]


def unsafe(message: str) -> ArtifactError:
    """Return the error for an archive with forbidden content."""
    return ArtifactError(message, Reason.UNSAFE_ARCHIVE)


class Meter:
    """Counts what is written, and raises ArtifactError at the limits."""

    def __init__(self, directory: int, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._entries = 0
        self._allowance = RATIO_FREE_BYTES
        self.written = 0

    def packed(self, size: int) -> None:
        """Allow for the unpacking of *size* more bytes."""
        self._allowance += RATIO * size

    def entry(self) -> None:
        """Count one entry."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise unsafe(f"the archive holds more than {MAX_ENTRIES} entries")

    def bytes(self, count: int) -> None:
        """Count bytes that are about to be written."""
        self.written += count
        if self.written > self._allowance:
            raise unsafe(f"the archive unpacks to more than {RATIO} times its size")
        if self.written > self._max_bytes:
            raise ArtifactError(f"the artifact unpacks to more than {self._max_bytes} bytes", Reason.TOO_LARGE)
        disk = os.fstatvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < count + SPARE_BYTES:
            raise ArtifactError("the disk has too little space for the unpacked files", Reason.DISK_FULL)


class RootfsWriter:
    """Writes into *root*, at most *max_bytes*. *image* allows links to anywhere, which are confined, and layers."""

    def __init__(self, root: Path, max_bytes: int, *, image: bool = False) -> None:
        self._root = os.open(root, _DIRECTORY)
        self.meter = Meter(self._root, max_bytes)
        self._image = image
        self._fresh: set[str] = set()
        self._folded: dict[str, str] = {}

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)

    def next_layer(self) -> None:
        """Begin a layer: its entries replace those of earlier layers."""
        self._fresh = set()

    def directory(self, name: str) -> None:
        """Create a directory, or use the existing one."""
        path = self._path(name)
        if not path:
            return
        with self._parent(path) as parent:
            mode = _mode(path[-1], parent)
            if mode is not None and not stat.S_ISDIR(mode):
                self._drop(path[-1], parent, "/".join(path))
            self._make(path[-1], parent)

    def file(self, name: str, size: int, read: Callable[[int], bytes], *, executable: bool) -> None:
        """Write a file of *size* bytes from *read*."""
        path = self._path(name)
        with self._place(path) as parent:
            descriptor = os.open(path[-1], _NEW_FILE, 0o600, dir_fd=parent)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                while size:
                    self.meter.bytes(min(size, PIECE_BYTES))
                    piece = read(min(size, PIECE_BYTES))
                    file.write(piece)
                    size -= len(piece)
                os.fchmod(file.fileno(), 0o755 if executable else 0o644)

    def symlink(self, name: str, target: str) -> None:
        """Write a symbolic link whose target is inside, as if the directory were the root."""
        path = self._path(name)
        if not self._image and _leaves(path, target):
            raise unsafe(f"{name!r} is a link out of the archive; make it relative to a place inside")
        if not target or "\0" in target or len(target) > MAX_PATH:
            raise unsafe(f"{name!r} is a link to nowhere")
        with self._place(path) as parent:
            os.symlink(_confined(path, target), path[-1], dir_fd=parent)

    def link(self, name: str, target: str) -> None:
        """Write a hard link to a file that was written."""
        path, source = self._path(name), self._path(target, new=False)
        if not source:
            raise unsafe(f"{name!r} is a link to nowhere")
        with self._parent(source, make=False) as beside:
            mode = _mode(source[-1], beside)
            # A link to a link would be read from another place, and so could lead out.
            if mode is None or not stat.S_ISREG(mode) or source == path:
                raise unsafe(f"{name!r} is a hard link to something other than a file of the archive")
            with self._place(path) as parent:
                os.link(source[-1], path[-1], src_dir_fd=beside, dst_dir_fd=parent, follow_symlinks=False)

    def whiteout(self, name: str) -> None:
        """Remove what lower layers wrote under *name*."""
        path = self._path(name, new=False)
        with self._parent(path) as parent:
            mode = _mode(path[-1], parent)
            if "/".join(path) not in self._fresh:
                self._drop(path[-1], parent, "/".join(path))
            elif mode is not None and stat.S_ISDIR(mode):
                self.opaque(name)

    def opaque(self, name: str) -> None:
        """Remove everything that lower layers wrote in the directory *name*."""
        path = self._path(name, new=False)
        with self._parent((*path, "x")) as directory:
            self._clear(directory, "/".join(path))

    def _path(self, name: str, *, new: bool = True) -> Segments:
        path = tuple(part for part in name.split("/") if part not in ("", "."))
        if new:
            self.meter.entry()
        if name.startswith("/") or ".." in path or "\0" in name:
            raise unsafe(f"{name!r} leads out of the archive")
        if len(path) > MAX_DEPTH or len(name) > MAX_PATH or any(len(os.fsencode(part)) > 255 for part in path):
            raise unsafe(f"{name[:80]!r}… is nested too deeply")
        if new and path:
            joined = "/".join(path)
            if joined in self._fresh:
                raise unsafe(f"{name!r} is there twice")
            self._fresh.add(joined)
            if not self._image:
                self._fold(path)
        return path

    def _fold(self, path: Segments) -> None:
        """Refuse two names that differ in case only."""
        for end in range(1, len(path) + 1):
            exact = "/".join(path[:end])
            if self._folded.setdefault(exact.casefold(), exact) != exact:
                raise unsafe(f"{exact!r} and {self._folded[exact.casefold()]!r} differ in case only")

    @contextmanager
    def _parent(self, path: Segments, *, make: bool = True) -> Iterator[int]:
        """Yield a descriptor of the directory that *path* is in; missing directories are created."""
        if not path:
            raise unsafe("an entry has no name")
        directory = os.dup(self._root)
        try:
            for part in path[:-1]:
                if make:
                    self._make(part, directory)
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=directory)
                except OSError as e:
                    raise unsafe(f"{'/'.join(path)!r} is below {part!r}, which is no directory") from e
                os.close(directory)
                directory = below
            yield directory
        finally:
            os.close(directory)

    def _make(self, name: str, parent: int) -> None:
        """Create a directory unless the name exists; it counts towards the size."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
            self.meter.bytes(DIRECTORY_BYTES)

    @contextmanager
    def _place(self, path: Segments) -> Iterator[int]:
        """Yield the directory for a new entry whose name is free in it."""
        with self._parent(path) as parent:
            if self._image:
                self._drop(path[-1], parent, "/".join(path))
            try:
                yield parent
            except FileExistsError as e:
                raise unsafe(f"{'/'.join(path)!r} is there twice") from e

    def _drop(self, name: str, parent: int, path: str) -> None:
        """Remove what lower layers wrote there; what this layer wrote below it stays."""
        mode = _mode(name, parent)
        if mode is None:
            return
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=parent)
            return
        below = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._clear(below, path)
        finally:
            os.close(below)
        with suppress(OSError):  # not empty: of this layer
            os.rmdir(name, dir_fd=parent)

    def _clear(self, directory: int, path: str) -> None:
        for name in os.listdir(directory):
            below = f"{path}/{name}" if path else name
            mode = _mode(name, directory)
            if below not in self._fresh or (mode is not None and stat.S_ISDIR(mode)):
                self._drop(name, directory, below)
                if below in self._fresh:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=directory)


def _mode(name: str, parent: int) -> int | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _leaves(path: Segments, target: str) -> bool:
    depth = len(path) - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return target.startswith("/")


def _confined(path: Segments, target: str) -> str:
    """Return *target* as a path from the link's own directory that climbs no higher than the root.

    The climbing comes first, from a directory that is none by way of a link; names follow, each of which may be a link
    that is confined in the same way.
    """
    at = [] if target.startswith("/") else list(path[:-1])
    for part in target.split("/"):
        if part == "..":
            at = at[:-1]
        elif part not in ("", "."):
            at.append(part)
    return "/".join([*[".."] * (len(path) - 1), *at]) or "."


def sync_tree(root: Path) -> None:
    """Flush all that is below *root* to disk."""
    for _, _, files, directory in os.fwalk(root, follow_symlinks=False):
        for name in files:
            mode = _mode(name, directory)
            if mode is not None and stat.S_ISREG(mode):
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        os.fsync(directory)
