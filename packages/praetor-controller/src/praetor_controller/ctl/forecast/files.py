# SPDX-License-Identifier: Apache-2.0
"""What becomes of the files of a process with another template: paths, permissions and sources, no contents. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from praetor_api.files import OnChange, mode_of
from praetor_api.values import references_of

_OWNER = "the process's user"


@frozen
class FileChange:
    """The file *path* and its *change*, in words; its *mode* and *source* in the new template, empty if it goes."""

    path: str
    change: str
    mode: str = ""
    source: str = ""


def file_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[FileChange, ...]:
    """Return how the files of the process spec *new* differ from those of *old*, both as they are stored."""
    return tuple(_changes(old, new))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FileChange]:
    before, after = _files(old), _files(new)
    were, are = _sources(old), _sources(new)
    for path in dict.fromkeys((*before, *after)):
        if path not in after:
            yield FileChange(path, "is removed")
            continue
        file = after[path]
        mode, source = mode_of(file), are[path]
        known = before.get(path)
        if known is None:
            yield FileChange(path, f"is new: {', '.join(_described(file, source))}", mode, source)
        elif words := "; ".join(_differences(known, file, were[path], source)):
            yield FileChange(path, words, mode, source)


def _files(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("path")): each for each in (spec.get("execution") or {}).get("files") or ()}


def _sources(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return where the content of each file comes from, by its path."""
    inline = {path: _inline(file) for path, file in _files(spec).items()}
    return inline | {each.file: str(each.source) for each in references_of(spec) if each.file and each.source}


def _inline(file: Mapping[str, Any]) -> str:
    return f"content ({len(str(file.get('content') or '').encode('utf-8', 'surrogatepass'))} bytes)"


def _described(file: Mapping[str, Any], source: str) -> Iterator[str]:
    yield f"mode {mode_of(file)}"
    if file.get("owner") is not None:
        yield f"owner {file['owner']}"
    yield f"from {source}"
    yield f"onChange {_on_change(file)}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], was: str, source: str) -> Iterator[str]:
    if was != source:
        yield f"from {was} to {source}"
    elif old.get("content") != new.get("content"):
        yield f"other {source}"
    if mode_of(old) != mode_of(new):
        yield f"mode {mode_of(old)} to {mode_of(new)}"
    if old.get("owner") != new.get("owner"):
        yield f"owner {old.get('owner') or _OWNER} to {new.get('owner') or _OWNER}"
    if _on_change(old) != _on_change(new):
        yield f"onChange {_on_change(old)} to {_on_change(new)}"
    optional = [(each.get("configMapKeyRef") or each.get("secretKeyRef") or {}).get("optional") for each in (old, new)]
    if bool(optional[0]) is not bool(optional[1]):
        yield "now optional" if optional[1] else "no longer optional"


def _on_change(file: Mapping[str, Any]) -> str:
    said = str(file.get("onChange") or OnChange.RESTART)
    return f"{said} {file['signal']}" if file.get("signal") is not None else said
