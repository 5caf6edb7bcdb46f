# SPDX-License-Identifier: Apache-2.0
"""One name in one directory. Every access goes by the descriptor of that directory, opened without following a link.

So a user who may change a directory on the way cannot lead a write elsewhere between the check and the use of a path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from praetor_api.backports import dataclass

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """The file *name* in *directory*, an absolute path without links; *own* is the process's directory around it."""

    directory: str
    name: str
    own: str = ""

    def __str__(self) -> str:
        return f"{self.directory.rstrip('/')}/{self.name}"

    @property
    def temporary(self) -> str:
        """Name of the file that is written before it takes the place; the same one each time."""
        return f".praetor-{hashlib.sha256(os.fsencode(str(self))).hexdigest()[:16]}.new"

    def status(self) -> os.stat_result | None:
        """Return the status of what is there, of a link its own; None if there is nothing.

        OSError if that is unknown: a user who may change a directory on the way can make it a loop of links, or mount
        something there that not even root may enter.
        """
        try:
            return os.lstat(str(self))
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[int]:
        """Yield a descriptor of the directory, to name files in; *make* what is missing below the own directory."""
        descriptor, at = os.open("/", _DIRECTORY), ""
        try:
            for part in filter(None, self.directory.split("/")):
                at = f"{at}/{part}"
                if make and self.own and f"{at}/".startswith(f"{self.own}/"):
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = _inner(part, descriptor, at)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def content(self, most: int) -> bytes | None:
        """Return what a regular file there holds, of at most *most* bytes; None if there is none that can be read."""
        try:
            with self.opened() as directory:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with os.fdopen(os.open(self.name, flags, dir_fd=directory), "rb") as file:
                    content = file.read(most + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
        except OSError:
            return None
        return content if content is not None and len(content) <= most else None


def _inner(part: str, directory: int, path: str) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=directory)
    except OSError as e:
        words = "it is a link or a file, and not a directory" if e.errno == errno.ENOTDIR else e.strerror
        raise OSError(e.errno, words, path) from e


def flush(directory: int) -> None:
    """Flush the names in *directory*, a descriptor from `Place.opened`, to disk."""
    with suppress(PermissionError):  # a directory that may be searched and not listed
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
