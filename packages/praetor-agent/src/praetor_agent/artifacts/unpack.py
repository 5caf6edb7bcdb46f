# SPDX-License-Identifier: Apache-2.0
"""Reads tar, plain or gzipped. Not with `tarfile`, because what it lets through differs between Python versions."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import BinaryIO

from praetor_agent.artifacts.rootfs_writer import PIECE_BYTES, RootfsWriter, unsafe
from praetor_agent.errors import ArtifactError
from praetor_api.protocol import ArtifactReason as Reason

BLOCK = 512
MAX_EXTENSION = 1024**2
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_KINDS = {"3": "a device", "4": "a device", "6": "a FIFO", "S": "a sparse file"}


def unpack(file: BinaryIO, size: int, rootfs: RootfsWriter, *, image: bool = False) -> None:
    """Unpack the *size* bytes of *file* into *rootfs*; ArtifactError for forbidden content."""
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    rootfs.meter.packed(size)
    rootfs.next_layer()
    try:
        if not packed:
            _Archive(file.read, rootfs, image).unpack()
        else:
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                _Archive(stream.read, rootfs, image).unpack()
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ArtifactError(f"the archive is damaged: {e}", Reason.VERIFICATION_FAILED) from e


class _Archive:
    def __init__(self, read: Callable[[int], bytes], rootfs: RootfsWriter, image: bool) -> None:
        self._source = read
        self._rootfs = rootfs
        self._image = image

    def unpack(self) -> None:
        """Unpack entries until the end mark."""
        given: dict[str, str] = {}
        headers = 0
        while any(header := self._exactly(BLOCK)):
            if _number(header[148:156]) != sum(header[:148]) + 256 + sum(header[156:]):
                raise ArtifactError("the archive is damaged: a header's checksum is wrong", Reason.VERIFICATION_FAILED)
            kind = chr(header[156])
            if kind not in "xgLK":
                self._entry(header, kind, given)
                given, headers = {}, 0
                continue
            headers += 1
            if headers > 4:
                raise unsafe("an entry has more headers than any needs")
            more = self._extension(header, kind)
            if kind != "g":
                given |= more

    def _entry(self, header: bytes, kind: str, given: dict[str, str]) -> None:
        name = given.get("path") or _name(header)
        size = _number(given["size"].encode()[:20], 10) if "size" in given else _size(header)
        if kind in "\x000" and name.endswith("/"):
            if size:
                raise unsafe(f"{name!r} is a directory with content")
            kind = "5"
        if kind in "\x0007":
            if self._image and self._whiteout(name):
                self._skip(size)
            else:
                executable = bool(_number(header[100:108]) & 0o111)
                self._rootfs.file(name, size, self._some, executable=executable)
            self._skip(-size % BLOCK)
        elif kind == "5":
            self._rootfs.directory(name)
        elif kind in "12":
            target = given.get("linkpath") or _text(header[157:257])
            (self._rootfs.link if kind == "1" else self._rootfs.symlink)(name, target)
        else:
            raise unsafe(f"{name!r} is {_KINDS.get(kind, f'of the type {kind!r}')}, which is refused")

    def _whiteout(self, name: str) -> bool:
        directory, _, base = name.rpartition("/")
        if not base.startswith(WHITEOUT):
            return False
        self._rootfs.meter.entry()
        if base == OPAQUE:
            self._rootfs.opaque(directory)
        elif base[len(WHITEOUT) :] not in ("", ".", ".."):
            self._rootfs.whiteout(f"{directory}/{base[len(WHITEOUT) :]}" if directory else base[len(WHITEOUT) :])
        return True

    def _extension(self, header: bytes, kind: str) -> dict[str, str]:
        size = _size(header)
        if size > MAX_EXTENSION:
            raise unsafe(f"a header of {size} bytes is longer than any needs")
        body = self._exactly(size)
        self._skip(-size % BLOCK)
        if kind in "LK":
            return {"path" if kind == "L" else "linkpath": _text(body)}
        return _records(body)

    def _some(self, count: int) -> bytes:
        piece = self._source(count)
        if not piece:
            raise EOFError("it ends within a file")
        return piece

    def _exactly(self, count: int) -> bytes:
        piece = b""
        while len(piece) < count:
            piece += self._some(count - len(piece))
        return piece

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._some(min(count, PIECE_BYTES)))


def _records(body: bytes) -> dict[str, str]:
    found = {}
    while body.strip(b"\0"):
        length, _, _ = body.partition(b" ")
        end = _number(length, 10)
        key, equals, value = body[len(length) + 1 : end - 1].partition(b"=")
        if not equals or not len(length) < end <= len(body):
            raise unsafe("an extended header cannot be read")
        if key.startswith(b"GNU.sparse"):
            raise unsafe("the archive holds a sparse file, which is refused")
        if key in (b"path", b"linkpath", b"size"):
            found[key.decode()] = value.decode(errors="surrogateescape")
        body = body[end:]
    return found


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _size(header: bytes) -> int:
    field = header[124:136]
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _number(field)


def _number(field: bytes, base: int = 8) -> int:
    digits = field.strip(b" \0")
    if digits and not digits.isdigit():
        raise unsafe("a header contains an invalid number")
    try:
        return int(digits or b"0", base)
    except ValueError as e:
        raise unsafe("a header contains an invalid number") from e
