"""What the agent keeps on disk: the desired state as it was received, and its memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from praetor_agent.records import Memory, Record
from praetor_agent.store import JsonFile, replace_file
from praetor_api.protocol import Desired, read_desired
from praetor_api.wire import WireError, read, write

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A desired state as the gateway sent it; the raw body too, of which an upgraded agent may understand more."""

    etag: str | None
    body: Mapping[str, Any]
    desired: Desired


class State:
    """The state directory's two files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._desired = JsonFile(directory / "desired.json")
        self._memory = JsonFile(directory / "memory.json")

    def device(self) -> str | None:
        """Return the device that the stored desired state is for."""
        device = _mapping(self._desired.load()).get("device")
        return device if isinstance(device, str) else None

    def load_desired(self, device: str) -> Received | None:
        """Return what *device* shall run as last known, or None when that is not known."""
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
        """Keep *received* for the next start without network."""
        self._desired.save({"format": FORMAT, "device": device, "etag": received.etag, "body": received.body})

    def load_memory(self) -> dict[str, Record]:
        """Return the records; one that cannot be read is left out, for the backends know what runs."""
        records = _mapping(self._memory.load()).get("records")
        memory = {}
        for data in records if isinstance(records, list) else ():
            try:
                record = read(Record, data)
            except WireError as e:
                log.warning("record cannot be read reason=%s", e)
                continue
            memory[record.uid] = record
        return memory

    def save_memory(self, memory: Memory) -> None:
        """Keep *memory*."""
        self._memory.save({"format": FORMAT, "records": [write(memory[uid]) for uid in sorted(memory)]})

    def confirm(self, uid: str, spec_hash: str) -> None:
        """Leave word for the agent that somebody confirmed *spec_hash*."""
        replace_file(self._word(uid), spec_hash.encode())

    def confirmed(self, memory: Memory) -> dict[str, str]:
        """Return by uid what was confirmed of the changes that wait for it."""
        found = {}
        for uid, record in memory.items():
            if record.confirmation is not None:
                with suppress(OSError):
                    found[uid] = self._word(uid).read_bytes().decode(errors="replace")
        return found

    def _word(self, uid: str) -> Path:
        return self._directory / f"confirmed-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _mapping(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}
