# SPDX-License-Identifier: Apache-2.0
"""A disk that loses what was not flushed when its power is cut: ext4 in a file, shut down by the kernel itself.

The kernel can stop a file system as a failing disk would (what `xfs_io -c shutdown` asks for): from that moment nothing
reaches the disk, the journal neither, and what a copy of the disk then holds is what a machine would find at its next
start. Bytes that the file system had handed on count as written; a disk that lies about its own cache is not simulated.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Self

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN, `_IOR('X', 125, __u32)`."""
WITHOUT_THE_JOURNAL = struct.pack("I", 2)
SIZE = 256 * 2**20
OPTIONS = "noauto_da_alloc,commit=300"
"""Nothing is written early as a favour to programs that do not flush."""


class Disk:
    """A file system at *place*, which is made; the files that hold it are beside it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._lives = 0

    @property
    def _image(self) -> Path:
        return self.place.with_name(f"{self.place.name}-{self._lives}.img")

    def cut_power(self) -> None:
        """Let no write reach the disk from now on; every write gets an error."""
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_THE_JOURNAL)
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount what the disk held when its power was cut. It must not be in use meanwhile."""
        was = self._image
        self._unmount()
        self._lives += 1
        # a copy: another user of the mount, such as a machine that boots just now, may hold the old one for a while
        subprocess.run(("cp", "--sparse=always", was, self._image), check=True)
        was.unlink()
        self._mount()

    def __enter__(self) -> Self:
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(("mkfs.ext4", "-q", "-F", self._image), check=True)
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()
        self._image.unlink()

    def _mount(self) -> None:
        subprocess.run(("mount", "-t", "ext4", "-o", f"loop,{OPTIONS}", self._image, self.place), check=True)

    def _unmount(self) -> None:
        subprocess.run(("umount", "--lazy", self.place), check=True)


def why_unavailable() -> str | None:
    """Return why such a disk cannot be made here, or None."""
    if os.geteuid() != 0:
        return "disks are mounted by root only"
    if not Path("/dev/loop-control").exists():
        return "the kernel has no loop devices"
    missing = [program for program in ("mkfs.ext4", "mount", "umount") if shutil.which(program) is None]
    return f"{' and '.join(missing)} are not installed" if missing else None
