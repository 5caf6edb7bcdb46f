# SPDX-License-Identifier: Apache-2.0
"""Canary processes: they record what happens to them, in a folder that no power cut reaches.

Each holds a lock for as long as it lives, so that a second instance is noticed whenever it was there; checks its own
artifact before it does anything; and records that it was started.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import random
import tarfile
import threading
from collections import Counter
from pathlib import Path

PLACE = "/srv/canary"
DATA_BYTES = 200_000
PROGRAM = """#!/bin/sh
# $1 is a name, $2 a revision, $3 the folder, $4 what to become
cd "${0%/*}/.." || exit 1
exec 9>>"$3/$1.lock"
flock -n 9 || echo "$1 $2" >>"$3/overlapping"
sha256sum -c sums >/dev/null 2>&1 && [ "$(cat revision)" = "$2" ] || echo "$1 $2" >>"$3/damaged"
echo "$1 $2" >>"$3/started"
shift 3
exec "$@"
"""


class CanaryLog:
    """What the canary processes wrote in *folder*, which their devices have at PLACE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)

    def started(self) -> Counter[tuple[str, str]]:
        """Return how often each name and revision was started."""
        return Counter(self._lines("started"))

    def wrong(self) -> list[tuple[str, str]]:
        """Return what ran twice at a time, or out of an artifact that was not whole."""
        return [*self._lines("overlapping"), *self._lines("damaged")]

    def lives(self, name: str) -> bool:
        """Return whether a process of that name lives."""
        with (self.folder / f"{name}.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def _lines(self, name: str) -> list[tuple[str, str]]:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [(words[0], words[1]) for words in map(str.split, lines)]


def files_of(revision: str) -> dict[str, bytes]:
    """Return the files of an artifact: the program, and data that it verifies."""
    data = random.Random(revision).randbytes(DATA_BYTES)  # noqa: S311 - no secret
    sums = f"{hashlib.sha256(data).hexdigest()}  data\n"
    return {"bin/run": PROGRAM.encode(), "data": data, "revision": revision.encode(), "sums": sums.encode()}


def write_archive(folder: Path, revision: str) -> tuple[str, str]:
    """Write the artifact as an archive; return its name and checksum."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files_of(revision).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    body = gzip.compress(packed.getvalue(), 1, mtime=0)
    path = folder / f"run-{revision}.tar.gz"
    part = path.with_suffix(f".{threading.get_ident()}")  # several devices' scenarios write the same revision at once
    part.write_bytes(body)
    part.replace(path)
    return path.name, hashlib.sha256(body).hexdigest()
