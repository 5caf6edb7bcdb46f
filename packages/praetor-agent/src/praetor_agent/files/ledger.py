# SPDX-License-Identifier: Apache-2.0
"""What the agent wrote: by it, a file of ours is known from one that someone else has put there.

It is a file of its own, which agents that know no files leave alone. A change is recorded before it is made.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from praetor_agent.files.owner import Owner
from praetor_agent.files.place import Place
from praetor_agent.state import JsonFile
from praetor_api.backports import dataclass
from praetor_api.files import MAX_CONTENT
from praetor_api.wire import WireError, read, write

log = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 4 * MAX_CONTENT
"""What a file may hold, in UTF-8; one that its process made larger is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of the process *uid*. Until it was *placed* once, a file that is there with other content is not ours.

    *process* is its name for people, *own* the process's directory if the file is below it. *digest* is the SHA-256 of
    what it is to hold, "" for a file that was removed while its process ran; inode, size and time (in ns) are those of
    the file as it was written. The signal *due* was not sent yet to the process that runs with it, or without it.
    """

    uid: str
    process: str
    directory: str
    name: str
    own: str = ""
    digest: str
    mode: int
    owner: int
    group: int
    inode: int = 0
    size: int = 0
    modified: int = 0
    placed: bool = False
    due: str = ""

    @property
    def place(self) -> Place:
        """Where the file is."""
        return Place(self.directory, self.name, self.own)

    def removed(self, due: str) -> Entry:
        """Return the entry of the file after it was removed, of which a running process is to be told by *due*."""
        return replace(self, digest="", placed=False, inode=0, due=due)

    def asks(self, digest: str, mode: int, owner: Owner) -> bool:
        """Return whether the file is to be just this."""
        return (self.digest, self.mode, self.owner, self.group) == (digest, mode, owner.uid, owner.gid)

    def is_as_written(self) -> bool:
        """Return whether the file is there as it was written. It is read only if its status changed."""
        seen = self._status()
        if seen is None or not stat.S_ISREG(seen.st_mode):
            return False
        if (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) != (self.mode, self.owner, self.group):
            return False
        same = (seen.st_ino, seen.st_size, seen.st_mtime_ns) == (self.inode, self.size, self.modified)
        return same or self.holds_its_content()

    def holds_its_content(self) -> bool:
        """Return whether the file holds what it is to hold."""
        content = self.place.content(MAX_BYTES)
        return content is not None and digest_of(content) == self.digest

    def is_ours(self) -> bool:
        """Return whether what is there is the file that we wrote, though it may have been edited."""
        seen = self._status()
        if seen is None or not stat.S_ISREG(seen.st_mode):
            return False
        return (self.placed and seen.st_ino == self.inode) or self.holds_its_content()

    def _status(self) -> os.stat_result | None:
        with suppress(OSError):  # what cannot be reached is not there: writing it says why
            return self.place.status()
        return None


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of *content*, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class Ledger:
    """The entries by the path of their file, stored at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JsonFile(path)
        self.newer: str | None = None
        """Why nothing may be written or removed: the entries are of a newer agent."""
        self.entries: dict[str, Entry] = dict(self._load())

    def _load(self) -> Iterator[tuple[str, Entry]]:
        stored = self._file.load()
        if not isinstance(stored, Mapping):
            return
        remedy = "upgrade this agent again"
        if stored.get("format") != FORMAT:
            self.newer = f"{self._path} is of a newer agent (format {stored.get('format')!r}); {remedy}"
            return
        for data in stored.get("files") or ():
            try:
                entry = read(Entry, data)
            except WireError as e:
                self.newer = f"{self._path} is of a newer agent ({str(e)[:200]}); {remedy}"
                return
            yield str(entry.place), entry

    def of(self, uid: str) -> dict[str, Entry]:
        """Return the entries of the process *uid*."""
        return {path: entry for path, entry in self.entries.items() if entry.uid == uid}

    def save(self, entries: Mapping[str, Entry]) -> None:
        """Store *entries*; OSError if they cannot be stored, and then the old ones stay."""
        if self.newer is not None:
            raise OSError(self.newer)
        value = {"format": FORMAT, "files": [write(entries[path]) for path in sorted(entries)]}
        self._file.save(value, both=not entries.keys() >= self.entries.keys())  # nor is a digest left of what is gone
        self.entries = dict(entries)


def with_status(entry: Entry, seen: os.stat_result) -> Entry:
    """Return *entry* after its file was placed, with the status *seen*."""
    return replace(entry, inode=seen.st_ino, size=seen.st_size, modified=seen.st_mtime_ns, placed=True)
