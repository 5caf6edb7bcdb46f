# SPDX-License-Identifier: Apache-2.0
"""A file of bounded size, readable by its owner alone, with its predecessors beside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class RotatingFile:
    """A file and its predecessors, FILE.1 the youngest; methods raise OSError when it cannot be written.

    path: the file; a device or a pipe is refused.
    max_bytes: the size that the file never exceeds.
    files: how many files there are at most, this one included.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._fd: int | None = None
        self._size = 0
        self._began = False

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    def open(self) -> None:
        """Begin a new file, or continue the one that could not be written before."""
        if not self._began:
            self._rename_older()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self._path} is not a regular file; choose another path")
            os.fchmod(fd, 0o600)
            self._size = min(self._size, found.st_size)
            os.ftruncate(fd, self._size)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._began = fd, True

    def fits(self, line: bytes) -> bool:
        """Return whether *line* fits into the file."""
        return self._size + len(line) <= self._max_bytes

    def rotate(self) -> None:
        """Begin a new file, and delete the oldest one."""
        self.close()
        self._began, self._size = False, 0
        self.open()

    def write(self, line: bytes) -> None:
        """Write *line*, all of it or nothing."""
        if self._fd is None:
            raise OSError("the file is not open")
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _rename_older(self) -> None:
        """Give the existing files the names of older ones."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return  # open() refuses what is not a regular file
        for number in range(self._files - 1, 0, -1):
            older = self._older(number)
            source = self._older(number - 1) if number > 1 else self._path
            if source.exists():
                os.replace(source, older)
        if self._files == 1:
            os.unlink(self._path)

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
