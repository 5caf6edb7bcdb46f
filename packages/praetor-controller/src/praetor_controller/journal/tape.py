"""The file that is written to: never readable by others, never longer than it may be, older ones kept beside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class Tape:
    """A file and its predecessors, FILE.1 the youngest; OSError when it cannot be written. Never one of a device."""

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
        """Begin a new file, or go on with the one that could not be written before."""
        if not self._began:
            self._step_aside()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self._path} is no file; name one")
            os.fchmod(fd, 0o600)
            self._size = min(self._size, found.st_size)
            os.ftruncate(fd, self._size)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._began = fd, True

    def fits(self, line: bytes) -> bool:
        """Tell whether *line* fits into the present file."""
        return self._size + len(line) <= self._max_bytes

    def turn(self) -> None:
        """Begin a new file; the oldest one goes."""
        self.close()
        self._began, self._size = False, 0
        self.open()

    def write(self, line: bytes) -> None:
        """Write *line* as a whole or not at all."""
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

    def _step_aside(self) -> None:
        """Give the files that are there the names of older ones."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return  # open() refuses what is no file
        for number in range(self._files - 1, 0, -1):
            older = self._older(number)
            source = self._older(number - 1) if number > 1 else self._path
            if source.exists():
                os.replace(source, older)
        if self._files == 1:
            os.unlink(self._path)

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
