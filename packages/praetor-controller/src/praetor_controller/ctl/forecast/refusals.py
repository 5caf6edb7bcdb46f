# SPDX-License-Identifier: Apache-2.0
"""What a device would refuse of a process spec, by what its agent says that it allows. Pure.

An agent that says nothing of it is not judged, and neither are links on the device, which only the agent follows.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from praetor_api.protocol import AND_MORE, NOTHING_ALLOWED, AllowanceFact

_FREE_NETWORKS = ("host", "none")


def refusals(spec: Mapping[str, Any], facts: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return a sentence for each field of the process spec *spec*, as it is stored, that a device with *facts* refuses.

    Empty where the agent does not say what it allows.
    """
    if facts is None or AllowanceFact.FILE_ROOTS not in facts:
        return ()
    execution = spec.get("execution") or {}
    return (*_of_files(execution, facts), *_of_container(execution.get("container") or {}, facts))


def _of_files(execution: Mapping[str, Any], facts: Mapping[str, str]) -> Iterator[str]:
    for index, file in enumerate(execution.get("files") or ()):
        path = str(file.get("path"))
        if path.startswith("/") and not _is_within(path, _allowed(facts, AllowanceFact.FILE_ROOTS)):
            folder = _normal(path).rpartition("/")[0] or "/"
            yield (
                f"execution.files[{index}].path: {path} is in no directory that is allowed there; write a relative "
                f"path, or start the agent with --allow-file-root {folder}"
            )


def _of_container(container: Mapping[str, Any], facts: Mapping[str, str]) -> Iterator[str]:
    for field, fact in (("volumes", AllowanceFact.VOLUMES), ("devices", AllowanceFact.DEVICES)):
        for index, each in enumerate(container.get(field) or ()):
            path = str(each.get("hostPath"))
            if not _is_within(path, _allowed(facts, fact)):
                yield _not_allowed(f"{field}[{index}].hostPath", path, f"--allow-{field}")
    names = _allowed(facts, AllowanceFact.CAPABILITIES)
    for name in (container.get("capabilities") or {}).get("add") or ():
        if names is not None and not {name.removeprefix("CAP_"), "ALL"} & {*names}:
            yield _not_allowed("capabilities.add", name, "--allow-capabilities")
    network, networks = container.get("network") or _FREE_NETWORKS[0], _allowed(facts, AllowanceFact.NETWORKS)
    if networks is not None and network not in (*networks, *_FREE_NETWORKS):
        yield _not_allowed("network", network, "--allow-networks")
    if container.get("privileged") and facts.get(AllowanceFact.PRIVILEGED) != "true":
        yield _not_allowed("privileged", "true", "--allow-privileged")


def _not_allowed(field: str, value: str, flag: str) -> str:
    return (
        f"execution.container.{field}: {value} is not allowed there; leave it out, or start the agent with {flag} "
        f"{value}"
    )


def _allowed(facts: Mapping[str, str], fact: AllowanceFact) -> Sequence[str] | None:
    """Return what *fact* names; None where it does not name all."""
    names = [each for each in facts.get(fact, NOTHING_ALLOWED).split(",") if each != NOTHING_ALLOWED]
    return None if AND_MORE in names else names


def _is_within(path: str, roots: Iterable[str] | None) -> bool:
    """Return whether *path* is one of *roots* or below one; True where these are not known."""
    return roots is None or any(f"{_normal(path)}/".startswith(f"{root.rstrip('/')}/") for root in roots)


def _normal(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")
