# SPDX-License-Identifier: Apache-2.0
"""Files that a process gets: what a spec may say of them, and the checks that an API server without CEL leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Optional

from praetor_api.backports import StrEnum, dataclass
from praetor_api.constraints import CelRule, Constraint

__all__ = [
    "DEFAULT_MODE",
    "FILES_FEATURE",
    "FILES_RULES",
    "FILES_VARIABLE",
    "FILE_RULES",
    "MAX_CONTENT",
    "SIGNAL_ONLY",
    "File",
    "OnChange",
    "ReloadSignal",
    "files_fault",
]

FILES_FEATURE = "files.v1"
"""What an agent must know to write files for a process: another would start it without them."""

FILES_VARIABLE = "PRAETOR_FILES"
"""The variable by which a process with files gets the path of its own directory."""

MAX_CONTENT = 131_072
"""Most characters of all files of a process together: an object is at most 1 MiB, and a deployment keeps revisions."""

DEFAULT_MODE = 0o644

SIGNAL_ONLY = "signal needs onChange: Signal; write both, or leave signal out"
"""What is said of a signal that is never sent."""

_NO_CONTENT = 'a file needs content; write it, or "" for an empty file'
_DOTS = "path holds . or ..; write where the file is to be, such as conf.d/main.conf"
_TOO_LONG = f"the files of a process may have {MAX_CONTENT} characters together; put larger ones into the artifact"
_IS_DOTS = re.compile(r"(^|/)[.][.]?(/|$)")
_USER = r"[a-zA-Z0-9_][-.a-zA-Z0-9_$]*"


class OnChange(StrEnum):
    """What a running process gets when only the content of a file changed."""

    RESTART = "Restart"
    SIGNAL = "Signal"
    NONE = "None"


class ReloadSignal(StrEnum):
    """Signals by which programs are told to read their files again."""

    HUP = "SIGHUP"
    USR1 = "SIGUSR1"
    USR2 = "SIGUSR2"
    WINCH = "SIGWINCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that the agent writes before the process starts, and removes with it."""

    path: Annotated[
        str,
        Constraint(
            doc="Relative: below the process's own directory, whose path is in the variable PRAETOR_FILES. Absolute: "
            "on the device, in a directory that is there and that its agent allows with --allow-file-root.",
            min_length=1,
            max_length=1024,
            pattern=r"^/?[^/\x00-\x1f\x7f]+(/[^/\x00-\x1f\x7f]+)*$",
            rules=(CelRule(expression="!self.matches('(^|/)[.][.]?(/|$)')", message=_DOTS),),
        ),
    ]
    content: Annotated[
        Optional[str], Constraint(doc="What the file holds, as text in UTF-8.", max_length=MAX_CONTENT)
    ] = None
    mode: Annotated[
        Optional[str],
        Constraint(
            doc='Permissions in octal, in quotes, such as "0640". "0644" when unset.',
            max_length=4,
            pattern=r"^0?[0-7]{3}$",
        ),
    ] = None
    owner: Annotated[
        Optional[str],
        Constraint(
            doc="Owner, as user or user:group, by names or numbers of the device; the process's user when unset.",
            max_length=129,
            pattern=rf"^{_USER}(:{_USER})?$",
        ),
    ] = None
    on_change: Annotated[
        OnChange,
        Constraint(
            doc="What a running process gets when nothing but contents of files changed: Restart; Signal, by which it "
            "reads the file again; or None, where it sees that by itself. One changed file with Restart restarts it."
        ),
    ] = OnChange.RESTART
    signal: Annotated[
        Optional[ReloadSignal], Constraint(doc="Which signal; SIGHUP when unset. Only with onChange: Signal.")
    ] = None


FILE_RULES = (
    CelRule(expression="has(self.content)", message=_NO_CONTENT),
    CelRule(expression="!has(self.signal) || self.onChange == 'Signal'", message=SIGNAL_ONLY),
)
"""Rules over one file."""

FILES_RULES = (
    CelRule(
        expression="!has(self.files) || self.files.map(f, has(f.content) ? size(f.content) : 0).sum() "
        f"<= {MAX_CONTENT}",
        message=_TOO_LONG,
    ),
)
"""Rules over the execution that has the files."""


def files_fault(files: Iterable[tuple[str, str | None]]) -> str | None:
    """Return what is wrong with *files*, each a path and its content, and what to write; None if nothing is.

    These are the rules of the CRD, for an API server that checks none, and that no file is a directory of another.
    """
    seen: set[str] = set()
    size = 0
    for index, (path, content) in enumerate(files):
        where = f"execution.files[{index}]"
        if _IS_DOTS.search(path):
            return f"{where}: {_DOTS}"
        if content is None:
            return f"{where}: {_NO_CONTENT}"
        if path in seen:
            return f"{where}: {path!r} is there twice; write each path once"
        if any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in seen):
            return f"{where}: {path!r} and another path need the same name for a file and a directory; rename one"
        seen.add(path)
        size += len(content)
        if size > MAX_CONTENT:
            return f"{where}: {_TOO_LONG}"
    return None
