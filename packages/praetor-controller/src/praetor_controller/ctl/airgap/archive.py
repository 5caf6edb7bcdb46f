# SPDX-License-Identifier: Apache-2.0
"""The archive as a file: the same parts give the same bytes, and what was changed on the way is found."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from praetor_controller.ctl.airgap.bundle import CHECKSUMS, Part, Parts, checksums, digest_of

TIME_S = 1580601600
"""2020-02-02, the date of every file, as in the wheels."""
_PROGRAM = ".pyz"


class Damaged(Exception):
    """The archive is not what was written; the message says where."""


def write(target: Path, top: str, parts: Parts) -> None:
    """Write *parts* and their checksums below the folder *top* into the tar *target*, whole or not at all."""
    sums = "".join(f"{part.digest}  {name}\n" for name, part in sorted(parts.items()))
    descriptor, temporary = tempfile.mkstemp(prefix=".airgap-", dir=target.parent)
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add(tar, f"{top}/{CHECKSUMS}", io.BytesIO(sums.encode()))
            for name, part in sorted(parts.items()):
                with part.open() as content:
                    _add(tar, f"{top}/{name}", content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, os.SEEK_END)
    content.seek(0)
    info.mtime, info.mode = TIME_S, 0o755 if name.endswith(_PROGRAM) else 0o644
    tar.addfile(info, content)


@contextmanager
def opened(file: Path) -> Iterator[Parts]:
    """Yield the parts of the archive *file*, each of which has the digest of its contents; Damaged if one has not."""
    try:
        with tarfile.open(file, mode="r:") as tar:
            yield _checked(tar)
    except (tarfile.TarError, EOFError) as e:
        raise Damaged(f"it is no archive that praetorctl airgap bundle wrote: {e}") from e


def _checked(tar: tarfile.TarFile) -> Parts:
    members = tar.getmembers()
    tops = {member.name.partition("/")[0] for member in members}
    names = {member.name.partition("/")[2]: member for member in members}
    if len(tops) != 1 or len(names) != len(members) or not all(member.isfile() for member in members):
        raise Damaged("it is not one folder of files")
    if any(part in ("", ".", "..") for name in names for part in name.split("/")):
        raise Damaged("it has a name that leads out of its folder")
    parts = {
        name: Part(partial(_content, tar, member), digest_of(_content(tar, member))) for name, member in names.items()
    }
    sums = parts.pop(CHECKSUMS, None)
    if sums is None:
        raise Damaged(f"it has no {CHECKSUMS}")
    try:
        listed = checksums(sums.read().decode())
    except ValueError as e:
        raise Damaged(f"{CHECKSUMS}: {e}") from e
    if differing := sorted(
        name for name in {*listed, *parts} if name not in parts or parts[name].digest != listed.get(name)
    ):
        raise Damaged(f"{', '.join(differing)}: missing, changed or not listed in {CHECKSUMS}")
    return parts


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:
        raise Damaged(f"{member.name} is no file")
    return content
