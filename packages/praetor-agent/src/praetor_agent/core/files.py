# SPDX-License-Identifier: Apache-2.0
"""The files of a process, as its spec has them: contents, permissions, owners. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace

from praetor_agent.core.allowances import is_within, normal
from praetor_api.files import File, OnChange, ReloadSignal, files_fault
from praetor_api.files import mode_of as stored_mode_of
from praetor_api.protocol import DesiredItem, FileValue
from praetor_api.spec import Backend, Execution
from praetor_api.wire import write


def fault(item: DesiredItem) -> str | None:
    """Return what is wrong with the files of *item*; an API server before 1.25 lets it through."""
    files = item.spec.execution.files
    wrong = files_fault(map(write, files))
    if wrong is not None or not any(map(is_reference, files)):
        return wrong
    if item.file_values is None:
        return "execution.files: the gateway sent no content for references; upgrade praetor-gateway"
    try:
        contents(item)
    except binascii.Error:
        return "execution.files: the gateway sent a content that is not base64"
    return None


def is_reference(file: File) -> bool:
    """Return whether *file* has its content from a ConfigMap or a Secret."""
    return file.config_map_key_ref is not None or file.secret_key_ref is not None


def given(item: DesiredItem) -> Mapping[str, str]:
    """Return in base64 what the files of *item* hold that are references, by their paths."""
    return {value.path: value.content for value in item.file_values or ()}


def completed(item: DesiredItem, current: DesiredItem | None) -> DesiredItem | None:
    """Return *item*, which keeps files, with their contents of the *current* version; None if that lacks one.

    What has the same approved digest has the same content, whichever version it came with.
    """
    kept = item.kept_files or ()
    if current is None or current.kept_files:  # it was found running: what its files hold is not known
        return None
    has = {file.path: file.approved for file in current.spec.execution.files if file.approved}
    wanted = {file.path: file.approved for file in item.spec.execution.files if file.approved}
    if any(path not in wanted or has.get(path) != wanted[path] for path in kept):
        return None
    old = given(current)
    found = {**given(item), **{path: old[path] for path in kept if path in old}}
    values = tuple(
        FileValue(path=each.path, content=found[each.path]) for each in item.spec.execution.files if each.path in found
    )
    return replace(item, file_values=values, kept_files=None)


def contents(item: DesiredItem) -> Mapping[str, bytes]:
    """Return what each file of *item* holds, by its path; an optional one that there is nothing for is left out."""
    values, found = given(item), {}
    for file in item.spec.execution.files:
        if not is_reference(file):
            found[file.path] = (file.content or "").encode("utf-8", "surrogatepass")
        elif file.path in values:
            found[file.path] = base64.b64decode(values[file.path], validate=True)
    return found


def mode_of(file: File) -> int:
    """Return the permissions of *file*."""
    return int(stored_mode_of(write(file)), 8)


def owner_of(file: File, execution: Execution) -> str | None:
    """Return the owner of *file*, by default the user of its process; None for the agent's own user.

    A user of a container is one of its image. Only a number means the same on the device.
    """
    user = execution.user
    known = user is not None and (execution.backend is not Backend.CONTAINER or user.isdigit())
    return file.owner or (user if known else None)


def signal_of(file: File) -> str:
    """Return the signal that the running process gets when the content of *file* changed; "" for none."""
    return (file.signal or ReloadSignal.HUP) if file.on_change is OnChange.SIGNAL else ""


def is_own(path: str) -> bool:
    """Return whether *path* is below the process's own directory."""
    return not path.startswith("/")


def refusal(index: int, path: str, roots: tuple[str, ...], leads_to: str = "") -> str | None:
    """Return why the file *index* may not be at *path*, which *leads_to* another place; None if it may."""
    place = leads_to or path
    if is_within(place, roots):
        return None
    why = f" ({path!r} leads there)" if leads_to else ""
    return (
        f"spec.execution.files[{index}].path: {place!r} is not allowed on this device; write a relative path, or start "
        f"the agent with --allow-file-root {normal(place).rpartition('/')[0] or '/'}{why}"
    )
