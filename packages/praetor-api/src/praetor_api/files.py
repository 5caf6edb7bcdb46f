# SPDX-License-Identifier: Apache-2.0
"""Files that a process gets: what a spec may say of them, and the checks that an API server without CEL leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Optional

from praetor_api.backports import StrEnum, dataclass
from praetor_api.constraints import CelRule, Constraint, matching
from praetor_api.keyrefs import FILE_REFERENCES_FEATURE, ConfigMapKeyRef, SecretKeyRef

__all__ = [
    "DEFAULT_MODE",
    "FILES_FEATURE",
    "FILES_RULES",
    "FILES_VARIABLE",
    "FILE_RULES",
    "MAX_CONTENT",
    "SECRET_MODE",
    "File",
    "OnChange",
    "ReloadSignal",
    "files_fault",
    "mode_of",
]

FILES_FEATURE = "files.v1"
"""What an agent must know to write files for a process: another would start it without them."""

FILES_VARIABLE = "PRAETOR_FILES"
"""The variable by which a process with files gets the path of its own directory."""

MAX_CONTENT = 131_072
"""Most characters of all files of a process together: an object is at most 1 MiB, and a deployment keeps revisions.
As many bytes come from ConfigMaps and Secrets at most."""

DEFAULT_MODE = "0644"
SECRET_MODE = "0600"  # noqa: S105 - permissions

_SIGNAL_ONLY = "signal needs onChange: Signal; write both, or leave signal out"
_ONE_SOURCE = 'write exactly one of content, configMapKeyRef and secretKeyRef; content: "" is an empty file'
_TOO_OPEN = 'a file of a Secret is for its owner alone; write a mode such as "0600" or "0400", or leave mode out'
_DOTS = "path holds . or ..; write where the file is to be, such as conf.d/main.conf"
_TOO_LONG = f"the files of a process may have {MAX_CONTENT} characters together; put larger ones into the artifact"
_SOURCES = ("content", "configMapKeyRef", "secretKeyRef")
_IS_DOTS = re.compile(r"(^|/)[.][.]?(/|$)")
_USER = r"[a-zA-Z0-9_][-.a-zA-Z0-9_$]*"
_PATH = r"^/?[^/\x00-\x1f\x7f]+(/[^/\x00-\x1f\x7f]+)*$"
_MODE = r"^0?[0-7]{3}$"
_OWNER = rf"^{_USER}(:{_USER})?$"
_NO_PATH = "is no path of a file; write one without //, a / at its end or control characters, such as etc/app.conf"
_NO_MODE = 'is no mode; write permissions in octal and in quotes, such as "0640"'
_NO_OWNER = "is no owner; write user or user:group, by names or numbers of the device, such as app:adm"


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
            pattern=_PATH,
            rules=(CelRule(expression="!self.matches('(^|/)[.][.]?(/|$)')", message=_DOTS), matching(_PATH, _NO_PATH)),
        ),
    ]
    content: Annotated[
        Optional[str], Constraint(doc="What the file holds, as text in UTF-8.", max_length=MAX_CONTENT)
    ] = None
    config_map_key_ref: Annotated[
        Optional[ConfigMapKeyRef],
        Constraint(
            doc="A key of a ConfigMap in the process's own namespace, text or not, whose value the file holds.",
            feature=FILE_REFERENCES_FEATURE,
        ),
    ] = None
    secret_key_ref: Annotated[
        Optional[SecretKeyRef],
        Constraint(
            doc="A key of a Secret in the process's own namespace, whose value the file holds. It is given over TLS "
            "only, to a device with a token of its own.",
            feature=FILE_REFERENCES_FEATURE,
        ),
    ] = None
    mode: Annotated[
        Optional[str],
        Constraint(
            doc='Permissions in octal, in quotes, such as "0640". When unset "0644", and "0600" of a Secret, whose '
            "file is for its owner alone.",
            max_length=4,
            pattern=_MODE,
            rules=(matching(_MODE, _NO_MODE),),
        ),
    ] = None
    owner: Annotated[
        Optional[str],
        Constraint(
            doc="Owner, as user or user:group, by names or numbers of the device; the process's user when unset.",
            max_length=129,
            pattern=_OWNER,
            rules=(matching(_OWNER, _NO_OWNER),),
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
    approved: Annotated[
        Optional[str],
        Constraint(
            doc="Set by the controller, of a reference with onChange: Restart: a digest of the content that this "
            "version has. A device gets no other one with it.",
            max_length=64,
            feature=FILE_REFERENCES_FEATURE,
        ),
    ] = None


FILE_RULES = (
    CelRule(
        expression="(has(self.content) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + "
        "(has(self.secretKeyRef) ? 1 : 0) == 1",
        message=_ONE_SOURCE,
    ),
    CelRule(expression="!has(self.secretKeyRef) || !has(self.mode) || self.mode.endsWith('00')", message=_TOO_OPEN),
    CelRule(expression="!has(self.signal) || self.onChange == 'Signal'", message=_SIGNAL_ONLY),
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


def mode_of(file: Mapping[str, Any]) -> str:
    """Return the permissions of *file*, as it is stored, in four octal digits."""
    mode = file.get("mode")
    default = DEFAULT_MODE if file.get("secretKeyRef") is None else SECRET_MODE
    return str(mode).zfill(4) if mode is not None else default


def files_fault(files: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what is wrong with *files*, as they are stored, and what to write; None if nothing is.

    These are the rules of the CRD, for an API server that checks none, and that no file is a directory of another.
    """
    seen: set[str] = set()
    size = 0
    for index, file in enumerate(files):
        where, path = f"execution.files[{index}]", str(file.get("path"))
        if _IS_DOTS.search(path):
            return f"{where}: {_DOTS}"
        wrong = _fault(file)
        if wrong is not None:
            return f"{where}: {wrong}"
        if path in seen:
            return f"{where}: {path!r} is there twice; write each path once"
        if any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in seen):
            return f"{where}: {path!r} and another path need the same name for a file and a directory; rename one"
        seen.add(path)
        size += len(file.get("content") or "")
        if size > MAX_CONTENT:
            return f"{where}: {_TOO_LONG}"
    return None


def _fault(file: Mapping[str, Any]) -> str | None:
    if sum(file.get(source) is not None for source in _SOURCES) != 1:
        return _ONE_SOURCE
    if file.get("secretKeyRef") is not None and not str(file.get("mode") or "00").endswith("00"):
        return _TOO_OPEN
    return _SIGNAL_ONLY if file.get("signal") is not None and file.get("onChange") != OnChange.SIGNAL else None
