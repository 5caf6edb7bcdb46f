# SPDX-License-Identifier: Apache-2.0
"""The files of a process, as its spec has them: contents, permissions, owners. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from praetor_agent.core.allowances import is_within, normal
from praetor_api.files import DEFAULT_MODE, SIGNAL_ONLY, File, OnChange, ReloadSignal, files_fault
from praetor_api.protocol import DesiredItem
from praetor_api.spec import Backend, Execution


def fault(execution: Execution) -> str | None:
    """Return what is wrong with the files of *execution*; an API server before 1.25 lets it through."""
    for index, file in enumerate(execution.files):
        if file.signal is not None and file.on_change is not OnChange.SIGNAL:
            return f"execution.files[{index}]: {SIGNAL_ONLY}"
    return files_fault((file.path, file.content) for file in execution.files)


def contents(item: DesiredItem) -> Mapping[str, bytes]:
    """Return what each file of *item* holds, by its path."""
    return {file.path: (file.content or "").encode("utf-8", "surrogatepass") for file in item.spec.execution.files}


def mode_of(file: File) -> int:
    """Return the permissions of *file*."""
    return int(file.mode, 8) if file.mode is not None else DEFAULT_MODE


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
